"""Finds the functions of a Python source text as exact slices of it, for showing and testing infilling."""

import ast
import dataclasses
import re
import warnings
from collections.abc import Iterator

_NEWLINE = re.compile(r"\r\n|\r|\n")
_REST_OF_LINE = re.compile(r"[ \t\f]*;?[ \t\f]*(?:#[^\r\n]*)?(?:\r\n|\r|\n|\Z)")
# What stands between a signature's last expression and its colon holds no strings, but it may hold comments.
_UP_TO_COLON = re.compile(r"(?:[^:#]+|#[^\r\n]*)*:")

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclasses.dataclass(frozen=True)
class FunctionSpan:
    """Where a function lies in its source, in characters. Its text is `source[start:body_end]`."""

    name: str  # dotted path inside the file, such as `Stack.push`
    start: int  # its first decorator, else its `def` or `async def`, indentation left out
    header_end: int  # after the header's line, or where the body starts if it is on the same line
    body_start: int  # like header_end, but after the docstring when more statements follow it
    body_end: int  # after the last statement's line, comment and newline included


def extract_functions(source: str) -> list[FunctionSpan]:
    """Functions and methods of a Python source, nested ones too, in the order in which they start.

    Args:
        source: text of a Python 3 file.

    Returns:
        Spans with `start < header_end <= body_start < body_end`; empty for a text that Python cannot parse or
        that is nested too deeply.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a corpus is full of invalid escapes
            nodes = list(_walk(ast.parse(source), ()))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    text = _Text(source)
    return [_span(name, node, text) for name, node in nodes]


class _Text:
    """Turns the line and column (UTF-8 bytes) of a syntax node into an offset in characters."""

    def __init__(self, source: str):
        self.source = source
        self._starts = [0, *(match.end() for match in _NEWLINE.finditer(source))]

    def offset(self, line: int, column: int) -> int:
        start = self._starts[line - 1]
        text = self.source[start : start + column]  # at least as many characters as wanted: one takes 1 to 4 bytes
        return start + (column if text.isascii() else len(text.encode()[:column].decode()))

    def start(self, node: ast.AST) -> int:
        return self.offset(node.lineno, node.col_offset)

    def end(self, node: ast.AST) -> int:
        return self.offset(node.end_lineno, node.end_col_offset)

    def after_line(self, offset: int) -> int | None:
        """Start of the next line, or None if more code follows on this one."""
        match = _REST_OF_LINE.match(self.source, offset)
        return match.end() if match else None


def _walk(node: ast.AST, path: tuple[str, ...]) -> Iterator[tuple[str, FunctionNode]]:
    for child in ast.iter_child_nodes(node):
        inside = path
        if isinstance(child, FunctionNode | ast.ClassDef):
            inside = (*path, child.name)
        if isinstance(child, FunctionNode):
            yield ".".join(inside), child
        yield from _walk(child, inside)


def _span(name: str, node: FunctionNode, text: _Text) -> FunctionSpan:
    colon_end = _UP_TO_COLON.match(text.source, _signature_end(node, text)).end()
    first = text.start(node.body[0])
    header_end = _next_statement(colon_end, first, text)
    body_start = header_end
    if len(node.body) > 1 and ast.get_docstring(node, clean=False) is not None:
        body_start = _next_statement(text.end(node.body[0]), text.start(node.body[1]), text)
    last = text.end(node.body[-1])
    return FunctionSpan(
        name=name,
        # The column of a decorator is that of its expression; its line starts with `@`.
        start=_decorator_start(node, text) if node.decorator_list else text.start(node),
        header_end=header_end,
        body_start=body_start,
        body_end=text.after_line(last) or last,
    )


def _signature_end(node: FunctionNode, text: _Text) -> int:
    """End of the last expression of the header: from there the first colon outside comments is the header's own."""
    if node.returns:
        return text.end(node.returns)
    arguments = node.args
    parts = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    parts += [*arguments.defaults, *arguments.kw_defaults, *getattr(node, "type_params", [])]  # the last: Python 3.12
    return max((text.end(part) for part in parts if part is not None), default=text.start(node))


def _next_statement(end: int, statement_start: int, text: _Text) -> int:
    """The next line's start, so that comments belong to what follows; the statement itself when on the same line."""
    line = text.after_line(end)
    return statement_start if line is None else line


def _decorator_start(node: FunctionNode, text: _Text) -> int:
    """The last `@` before the expression that begins a line: between the two there may be a bracket and comments."""
    expression = text.start(node.decorator_list[0])
    at = text.source.rindex("@", 0, expression)
    while text.source[max(text.source.rfind("\n", 0, at), text.source.rfind("\r", 0, at)) + 1 : at].strip():
        at = text.source.rindex("@", 0, at)
    return at
