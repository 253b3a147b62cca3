"""A folder of source files, one document each: `text_files:FOLDER?suffix=.py,.pyi`."""

from collections import Counter
from collections.abc import Iterator

from t5x_code.data.declarations import SourceDeclaration
from t5x_code.data.sources.files import SourceFile, find_files, read_text

SUFFIXES = ".py,.c,.h,.cc,.cpp,.cs,.dart,.go,.java,.js,.kt,.lua,.php,.rb,.rs,.scala,.sh,.sql,.swift,.ts,.vue,.md,.txt"


def files(source: SourceDeclaration) -> list[SourceFile]:
    """Files with one of the suffixes (option `suffix`), sorted by name."""
    return find_files(source.path, source.option("suffix", SUFFIXES).split(","))


def documents(source: SourceDeclaration, text_field: str, skipped: Counter) -> Iterator[str]:
    """One document per file."""
    for file in files(source):
        yield from read_text(file.path, skipped)
