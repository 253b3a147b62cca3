"""What a Python program mentions: its identifiers and texts, and whether it may look names up by them."""

import ast
import re

LOOKS_UP_NAMES = frozenset(
    """__import__ get_type_hints _getframe __annotations__ __code__ __kwdefaults__ __builtins__""".split()  # noqa: SIM905
)
# Builtins that do so; as attributes they are others' (`re.compile`), but for those of the module `builtins`.
LOOKING_BUILTINS = frozenset({"eval", "exec", "globals", "locals", "vars", "dir", "compile"})
# Modules that look up names of programs, or run code that is written in a string.
LOOKING_MODULES = frozenset({"inspect", "builtins", "__main__", "cProfile", "profile", "timeit", "runpy", "code"})


def identifiers(tree: ast.AST) -> set[str]:
    """Every identifier of a program, attributes and keywords included."""
    found: set[str] = set()
    for node in ast.walk(tree):
        for field in ("id", "name", "arg", "attr", "rest", "asname"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                found.add(value)
        if isinstance(node, ast.Global | ast.Nonlocal):
            found.update(node.names)
    return found


def attributes(tree: ast.AST) -> set[str]:
    """The names of its attributes."""
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def strings(tree: ast.AST) -> set[str]:
    """The texts of its literals, docstrings among them."""
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def words_of_annotations(tree: ast.AST) -> set[str]:
    """What stands in the strings of annotations."""
    annotations = [getattr(node, name, None) for node in ast.walk(tree) for name in ("annotation", "returns")]
    texts = set().union(*(strings(node) for node in annotations if node is not None))
    return {word for text in texts for word in re.findall(r"\w+", text)}


def looks_up_names(tree: ast.Module) -> bool:
    """Whether a program may find its own names otherwise than by the scoping rules."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if identifiers(tree) & LOOKS_UP_NAMES or names & LOOKING_BUILTINS:
        return True
    for node in ast.walk(tree):
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if LOOKING_MODULES & {name.partition(".")[0] for name in imported}:
            return True
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            return True
        if isinstance(node, ast.Attribute) and node.attr == "modules":  # of `sys`
            return True
    # `if __name__ == "__main__"` looks up nothing, as "__main__.f" does.
    return any("__main__" in text and text != "__main__" for text in strings(tree))
