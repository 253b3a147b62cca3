"""Prompts of a model of pairs: a function that is begun is what training shows of it, and goes on where it stands."""

import ast
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from t5x_code.data.sources import pairs
from t5x_code.errors import UserError
from t5x_code.evaluation.teacher_forced import count_bytes
from t5x_code.objectives.pair_codec import PairCodec, split_prompt
from t5x_code.source_code.pairs import FunctionPair
from t5x_code.tokens.tokenizer import Tokenizer

TOKENIZER = Path(__file__).resolve().parents[1] / "golden" / "tokenizer"
SIGNATURE = "@cache\ndef area(r,\n         unit='m'):\n"
DOCSTRING = '    """Area of a circle.\n\n    In "units".\n    """\n'
BODY = """    # of the radius
    sizes = {'m': 1, "km": 1000}

    if unit not in sizes:
        for name in (
                'm',
                'km'):
            text = '''one
              more'''
            raise ValueError("no " + name)

    return 3.14 * r * r
"""


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(str(TOKENIZER)).with_pair_tokens()


@pytest.mark.parametrize("layout", ["pangu", "pycodegpt"])
def test_a_begun_function_is_what_training_shows_of_it_and_goes_on_where_it_stands(tokenizer, layout):
    codec, pair = PairCodec(tokenizer, layout, None), tokenizer.special_tokens.pair
    (document,) = pairs._document(
        FunctionPair(ast.get_docstring(ast.parse(SIGNATURE + DOCSTRING).body[0]), SIGNATURE, BODY), Counter()
    )
    docstring, signature, body = tokenizer.encode_marked_batch([part.text for part in document.parts])
    shown = [[pair.comments], docstring, [pair.python], signature, body]
    if layout == "pycodegpt":
        shown = [[pair.begin], signature, [pair.comments], docstring, [pair.python], body]
    shown = np.concatenate(shown).tolist()
    lines = BODY.splitlines(keepends=True)
    for number in range(len(lines)):
        whole = SIGNATURE + DOCSTRING + "".join(lines[:number])
        for prompt in (whole, whole[:-1], whole + "    "):  # a line's end and its indentation are left to the model
            ids = codec.encode_prompt(prompt).tolist()
            assert ids == shown[: len(ids)], number
            rest = codec.decode_continuation(shown[len(ids) :], prompt)
            if prompt == whole[:-1] or lines[number].startswith("    "):
                assert prompt + rest == SIGNATURE + DOCSTRING + BODY, number
            assert rest.startswith(codec.decode_continuation(shown[len(ids) : len(ids) + 4], prompt).rstrip("\n"))


def test_code_without_a_docstring_goes_on_where_it_stands(tokenizer):
    codec = PairCodec(tokenizer, "pangu", None)
    code = (SIGNATURE + BODY).splitlines(keepends=True)
    shown = codec.encode("".join(code)).tolist()
    for number in range(1, len(code)):
        before = "".join(code[:number])
        for prompt in (before, before[:-1]):  # the line's end is left to the model
            ids = codec.encode_prompt(prompt).tolist()
            assert prompt + codec.decode_continuation(shown[len(ids) :], prompt) == "".join(code)
    assert codec.decode_continuation(codec.encode("return 1").tolist(), "def f():\n    ") == "return 1"


@pytest.mark.parametrize("layout", ["pangu", "pycodegpt"])
def test_a_row_of_pairs_has_the_bytes_of_its_texts(tokenizer, layout):
    """What bits per byte divides by: no pair is indented from where the last one ended."""
    codec, special = PairCodec(tokenizer, layout, None), tokenizer.special_tokens
    signature, docstring, body = "def area(r):\n", "Area:\nin units.\n    m", "    if r:\n        return 3 * r * r\n"
    prompt = f'{signature}    """Area:\n    in units.\n        m"""\n{body}'
    one = [*codec.encode_prompt(prompt).tolist(), special.eod]
    targets = np.array([one * 5, one * 5], np.int32)
    assert codec.decode(one).count("\n") == (signature + docstring + body).count("\n")
    assert count_bytes(codec, targets, np.ones_like(targets)) == 10 * len(signature + docstring + body)


def test_a_code_is_code_whole_or_not(tokenizer):
    """As its embedding is taken, or as a prompt is cut to the context."""
    codec, control = PairCodec(tokenizer, "pangu", None), tokenizer.special_tokens.pair
    for code in (SIGNATURE + DOCSTRING + BODY, SIGNATURE + DOCSTRING):
        assert not {control.comments, control.python} & set(codec.encode(code).tolist())
        assert codec.decode(codec.encode(code)) == code


@pytest.mark.parametrize("end", ["\n", "", "  # a note\n", "\n\n"])
def test_a_prompt_is_split_at_its_last_functions_docstring(end):
    """What stands before the function is in no pair of training."""
    signature = "@cache\nasync def f(x):\n"
    before = f"import re\n\n\ndef other():\n    '''Not this.'''\n    return 1\n\n\n{signature}"
    assert split_prompt(f'{before}    """Doc."""{end}') == (signature, "Doc.", "")
    assert split_prompt(f'{before}    """Doc."""{end or chr(10)}    x = [\n')[2].endswith("    x = [\n")


@pytest.mark.parametrize("indentation", ["  ", "\t", "      "])
def test_a_docstring_may_be_indented_in_any_way(indentation):
    docstring = "".join(f"{indentation}{line}\n" for line in ('"""Doc', "here.", '"""'))
    assert split_prompt(f"def f(\n  x):\n{docstring}") == ("def f(\n  x):\n", "Doc\nhere.", "")


def test_a_text_with_marks_is_refused(tokenizer):
    for encode in (PairCodec(tokenizer, "pangu", None).encode, PairCodec(tokenizer, "pangu", None).encode_prompt):
        with pytest.raises(UserError, match="control characters"):
            encode("x = '\x1d'\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x = 1\n",
        "def f(",
        'def f():\n    """Open',
        "def f():\n    pass\n",
        'class A:\n    """Doc."""\n',
        'def f():\n    """Doc."""\n    return 1\n\n\nx = "a"\n',
        'def f():\n    x = 1\n    """No docstring."""\n',
    ],
)
def test_other_texts_are_code(text):
    assert split_prompt(text) is None
