"""Pairs out of sources, and linearised code back into text."""

import ast
import sysconfig
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_code.source_code.linearisation import linearise, restore_lines
from t5x_code.source_code.pairs import extract_pairs, split_code

MARKS = "\x1c\x1d\x1e"
SOURCE = '''
class Stack:
    @property
    def top(self):
        """The last item,
            if any.
        """
        # looked up
        if self.items:
            return self.items[-1]

    def bare(self):
        """Does nothing at all."""

    def plain(self): return 1

    def text(self):
        """Returns a longer text."""
        return """a
        b"""


def outer(x):
    "Doubles a number."
    return x * 2
'''


def test_pairs_by_hand():
    skipped = Counter()
    pairs = list(extract_pairs(SOURCE, skipped))
    assert [(pair.docstring, pair.signature, pair.body) for pair in pairs] == [
        (
            "The last item,\nif any.",
            "@property\ndef top(self):\n",
            "    # looked up\n    if self.items:\n        return self.items[-1]\n",
        ),
        ("Doubles a number.", "def outer(x):\n", "    return x * 2\n"),
    ]
    assert skipped == {
        "function of a docstring alone": 1,
        "function shares a line": 1,
        "method with a text over several lines": 1,
    }


def test_code_of_one_function_is_split_and_other_code_is_not():
    assert split_code('def f(x):\n    """Says."""\n    return x\n') == ("def f(x):\n", "    return x\n")
    for code in ("x = 1\n", "def f():\n    pass\nx = 1\n", "def (", "def g(): pass\ndef f():\n    'Says.'\n    pass\n"):
        assert split_code(code) == ("", code)


@pytest.mark.parametrize(
    ("before", "signature"),
    [
        ("\n", "def f(x):\n"),
        ("\ufeff \n\n", "def f(x):\n"),
        ("# of mine\n", "# of mine\ndef f(x):\n"),
        ("import os\nfrom a import b\n\n", "import os\nfrom a import b\n\ndef f(x):\n"),
    ],
)
def test_a_docstring_is_taken_out_whatever_stands_around_its_function(before, signature):
    code = before + 'def f(x):\n    """Says."""\n    return x\n# end\n'
    assert split_code(code) == (signature, "    return x\n# end\n")


def test_code_that_only_python_can_read_to_its_depth_is_not_split():
    code = f"def f(x):\n    return {' + '.join(['x'] * 1500)}\n"
    ast.parse(code)
    assert split_code(code) == ("", code)


def test_code_that_is_an_indented_method_is_dedented():
    assert split_code('\n    def f(x):\n        """Says."""\n        return x\n') == ("def f(x):\n", "    return x\n")


def test_a_method_whose_texts_go_on_in_another_line_is_left_out():
    for body in ("return 'abc\\\n        def'", "return 1 + \\\n            2"):
        source = f'class A:\n    def f(self):\n        """Says something."""\n        {body}\n'
        assert len(list(extract_pairs(source, skipped := Counter()))) == ("abc" not in body), skipped
    source = 'class A:\n    def f(self, x="""a\n    b"""):\n        """Says something."""\n        return x\n'
    assert not list(extract_pairs(source, Counter()))


@pytest.fixture(scope="module")
def stdlib_texts() -> list[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    return [
        path.read_text()
        for folder in ("email", "asyncio", "logging", "unittest")
        for path in (root / folder).glob("*.py")
    ]


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 13), st.text(alphabet=" \tab:#\r\x0c", max_size=4)), max_size=8))
def test_any_text_survives_linearisation(lines):
    text = "\n".join(" " * spaces + content for spaces, content in lines)
    line = linearise(text, *MARKS)
    assert "\n" not in line
    assert restore_lines(line, *MARKS) == text


def test_the_standard_library_survives_linearisation(stdlib_texts):
    pairs = 0
    for text in stdlib_texts:
        assert restore_lines(linearise(text, *MARKS), *MARKS) == text
        for pair in extract_pairs(text, Counter()):
            code = pair.signature + pair.body
            (function,) = ast.parse(code).body
            assert ast.get_docstring(function) is None and pair.docstring.strip()
            pairs += 1
    assert pairs > 500


def test_indentation_is_one_mark_a_level():
    line = linearise("if a:\n    if b:\n        c\nd\n", "N", "I", "D")
    assert line == "if a:NIif b:NIcNDDdN"
    with pytest.raises(ValueError, match="holds one of the marks"):
        linearise("a\x1cb", *MARKS)
    assert restore_lines("aNDDbNIIcND", "N", "I", "D") == "a\nb\n        c\n"  # a model may write what no text gives
