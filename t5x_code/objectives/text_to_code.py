"""Text to code: docstring-code pairs in the four forms of modality-relative pre-training (arXiv 2402.05783).

    text_code_clm       loss on all
    code_clm            loss on the code only
    corrupt_code_clm    code_clm, with some of the docstring's input tokens replaced
    prefix_code_clm     code_clm, with the docstring read both ways, up to and including `<python>`

in the layouts of the two backbones, `d` the docstring's tokens (without quotes [ours: PyCodeGPT's had them]), `s` the
signature's and `b` the body's:

    pangu        <comments> d <python> s b <eod>
    pycodegpt    <|beginoftext|> s <comments> d <python> b <eod>      (s in code ids, but no target of code_clm)

Pairs stand whole and isolated in a row; the first token of each is read but is nobody's target.
Shape legend: D documents of a store, N tokens of a pair.
"""

import dataclasses
import functools
from typing import ClassVar, Literal, get_args

import numpy as np

from t5x_code.errors import UserError, check_choice
from t5x_code.objectives.example import DocumentTable, Example, Layout, Piece, Row
from t5x_code.objectives.segments import Segment, lay_out
from t5x_code.tokens.modality import CODE_MODALITY, TEXT_MODALITY
from t5x_code.tokens.special_tokens import SpecialTokens

PAIR_KINDS = ("docstring", "signature", "body")
DOCSTRING, SIGNATURE, BODY = range(3)

Form = Literal["text_code_clm", "code_clm", "corrupt_code_clm", "prefix_code_clm"]
PairLayout = Literal["pangu", "pycodegpt"]


@dataclasses.dataclass(frozen=True)
class TextToCode:
    """One docstring-code pair after the other, whole."""

    max_documents: ClassVar[None] = None  # as many pairs as fit

    form: Form = "code_clm"
    layout: PairLayout = "pangu"
    corruption: float = 0.15  # of the docstring's tokens that corrupt_code_clm replaces
    corrupted_to_mask: float = 0.8  # of those, by `<mask>`; the others by any ordinary token

    def __post_init__(self):
        check_choice("TextToCode.form", self.form, get_args(Form))
        check_choice("TextToCode.layout", self.layout, get_args(PairLayout))
        for name in ("corruption", "corrupted_to_mask"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"TextToCode.{name} is {getattr(self, name)}: it is a share, 0 to 1")

    @property
    def name(self) -> str:
        """Short name for metrics and streams."""
        return self.form

    @property
    def is_causal(self) -> bool:
        """Whether no token sees a later one."""
        return self.form != "prefix_code_clm"

    @property
    def target_modalities(self) -> tuple[int, ...]:
        """The modalities of tokens that have a loss."""
        return (TEXT_MODALITY, CODE_MODALITY) if self.form == "text_code_clm" else (CODE_MODALITY,)

    def packed_lengths(self, layout: Layout, documents: DocumentTable) -> np.ndarray:
        """Targets of each pair, int64 [D]: its parts, its `eod`, and all framing tokens but the first.

        Raises:
          UserError: the task is not one of pairs, or the tokenizer lacks their tokens.
        """
        if documents.kind_names != PAIR_KINDS:
            raise UserError(
                f"{self.name} needs a task of docstring-code pairs, such as python_pairs or jsonl_pairs:PATH; "
                "this one holds other documents"
            )
        if layout.special_tokens.pair is None:
            raise UserError(
                f"{self.name} needs the tokens of docstring-code pairs, which this tokenizer lacks; "
                "make the store without --tokenizer, or extend the tokenizer with `with_pair_tokens`"
            )
        return documents.lengths_D + (1 if self.layout == "pangu" else 2)

    def __call__(self, row: Row, layout: Layout, rng: np.random.Generator) -> Example:
        """Lays the row's pairs out; only corrupt_code_clm draws from `rng`."""
        segments = [self._segment(piece, layout, rng) for piece in row.pieces]
        return lay_out(segments, dataclasses.replace(layout, isolate_documents=True))

    def prompt(
        self, docstring_N: np.ndarray, signature_N: np.ndarray, body_N: np.ndarray, tokens: SpecialTokens
    ) -> np.ndarray:
        """What a model of this layout is given to write a function's body, or the rest of one, int32."""
        pair = tokens.pair
        if self.layout == "pangu":
            return np.concatenate([[pair.comments], docstring_N, [pair.python], signature_N, body_N]).astype(np.int32)
        framed = [[pair.begin], signature_N, [pair.comments], docstring_N, [pair.python], body_N]
        return np.concatenate(framed).astype(np.int32)

    def _segment(self, piece: Piece, layout: Layout, rng: np.random.Generator) -> Segment:
        docstring_end, signature_end = piece.part_ends[DOCSTRING], piece.part_ends[SIGNATURE]
        docstring_N, signature_N = piece.tokens_N[:docstring_end], piece.tokens_N[docstring_end:signature_end]
        body_N = piece.tokens_N[signature_end:]  # with its eod
        pair = layout.special_tokens.pair
        python = np.array([pair.python], np.int32)
        if self.layout == "pangu":
            lead, docstring_start = pair.comments, 0
            targets_N = np.concatenate([docstring_N, python, signature_N, body_N])
        else:
            lead, docstring_start = pair.begin, len(signature_N) + 1
            comments = np.array([pair.comments], np.int32)
            targets_N = np.concatenate([signature_N, comments, docstring_N, python, body_N])
        docstring_stop = docstring_start + len(docstring_N)
        code_start = docstring_stop + 1
        modality_N = np.full(len(targets_N), CODE_MODALITY, np.int32)
        # `<comments>` and `<python>` are predicted from the softmax of what stands before them.
        modality_N[docstring_start:code_start] = TEXT_MODALITY
        weights_N = None
        if self.form != "text_code_clm":
            weights_N = np.ones(len(targets_N), np.float32)
            weights_N[:code_start] = 0.0
        inputs_N = None
        if self.form == "corrupt_code_clm":
            inputs_N = np.concatenate([[lead], targets_N[:-1]]).astype(np.int32)
            inputs_N[1 + docstring_start : 1 + docstring_stop] = self._corrupt(docstring_N, layout, rng)
        prefix_length = code_start + 1 if self.form == "prefix_code_clm" else 0  # inputs up to `<python>`
        return Segment(int(lead), targets_N, weights_N, prefix_length, inputs_N, modality_N)

    def _corrupt(self, docstring_N: np.ndarray, layout: Layout, rng: np.random.Generator) -> np.ndarray:
        """The docstring with some of its ordinary tokens replaced."""
        ordinary, is_ordinary_V = ordinary_ids(layout.special_tokens, layout.vocab_size)
        draws_2xN = rng.random((2, len(docstring_N)))
        replaced_N = np.where(
            draws_2xN[1] < self.corrupted_to_mask,
            layout.special_tokens.pair.corrupted,
            ordinary[rng.integers(0, len(ordinary), len(docstring_N))],
        )
        return np.where((draws_2xN[0] < self.corruption) & is_ordinary_V[docstring_N], replaced_N, docstring_N)


@functools.lru_cache(maxsize=4)
def ordinary_ids(special_tokens: SpecialTokens, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The ids of a vocabulary that are no control tokens, and bool [V] that says which they are."""
    is_ordinary_V = np.ones(vocab_size, bool)
    is_ordinary_V[list(special_tokens.all_ids)] = False
    return np.flatnonzero(is_ordinary_V), is_ordinary_V
