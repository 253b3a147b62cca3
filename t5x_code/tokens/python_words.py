"""Python's own words, as the entries that partial separation doubles (EACL 2024, arXiv 2402.05783).

They are the language's keywords, operators and builtins, and a short list of common methods and modules: 188 words
[ours: the release has 174]. A word has two forms: with and without the space before it. A form that a vocabulary lacks
becomes an entry of it, so that separation gives it two rows, one for text and one for code; it then stands wherever a
text is cut into exactly that word [ours: the release puts a form without a space also into the middle of longer words,
and one with a space nowhere].
"""

import copy
from typing import Any

# As of Python 3.11, and written out: a model's vocabulary must not follow the interpreter that happens to run.
KEYWORDS = tuple(
    """False None True and as assert async await break case class continue def del elif else except finally for from
    global if import in is lambda match nonlocal not or pass raise return try while with yield""".split()  # noqa: SIM905
)
OPERATORS = tuple(
    """!= % %= & &= ( ) * ** **= *= + += , - -= -> . ... / // //= /= : := ; < << <<= <= = == > >= >> >>= @ @= [ ] ^ ^=
    { | |= } ~""".split()  # noqa: SIM905
)
# Functions and types that need no import; exceptions and what only the interactive interpreter adds are left out.
BUILTIN_NAMES = tuple(
    """Ellipsis NotImplemented abs aiter all anext any ascii bin bool breakpoint bytearray bytes callable chr
    classmethod compile complex delattr dict dir divmod enumerate eval exec filter float format frozenset getattr
    globals hasattr hash hex id input int isinstance issubclass iter len list locals map max memoryview min next
    object oct open ord pow print property range repr reversed round set setattr slice sorted staticmethod str sum
    super tuple type vars zip""".split()  # noqa: SIM905
)
# Methods of the built-in types and parts of the library that nearly every program uses [ours].
COMMON_NAMES = tuple(
    """self cls append extend insert pop remove sort reverse index count join split strip replace format lower upper
    startswith endswith find keys values items get update add isdigit isalpha math re collections itertools
    functools""".split()  # noqa: SIM905
)
BYTE_LEVEL_SPACE = "Ġ"


def python_words() -> list[str]:
    """Python's own tokens: keywords, operators, functions and types that need no import, and `COMMON_NAMES`."""
    return sorted({*KEYWORDS, *OPERATORS, *BUILTIN_NAMES, *COMMON_NAMES})


def python_forms(vocabulary: dict[str, int]) -> list[str]:
    """Entries of a vocabulary that are one of Python's words, with or without a word boundary before it."""
    return [
        form
        for word in python_words()
        for form in (word, f"{BYTE_LEVEL_SPACE}{word}", f"▁{word}")
        if form in vocabulary
    ]


def takes_forms(description: dict[str, Any]) -> bool:
    """Whether a tokenizer.json can be given whole words: a byte-level BPE, which cuts a text into words first."""
    is_byte_level = (description.get("decoder") or {}).get("type") == "ByteLevel"
    model = description["model"]
    kind = model.get("type", "BPE" if "merges" in model else None)  # older files, such as GPT-2's, have no type
    return is_byte_level and kind == "BPE" and description.get("pre_tokenizer") is not None


def with_forms(description: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """A tokenizer.json, for which `takes_forms` holds, with the forms that it lacks, and how many these are.

    All other ids stay. Added tokens become entries of the model too, as they would else be numbered anew behind it.
    """
    description = copy.deepcopy(description)
    model, added = description["model"], description["added_tokens"]
    vocabulary = model["vocab"] | {entry["content"]: entry["id"] for entry in added}
    forms = [form for word in python_words() for form in (word, f"{BYTE_LEVEL_SPACE}{word}")]
    missing = [form for form in forms if form not in vocabulary]
    first = 1 + max(vocabulary.values())
    if missing:
        model["vocab"] = vocabulary | {form: first + number for number, form in enumerate(missing)}
        model["ignore_merges"] = True  # a word that is an entry is taken whole
    return description, len(missing)
