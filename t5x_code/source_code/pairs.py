"""Docstring-function pairs of Python sources: what a function shall do, in words, and the function."""

import ast
import dataclasses
import io
import re
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterator

from t5x_code.source_code.functions import extract_functions
from t5x_code.source_code.scopes import FUNCTIONS

_BLANK_LINES = re.compile(r"\ufeff?(?:[ \t\f]*\n)*")

# Of a function that is taken [ours; the release filters by parsing, line length and presence of a docstring].
MAX_LINE = 200  # characters
MIN_DOCSTRING = 10


@dataclasses.dataclass(frozen=True)
class FunctionPair:
    """A function without its docstring, `signature + body`, and the docstring. Indented as at top level."""

    docstring: str  # its own indentation removed
    signature: str  # decorators and header, with its last newline
    body: str


def extract_pairs(source: str, skipped: Counter) -> Iterator[FunctionPair]:
    """Pairs of a source text, methods and nested functions included.

    Args:
        source: text of a Python 3 file.
        skipped: counts functions that are left out, by reason.
    """
    for span in extract_functions(source):
        line_start = source.rfind("\n", 0, span.start) + 1
        indentation = source[line_start : span.start]
        before_body = source[source.rfind("\n", 0, span.body_start) + 1 : span.body_start]
        if indentation.strip() or before_body.strip():
            skipped["function shares a line"] += 1
            continue
        signature = _dedent(source[span.start : span.header_end], indentation)
        statement = _dedent(source[span.header_end : span.body_start], indentation)
        body = _dedent(source[span.body_start : span.body_end], indentation)
        if statement and indentation and _holds_long_text(signature, body):
            skipped["method with a text over several lines"] += 1  # its lines are not ours to dedent
            continue
        whole = _function(signature + statement + body)
        docstring = ast.get_docstring(whole) if whole else None
        if docstring is None:
            skipped["function without docstring"] += 1
        elif statement == "" or (bare := _function(signature + body)) is None or ast.get_docstring(bare) is not None:
            skipped["function of a docstring alone"] += 1
        elif max(map(len, (signature + body).split("\n"))) > MAX_LINE:
            skipped["function with a long line"] += 1
        elif len(docstring) < MIN_DOCSTRING:
            skipped["function with a short docstring"] += 1
        else:
            yield FunctionPair(docstring, signature, body if body.endswith("\n") else body + "\n")


def split_code(code: str) -> tuple[str, str]:
    """Signature and body of a text that is one function, without its docstring; else no signature and all of it.

    Comments and imports before the function are part of its signature. One that is indented, as a method may be, is
    dedented, blank lines before it are left out.
    """
    text = code[_BLANK_LINES.match(code).end() :]
    text = _dedent(text, text[: len(text) - len(text.lstrip(" \t"))])
    *before, last = _statements(text) or [None]
    if not isinstance(last, FUNCTIONS) or not all(isinstance(node, ast.Import | ast.ImportFrom) for node in before):
        return "", code
    spans = extract_functions(text)
    if not spans:  # nested too deeply for us, if not for Python
        return "", code
    return text[: spans[0].header_end], text[spans[0].body_start :]


def _holds_long_text(signature: str, body: str) -> bool:
    """Whether a string of a function may go on in another line."""
    if any(quotes in body for quotes in ('"""', "'''")):
        return True
    if not any(mark in signature + body for mark in ('"""', "'''", "\\\n")):
        return False
    parts = (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING))  # the latter: Python 3.12
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(signature + body).readline))
    except (tokenize.TokenError, SyntaxError):
        return True
    return any(token.type in parts and token.start[0] < token.end[0] for token in tokens)


def _function(source: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The one function that a source consists of."""
    statements = _statements(source)
    return statements[0] if len(statements) == 1 and isinstance(statements[0], FUNCTIONS) else None


def _statements(source: str) -> list[ast.stmt]:
    """Those of a source; none where Python cannot read it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _dedent(text: str, indentation: str) -> str:
    """The text without the indentation at the beginning of its lines, where they have it."""
    return "\n".join(line.removeprefix(indentation) for line in text.split("\n"))
