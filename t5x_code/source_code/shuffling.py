"""Breaks programs and keeps their words: to a reader who takes code for a bag of words nothing has changed.

All is deterministic: permutations come from the generator that is passed, and replacements are fixed (the sorted
inventory rotated by half its length, so that nothing is replaced by itself).
"""

import re
from collections.abc import Callable

import numpy as np

from t5x_code.source_code.errors import CannotTransform
from t5x_code.source_code.functions import extract_functions
from t5x_code.source_code.lexing import Lexeme, inventory, lex
from t5x_code.source_code.obfuscation import is_same_program

MAX_DRAWS = 100  # of a permutation that differs: two lines differ after two draws on average
# White space, and what is a comment in one language or another. Where it takes more, more has to differ.
_NO_CODE = re.compile(
    r"\s+|/\*(?:(?!/\*).)*?\*/|^=begin\b(?:(?!^=begin\b).)*?^=end\b|(?://|#|--)[^\n]*", re.DOTALL | re.MULTILINE
)


def shuffle_lines(source: str, language: str, rng: np.random.Generator) -> str:
    """Permutes the lines after the header; each keeps its indentation, the multiset of lines stays.

    The header is, in Python, everything up to the first function's signature; elsewhere the first line that is not
    blank. The order of the lines that are not blank always differs, and not in comments (in Python, docstrings) and
    layout alone.

    Raises:
        CannotTransform: the body has fewer than two different lines, or is the same program in whatever order.
    """
    header, body = _split_header(source, language)
    lines = body.split("\n")
    tail = [lines.pop()] if lines and not lines[-1] else []  # what follows the last newline
    if len({line for line in lines if line.strip()}) < 2:
        raise CannotTransform("its body has fewer than two different lines")
    for _ in range(MAX_DRAWS):
        shuffled = _permute(lines, rng, lambda order: [line for line in order if line.strip()])
        text = header + "\n".join(shuffled + tail)
        if not _is_same_code(source, text, language):
            return text
    raise CannotTransform("its lines are the same program in whatever order")


def shuffle_tokens(source: str, language: str, rng: np.random.Generator) -> str:
    """Permutes the lexical tokens over their places, so that the program differs; white space and comments stay.

    Raises:
        CannotTransform: the program cannot be tokenized, has fewer than two different tokens, or is the same program in
            whatever order.
    """
    lexemes = [lexeme for lexeme in lex(source, language) if lexeme.kind != "comment"]
    texts = [source[lexeme.start : lexeme.end] for lexeme in lexemes]
    if len(set(texts)) < 2:
        raise CannotTransform("it has fewer than two different tokens")
    for _ in range(MAX_DRAWS):
        text = _replace(source, lexemes, _permute(texts, rng, list))
        if not _is_same_code(source, text, language):  # 'a' and "a" are two tokens and one text
            return text
    raise CannotTransform("its tokens are the same program in whatever order")


def replace_keywords(source: str, language: str) -> str:
    """Each keyword becomes another keyword of the language, always the same one.

    Raises:
        CannotTransform: the program cannot be tokenized or has no keyword.
    """
    return _derange(source, language, "keyword", inventory(language).keywords)


def replace_symbols(source: str, language: str) -> str:
    """Each operator and punctuation mark becomes another one, always the same one.

    Raises:
        CannotTransform: the program cannot be tokenized or has no symbol.
    """
    return _derange(source, language, "symbol", inventory(language).symbols)


def _derange(source: str, language: str, kind: str, known: tuple[str, ...]) -> str:
    half = len(known) // 2
    other = dict(zip(known, known[half:] + known[:half], strict=True))
    lexemes = [
        lexeme for lexeme in lex(source, language) if lexeme.kind == kind and source[lexeme.start : lexeme.end] in other
    ]
    if not lexemes:
        raise CannotTransform(f"it has no {kind}")
    return _replace(source, lexemes, [other[source[lexeme.start : lexeme.end]] for lexeme in lexemes])


def _split_header(source: str, language: str) -> tuple[str, str]:
    if language == "python":
        functions = extract_functions(source)
        end = functions[0].header_end if functions else 0
        # A body on the signature's own line has no lines of its own: then all lines are the body.
        end = end if end == 0 or source[end - 1] == "\n" else 0
    else:
        first = re.match(r"\s*[^\n]*\n", source)
        end = first.end() if first else 0
    return source[:end], source[end:]


def _is_same_code(first: str, second: str, language: str) -> bool:
    if language == "python":
        return is_same_program(first, second)
    return _NO_CODE.sub("", first) == _NO_CODE.sub("", second)


def _permute(items: list[str], rng: np.random.Generator, view: Callable[[list[str]], list[str]]) -> list[str]:
    """A permutation whose `view` differs from that of `items`. At least two of the items in the view must differ."""
    for _ in range(MAX_DRAWS):
        permuted = [items[index] for index in rng.permutation(len(items))]
        if view(permuted) != view(items):
            return permuted
    # Nearly all items are equal, so that random draws do not find a difference: exchange the first two that differ.
    shown = [index for index, item in enumerate(items) if view([item])]
    other = next(index for index in shown if items[index] != items[shown[0]])
    permuted = list(items)
    permuted[shown[0]], permuted[other] = permuted[other], permuted[shown[0]]
    return permuted


def _replace(source: str, lexemes: list[Lexeme], texts: list[str]) -> str:
    """The source with other texts in the lexemes' places; touching words are kept apart by a space."""
    pieces, after = [], 0
    for lexeme, text in zip(lexemes, texts, strict=True):
        between = source[after : lexeme.start]
        before = (pieces[-1][-1:] if pieces else "") if not between else between[-1]
        apart = " " if before and _is_word(before) and _is_word(text[0]) else ""
        pieces += [between, apart + text] if between else [apart + text]
        after = lexeme.end
    rest = source[after:]
    return "".join(pieces) + (" " if rest and pieces and _is_word(pieces[-1][-1]) and _is_word(rest[0]) else "") + rest


def _is_word(character: str) -> bool:
    return character.isalnum() or character in "_\"'"
