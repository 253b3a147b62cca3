"""The special-token contract: the few ids that objectives and inference need, whatever the tokenizer."""

import dataclasses
import functools
import itertools

EOD_TEXT = "<|endoftext|>"
# What ends a document in other families' tokenizers, looked for in this order.
EOD_TEXTS = (
    EOD_TEXT,
    "</s>",  # Llama
    "<|end_of_text|>",  # Llama 3
    "<eot>",  # PanGu-Coder
    "<\uff5cend\u2581of\u2581sentence\uff5c>",  # DeepSeek
    "<[end\u2581of\u2581sentence]>",  # Seed-Coder
)
SEP_TEXT = "<sep>"
EOM_TEXT = "<eom>"

# Of the modality paper (EACL 2024, arXiv 2402.05783): what frames a docstring-code pair, and linearised code.
NEW_LINE_TEXT = "<NEW_LINE>"
INDENT_TEXT = "<INDENT>"
DEDENT_TEXT = "<DEDENT>"
COMMENTS_TEXT = "<comments>"
PYTHON_TEXT = "<python>"
BEGIN_TEXT = "<|beginoftext|>"
CORRUPTED_TEXT = "<mask>"
PAIR_TEXTS = (BEGIN_TEXT, COMMENTS_TEXT, PYTHON_TEXT, CORRUPTED_TEXT, NEW_LINE_TEXT, INDENT_TEXT, DEDENT_TEXT)

# What stands for the three linearisation tokens in a text that is to be tokenized: characters that no source may hold.
NEW_LINE_MARK, INDENT_MARK, DEDENT_MARK = "\x1c", "\x1d", "\x1e"
MARKS = {NEW_LINE_MARK: NEW_LINE_TEXT, INDENT_MARK: INDENT_TEXT, DEDENT_MARK: DEDENT_TEXT}

# StarCoder's own infill tokens, for suffix-prefix-middle order.
FIM_TEXTS = ("<fim_prefix>", "<fim_middle>", "<fim_suffix>")


def mask_text(k: int) -> str:
    """Text of the k-th mask sentinel, k counted from 1 as CodeGen2 does."""
    return f"<mask_{k}>"


@dataclasses.dataclass(frozen=True)
class PairTokens:
    """Ids of the tokens that frame docstring-code pairs and linearise code."""

    begin: int  # before a signature in PyCodeGPT's layout
    comments: int  # before the docstring
    python: int  # before the code
    corrupted: int  # in place of a corrupted docstring token
    new_line: int
    indent: int
    dedent: int


@dataclasses.dataclass(frozen=True)
class FimTokens:
    """Ids of StarCoder's infill tokens."""

    prefix: int
    middle: int
    suffix: int


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Ids of the control tokens. They never come out of encoding ordinary text.

    A tokenizer without CodeGen2's infilling (Llama's, StarCoder's, ..) has only `eod` of the first four.
    """

    eod: int  # ends every document; before a document's first token it is the beginning-of-text
    sep: int | None = None  # between a corrupted document and its spans
    eom: int | None = None  # ends each infilled span
    masks: tuple[int, ...] = ()  # masks[k - 1] is <mask_k>
    pair: PairTokens | None = None  # where the tokenizer has them all
    fim: FimTokens | None = None  # likewise

    @property
    def infill(self) -> tuple[int, ...]:
        """Every token of CodeGen2's infilling; empty where the tokenizer has none."""
        return (self.sep, self.eom, *self.masks) if self.masks else ()

    @property
    def every_infill(self) -> tuple[int, ...]:
        """Every token of CodeGen2's and StarCoder's infilling; empty where the tokenizer has none."""
        return (*self.infill, *(dataclasses.astuple(self.fim) if self.fim is not None else ()))

    @functools.cached_property
    def all_ids(self) -> tuple[int, ...]:
        """Every control token, ascending."""
        groups = (dataclasses.astuple(group) for group in (self.pair, self.fim) if group is not None)
        return tuple(sorted({self.eod, *self.infill, *itertools.chain(*groups)}))
