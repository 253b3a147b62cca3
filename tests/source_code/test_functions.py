"""Functions come out as exact slices; Python's own parser is the oracle."""

import ast
import sysconfig
import warnings
from pathlib import Path

import pytest

from t5x_code.source_code.functions import extract_functions

STYLES = '''\
import functools


@functools.cache  # keeps all
@functools.wraps(len)
def decorated(x: int = (1), *, y="a: b", z=lambda q: {q: 1}) -> "dict[str, int]":  # the header
    """A docstring."""  # and its comment
    # about the body
    return x  # done

async def later(): return "ü€😀"; # ends

def é(
    self,  # not: the colon
    /,
) -> (
    lambda: 0
):
    def inner(a): pass; return a
    if a: return 1; return 2
def only_docstring(): 'x: y'
def same_line(): 'doc'; return 3
class Stack:
    @property
    def top(self):
    \tif 1:
    \t\tdef deep(): \\
            return 4
    \treturn 5

    def last(self, key=lambda: 0):
        return 6'''


def bodies(source):
    return {f.name: source[f.body_start : f.body_end] for f in extract_functions(source)}


def test_every_style_of_function_gives_its_exact_body():
    assert bodies(STYLES) == {
        "decorated": "    # about the body\n    return x  # done\n",
        "later": 'return "ü€😀"; # ends\n',
        "é": "    def inner(a): pass; return a\n    if a: return 1; return 2\n",
        "é.inner": "pass; return a\n",
        "only_docstring": "'x: y'\n",
        "same_line": "return 3\n",
        "Stack.top": "    \tif 1:\n    \t\tdef deep(): \\\n            return 4\n    \treturn 5\n",
        "Stack.top.deep": "return 4\n",
        "Stack.last": "        return 6",
    }
    first, second = extract_functions(STYLES)[:2]
    assert STYLES[first.start :].startswith("@functools.cache")
    assert STYLES[second.start :].startswith("async def later")
    assert STYLES[first.header_end :].startswith('    """A docstring."""')


def test_a_decorator_begins_at_its_line():
    source = "@(\n # mail a@b.c\n cache\n)\ndef f(): pass\n"
    assert [span.start for span in extract_functions(source)] == [0]


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
def test_other_newlines_are_kept(newline):
    source = "x = 'ä'\ndef f(a):\n    b = 'ö'\n    return b\ny = 1\n".replace("\n", newline)
    assert bodies(source) == {"f": f"    b = 'ö'{newline}    return b{newline}"}


@pytest.mark.parametrize("source", ["def f(:\n  pass", "print 'python 2'", "x = 1\0", "def f():\n\ta\n        b\n", ""])
def test_text_that_does_not_parse_has_no_functions(source):
    assert extract_functions(source) == []


def test_a_deep_tree_ends_no_search():
    assert extract_functions("def f(x):\n    return " + " + ".join(["x"] * 1500) + "\n") == []


def test_standard_library_bodies_can_be_replaced_by_a_statement():
    """Exchanging a body for a marker of the same indentation leaves a program whose only change is that body."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[::20]
    checked = 0
    for path in files:
        source = path.read_text(encoding="utf-8", errors="replace")
        spans = extract_functions(source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        assert len(spans) == len(nodes)
        for span in spans[::10]:
            assert span.start < span.header_end <= span.body_start < span.body_end
            body = source[span.body_start : span.body_end]
            first_line = next(line for line in body.splitlines() if line.strip() and line.strip()[0] != "#")
            indent = first_line[: len(first_line) - len(first_line.lstrip())]
            replaced = f"{source[: span.body_start]}{indent}return MARKER\n{source[span.body_end :]}"
            names = [f.name for f in extract_functions(replaced)]
            assert span.name in names, (path, span.name)
            assert bodies(replaced)[span.name].strip() == "return MARKER" or names.count(span.name) > 1
            checked += 1
    assert checked > 20
