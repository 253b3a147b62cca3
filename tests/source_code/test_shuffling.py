"""Broken programs keep their words and differ; tokens are compared with what the languages' own readers give."""

import contextlib
import io
import token
import tokenize
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import PROGRAMS, library_functions

from t5x_code.errors import UserError
from t5x_code.source_code.errors import CannotTransform
from t5x_code.source_code.functions import extract_functions
from t5x_code.source_code.lexing import LANGUAGES, inventory, lex
from t5x_code.source_code.obfuscation import is_same_program
from t5x_code.source_code.shuffling import shuffle_lines, shuffle_tokens
from t5x_code.source_code.transformations import TRANSFORMATIONS, transform


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(params=LANGUAGES)
def language(request):
    if request.param != "python":
        pytest.importorskip("tree_sitter")
    return request.param


def texts(source: str, language: str, kinds: tuple[str, ...]) -> list[str]:
    return [source[x.start : x.end] for x in lex(source, language) if x.kind in kinds]


def test_every_language_is_read(language):
    source = PROGRAMS[language]
    keywords, symbols = (texts(source, language, (kind,)) for kind in ("keyword", "symbol"))
    assert {"return", "if"} <= set(keywords) | {"for"} | ({"if"} if language in ("c", "cpp") else set())
    assert {"(", ")"} <= set(symbols)
    covered = "".join(source[x.start : x.end] for x in lex(source, language))
    assert covered.replace(" ", "") == "".join(source.split())
    comment = {"python": "# small", "java": "// small", "c": "/* c */"}.get(language)
    assert texts(source, language, ("comment",)) == ([comment] if comment else [])


@pytest.mark.parametrize("kind", [kind for kind in TRANSFORMATIONS if kind != "obf"])
def test_a_broken_program_differs_and_is_a_function_of_the_seed(kind, language):
    source = PROGRAMS[language]
    broken = transform(kind, source, language, rng())
    assert broken != source and broken == transform(kind, source, language, rng())


def test_shuffled_tokens_are_the_same_tokens(language):
    source = PROGRAMS[language]
    comments = texts(source, language, ("comment",))
    shuffled = transform("tsh", source, language, rng())
    for comment in comments:
        assert comment in shuffled
        shuffled = shuffled.replace(comment, "")
    tokens = "".join(texts(source, language, ("word", "symbol", "keyword"))).replace(" ", "")
    assert Counter("".join(shuffled.split())) == Counter(tokens)


def test_replacements_are_derangements(language):
    known = inventory(language)
    for kind, words in (("kwr", known.keywords), ("syr", known.symbols)):
        assert len(words) > 20 and len(set(words)) == len(words)
        source = PROGRAMS[language]
        broken = transform(kind, source, language, rng())
        wanted = "keyword" if kind == "kwr" else "symbol"
        for before in texts(source, language, (wanted,)):
            half = len(words) // 2
            assert (words[half:] + words[:half])[words.index(before)] in broken
        untouched = "symbol" if kind == "kwr" else "keyword"
        for text in texts(source, language, (untouched, "word")):
            assert text in broken


def test_python_s_symbols_are_those_of_every_version(monkeypatch):
    before = inventory("python")
    monkeypatch.setattr(token, "EXACT_TOKEN_TYPES", {**token.EXACT_TOKEN_TYPES, "!": 54})  # as since Python 3.12
    assert inventory.__wrapped__("python") == before


@pytest.mark.parametrize("seed", range(20))
def test_shuffled_lines_are_never_the_same_program(seed):
    source = "def f(x):\n    # one\n    # two\n    y = x + 1\n    return y\n"
    shuffled = shuffle_lines(source, "python", rng(seed))
    assert shuffled.index("return y") < shuffled.index("y = x")


@pytest.mark.parametrize(
    "source", ["def f(x):\n    # one\n    return x\n", 'def f(x):\n    """\n    :a\n    :b\n    """\n    return x\n']
)
def test_lines_that_cannot_break_a_program_are_not_shuffled(source):
    for seed in range(20):
        with contextlib.suppress(CannotTransform):
            assert not is_same_program(source, shuffle_lines(source, "python", rng(seed)))


