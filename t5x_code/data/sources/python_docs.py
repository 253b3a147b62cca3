"""English on every machine: Python's documentation topics, the library's docstrings, packages' descriptions.

Of the installed packages only those that t5x_code itself requires are read: installing others changes nothing.
"""

import ast
import importlib.metadata
import inspect
import re
import warnings
from collections import Counter
from collections.abc import Iterator

from etils import epath

from t5x_code.data.declarations import SourceDeclaration
from t5x_code.data.sources import python_stdlib
from t5x_code.data.sources.files import SourceFile, read_text

PACKAGE = "t5x_code"
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def files(source: SourceDeclaration) -> list[SourceFile]:
    """The files that the text is taken from, sorted by name."""
    topics = importlib.import_module("pydoc_data.topics").__file__
    found = [*python_stdlib.files(source), SourceFile("pydoc_data/topics.py", epath.Path(topics))]
    for distribution in _required_distributions():
        metadata = next((file for file in distribution.files or () if file.name == "METADATA"), None)
        if metadata is not None:
            found.append(
                SourceFile(f"packages/{distribution.name}", epath.Path(str(distribution.locate_file(metadata))))
            )
    return sorted(found, key=lambda file: file.name)


def documents(source: SourceDeclaration, text_field: str, skipped: Counter) -> Iterator[str]:
    """One document per topic, per module that has docstrings, and per package."""
    topics = importlib.import_module("pydoc_data.topics").topics
    yield from (topics[name] for name in sorted(topics))
    for file in python_stdlib.files(source):
        for text in read_text(file.path, skipped):
            module = file.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            try:
                described = _docstrings(text, module)
            except (SyntaxError, ValueError):  # the library ships a few broken files for its own tools
                skipped["not Python"] += 1
                continue
            if described:
                yield "\n\n".join(described) + "\n"
    for distribution in _required_distributions():
        description = distribution.metadata.get_payload()
        if description and description.strip():
            yield description


def _docstrings(text: str, module: str) -> list[str]:
    """Each docstring under its qualified name, in the order of the source."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(text)
    described: list[str] = []

    def visit(node: ast.AST, name: str) -> None:
        docstring = ast.get_docstring(node, clean=False)
        if docstring and docstring.strip():
            described.append(f"{name}\n\n{inspect.cleandoc(docstring)}")
        for child in node.body:
            if isinstance(child, DOCUMENTED):
                visit(child, f"{name}.{child.name}")

    visit(tree, module)
    return described


def _required_distributions() -> list[importlib.metadata.Distribution]:
    """What t5x_code requires, and what that requires, extras left out; sorted by name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    names = [PACKAGE]
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # this package run from a checkout, or another platform's
            continue
        requirements = [line for line in found[name].requires or () if "extra ==" not in line]
        names += [re.match(r"[A-Za-z0-9._-]+", line).group() for line in requirements]
    return [found[name] for name in sorted(found) if name != PACKAGE.replace("_", "-")]
