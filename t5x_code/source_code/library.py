"""The running interpreter's standard library, as files and as problems of one solution each: code on every machine."""

import pathlib
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator

from t5x_code.source_code.functions import extract_functions
from t5x_code.source_code.problems import GROUP_END, Problem

# Test suites, what others installed, and the documentation topics, which are prose.
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "pydoc_data"}
MIN_LINES, MAX_LINES = 5, 40  # of a function that is a problem


def library_files() -> list[tuple[str, pathlib.Path]]:
    """Names relative to the library, and paths, of its `.py` files, sorted by name."""
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    found = [path for path in root.rglob("*.py") if not LEFT_OUT & set(path.relative_to(root).parts)]
    return sorted((path.relative_to(root).as_posix(), path) for path in found)


def function_problems(modules: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    """The functions of middling length, each a problem of which it is the only solution.

    Functions of one module share its group, and so a split.

    Args:
        modules: name and text of each.
    """
    for name, source in modules:
        for span in extract_functions(source):
            line = source.rfind("\n", 0, span.start) + 1
            indentation = source[line : span.start]
            text = textwrap.dedent(source[line : span.body_end])
            if not indentation.strip() and MIN_LINES <= text.count("\n") <= MAX_LINES:
                yield Problem(f"{name}{GROUP_END}{span.name}", "python", (text,))


def library_problems() -> Iterator[Problem]:
    """The problems of the standard library."""
    for name, path in library_files():
        try:
            yield from function_problems([(name, path.read_text(encoding="utf-8").replace("\r\n", "\n"))])
        except (OSError, UnicodeDecodeError):
            continue