COMMENTED = {  # of the lines behind the header, only two or three are code
    "c": "int f(void) {\n  // one\n  /* two\n     three */\n  g();\n  h(); // four\n}\n",
    "go": "func f() {\n\t// one: g()\n\t// two\n\tg()\n\th()\n}\n",
    "java": "class A {\n  int f() {  // one\n    // two\n    // three\n  }  // four\n}\n",
    "php": "<?php\n# one\n# two\n// three\ng();\nh();\n",
    "ruby": "def f\n  # one\n  # two\n=begin\nthree\n=end\n  g\n  h\nend\n",
}


@pytest.mark.parametrize("language", COMMENTED)
def test_shuffled_lines_of_other_languages_are_other_code(language):
    pytest.importorskip("tree_sitter")
    source, code = COMMENTED[language], ("word", "symbol", "keyword")
    for seed in range(200):
        shuffled = shuffle_lines(source, language, rng(seed))
        with contextlib.suppress(CannotTransform):  # it does not even parse
            assert texts(shuffled, language, code) != texts(source, language, code), shuffled


def test_shuffled_lines_of_a_language_without_a_grammar_are_other_code():
    source = "function f()\n  -- one\n  -- two\n  g()\n  h()\nend\n"
    for seed in range(200):
        shuffled = shuffle_lines(source, "lua", rng(seed)).split("\n")
        assert [line for line in shuffled if "--" not in line] != ["function f()", "  g()", "  h()", "end", ""]


def test_comments_and_braces_alone_are_not_shuffled():
    for body in ("  // one\n  // two\n}\n", "  }\n}\n", "}  /* one */\n} // two\n"):
        with pytest.raises(CannotTransform):
            shuffle_lines("void f() {\n" + body, "c", rng())


@pytest.mark.parametrize("source", ["x = 'a', \"a\"\n", "f(1, 0x1)\n"])
def test_shuffled_tokens_are_never_the_same_program(source):
    for seed in range(100):
        assert not is_same_program(source, shuffle_tokens(source, "python", rng(seed)))


def test_tokens_that_cannot_break_a_program_are_not_shuffled():
    with pytest.raises(CannotTransform):
        shuffle_tokens("'a' \"a\"\n", "python", rng())


def test_python_tokens_are_those_of_the_standard_library():
    for source in library_functions(200):
        expected = [
            part.string
            for part in tokenize.generate_tokens(io.StringIO(source).readline)
            if part.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING)
        ]
        if not any(part.startswith(("f'", 'f"')) for part in expected) and 'f"' not in source and "f'" not in source:
            assert texts(source, "python", ("word", "symbol", "keyword")) == expected


def test_shuffled_lines_differ_and_keep_header_and_multiset():
    checked = 0
    for number, source in enumerate(library_functions(2000)):
        try:
            shuffled = shuffle_lines(source, "python", rng(number))
        except CannotTransform:
            continue
        checked += 1
        header = extract_functions(source)[0].header_end
        assert shuffled[:header] == source[:header] or source[header - 1] != "\n"
        assert Counter(shuffled.split("\n")) == Counter(source.split("\n"))
        assert [line for line in shuffled.split("\n") if line] != [line for line in source.split("\n") if line]
    assert checked > 1500


@given(st.lists(st.sampled_from(["a", "b", "", "  a"]), min_size=2, max_size=12), st.booleans(), st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_any_two_different_lines_can_be_shuffled(lines, ends_with_newline, seed):
    source = "header\n" + "\n".join(lines) + ("\n" if ends_with_newline else "")
    if len({line.strip() for line in lines if line}) < 2:
        with pytest.raises(CannotTransform):
            shuffle_lines(source, "java", rng(seed))
        return
    shuffled = shuffle_lines(source, "java", rng(seed))
    assert [x for x in shuffled.split("\n") if x] != [x for x in source.split("\n") if x]
    assert Counter(shuffled.split("\n")) == Counter(source.split("\n")) and shuffled.startswith("header\n")


def test_an_unknown_language_is_named():
    with pytest.raises(UserError, match="'cobol'; there are python, c,"):
        lex("MOVE A TO B.", "cobol")
