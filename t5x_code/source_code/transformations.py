"""Changes of a program by kind: those that keep what it does, and those that break it and keep its words.

    obf    user-defined names exchanged, comments and docstrings removed        equivalent     Python
    lsh    lines of the body permuted                                           broken         every language
    tsh    lexical tokens permuted                                              broken         languages of `lexing`
    kwr    keywords exchanged for other keywords                                broken         languages of `lexing`
    syr    operators and punctuation exchanged for others                       broken         languages of `lexing`

The kinds are those of Logically Equivalent Code Selection (arXiv 2404.08885); their exact rules are ours, as the paper
does not give them.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from t5x_code.source_code.errors import CannotTransform
from t5x_code.source_code.obfuscation import obfuscate
from t5x_code.source_code.shuffling import replace_keywords, replace_symbols, shuffle_lines, shuffle_tokens

Transformation = Callable[[str, str, np.random.Generator], str]  # (source, language, generator) -> source


def _obfuscate(source: str, language: str, rng: np.random.Generator) -> str:
    if language != "python":
        raise CannotTransform(f"there is no obfuscation of {language}, only of python")
    result = obfuscate(source)
    if not result.num_renamed:
        raise CannotTransform("the program has no name of its own that may change")
    return result.text


TRANSFORMATIONS: Mapping[str, Transformation] = MappingProxyType(
    {
        "obf": _obfuscate,
        "lsh": shuffle_lines,
        "tsh": shuffle_tokens,
        "kwr": lambda source, language, rng: replace_keywords(source, language),
        "syr": lambda source, language, rng: replace_symbols(source, language),
    }
)


def transform(kind: str, source: str, language: str, rng: np.random.Generator) -> str:
    """A changed program; a pure function of its arguments and the state of `rng`.

    Args:
        kind: a key of `TRANSFORMATIONS`.
        source: the program.
        language: its language's name, such as `python`.
        rng: decides permutations.

    Returns:
        A text that differs from `source`.

    Raises:
        CannotTransform: the program does not parse, is too small, or is not Python and to be obfuscated.
        UserError: `tsh`, `kwr` and `syr` know no such language, or its grammar is not installed.
    """
    return TRANSFORMATIONS[kind](source, language, rng)
