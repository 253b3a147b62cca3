"""The running interpreter's standard library: code that is on every machine."""

from collections import Counter
from collections.abc import Iterator

from etils import epath

from t5x_code.data.declarations import SourceDeclaration
from t5x_code.data.sources.files import SourceFile, read_text
from t5x_code.source_code.library import library_files


def files(source: SourceDeclaration) -> list[SourceFile]:
    """The library's `.py` files, sorted by name."""
    return [SourceFile(name, epath.Path(path)) for name, path in library_files()]


def documents(source: SourceDeclaration, text_field: str, skipped: Counter) -> Iterator[str]:
    """One document per module."""
    for file in files(source):
        yield from read_text(file.path, skipped)
