"""The running interpreter's standard library: code that is on every machine."""

import pathlib
import sysconfig
from collections import Counter
from collections.abc import Iterator

from etils import epath

from t5x_code.data.declarations import SourceDeclaration
from t5x_code.data.sources.files import SourceFile, read_text

# Test suites, what others installed, and the documentation topics, which are prose and belong to `python_docs`.
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "pydoc_data"}


def files(source: SourceDeclaration) -> list[SourceFile]:
    """The library's `.py` files, sorted by name."""
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    found = [
        SourceFile(path.relative_to(root).as_posix(), epath.Path(path))
        for path in root.rglob("*.py")
        if not LEFT_OUT & set(path.relative_to(root).parts)
    ]
    return sorted(found, key=lambda file: file.name)


def documents(source: SourceDeclaration, text_field: str, skipped: Counter) -> Iterator[str]:
    """One document per module."""
    for file in files(source):
        yield from read_text(file.path, skipped)
