"""Docstring-function pairs of Python sources: what a function shall do, in words, and the function."""

import ast
import dataclasses
import warnings
from collections import Counter
from collections.abc import Iterator

from t5x_code.source_code.functions import extract_functions

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
        if statement and indentation and any(quotes in body for quotes in ('"""', "'''")):
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
    """Signature and body of a text that is one function, without its docstring; else no signature and all of it."""
    spans = extract_functions(code)
    if not spans or spans[0].start or spans[0].body_end < len(code.rstrip()):
        return "", code
    span = spans[0]
    return code[: span.header_end], code[span.body_start :]


def _function(source: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The one function that a source consists of."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return body[0] if len(body) == 1 and isinstance(body[0], ast.FunctionDef | ast.AsyncFunctionDef) else None


def _dedent(text: str, indentation: str) -> str:
    """The text without the indentation at the beginning of its lines, where they have it."""
    return "\n".join(line.removeprefix(indentation) for line in text.split("\n"))
