"""Infilling of one gap per document: prefix-suffix-middle and suffix-prefix-middle order (arXiv 2207.14255).

A document is split at two uniform points; its middle is moved to the end.

    codegen2             prefix <mask_1> suffix <eod> <sep> <mask_1> middle <eom>
    starcoder            <fim_prefix> prefix <fim_suffix> suffix <fim_middle> middle <eod>
    starcoder, SPM       <fim_prefix> <fim_suffix> suffix <fim_middle> prefix middle <eod>

Shape legend: N tokens of a piece, P pieces of a row.
"""

import dataclasses
from typing import ClassVar, Literal, get_args

import numpy as np

from t5x_code.errors import UserError, check_choice
from t5x_code.objectives.example import Example, Layout, Piece, Row
from t5x_code.objectives.segments import Segment, lay_out, plain_segment
from t5x_code.objectives.spans import check_masks, hide_spans, simulate_raw_length, text_lengths
from t5x_code.tokens.special_tokens import FIM_TEXTS, FimTokens

Sentinels = Literal["codegen2", "starcoder"]
Split = Literal["token", "character"]
HALVES_GROWTH = 2  # tokens that a cut inside a token adds at most: its halves are three at most (tokens/characters.py)


@dataclasses.dataclass(frozen=True)
class Infill:
    """Each document is infilled with probability `rate`, else next-token prediction; loss on every token.

    Points are uniform over the document, its ends included: prefix, middle or suffix may be empty. `split='character'`
    cuts inside tokens, whose halves are then tokenized separately. A document that the row's end cuts off gets an
    `eod`: with CodeGen2's sentinels before `<sep>` and without loss; with StarCoder's after the middle and with loss,
    because the middle really ends there.
    """

    name: ClassVar[str] = "infill"  # for metrics and streams
    is_causal: ClassVar[bool] = True

    rate: float = 0.9  # of the documents (arXiv 2207.14255)
    spm_rate: float = 0.0  # of the infilled ones: suffix first
    sentinels: Sentinels = "codegen2"
    split: Split = "token"

    def __post_init__(self):
        check_choice("Infill.sentinels", self.sentinels, get_args(Sentinels))
        check_choice("Infill.split", self.split, get_args(Split))
        for name in ("rate", "spm_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"Infill.{name} is {getattr(self, name)}: it is a share, 0 to 1")
        if self.spm_rate and self.sentinels == "codegen2":
            raise UserError("Infill.spm_rate: suffix-prefix-middle order needs sentinels='starcoder'")

    def raw_length(self, layout: Layout, document_lengths_N: np.ndarray) -> int:
        """The most tokens of the store that leave 99 of 100 rows room to infill all that are drawn.

        Raises:
          UserError: the tokenizer lacks the sentinels or does not cut at characters, or L is too short.
        """
        if self.sentinels == "codegen2":
            check_masks("infill", layout.special_tokens)
        elif layout.special_tokens.fim is None:
            raise UserError(f"this tokenizer lacks {' '.join(FIM_TEXTS)}; set Infill.sentinels='codegen2'")
        if self.split == "character" and layout.characters is None:
            raise UserError("Infill.split='character' needs a byte-level tokenizer; set it to 'token'")

        def growth(text_lengths_P: np.ndarray, is_cut_P: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            chosen_P = (rng.random(len(text_lengths_P)) < self.rate) & (text_lengths_P > 0)
            return chosen_P * self._growth(is_cut_P)

        return simulate_raw_length("infill", growth, layout, document_lengths_N)

    def __call__(self, row: Row, layout: Layout, rng: np.random.Generator) -> Example:
        """Infills the row's documents and lays them out."""
        return lay_out(self.infill(row, layout, rng), layout)

    def infill(self, row: Row, layout: Layout, rng: np.random.Generator) -> list[Segment]:
        """One segment per piece. Where the row lacks room to infill all, documents drawn at random stay plain."""
        text_lengths_P, is_cut_P = text_lengths(row.pieces)
        chosen_P = (rng.random(len(row.pieces)) < self.rate) & (text_lengths_P > 0)
        room, growth_P = layout.length - row.num_tokens, self._growth(is_cut_P)
        order_P = rng.permutation(len(row.pieces))
        fits_P = np.cumsum((growth_P * chosen_P)[order_P]) <= room
        chosen_P[order_P] &= fits_P
        return [
            self._infill_piece(piece, layout, rng) if chosen else plain_segment(piece)
            for piece, chosen in zip(row.pieces, chosen_P, strict=True)
        ]

    def _growth(self, is_cut_P: np.ndarray) -> np.ndarray:
        """Tokens by which each piece grows when it is infilled, at most."""
        sentinels = 4 if self.sentinels == "codegen2" else 3
        return sentinels + is_cut_P + 2 * HALVES_GROWTH * (self.split == "character")

    def _infill_piece(self, piece: Piece, layout: Layout, rng: np.random.Generator) -> Segment:
        text_N = piece.tokens_N[: len(piece.tokens_N) - piece.is_end]
        cut = layout.characters.draw_cuts if self.split == "character" else draw_cuts
        text_N, (first, second) = cut(text_N, rng)
        is_spm = rng.random() < self.spm_rate
        if self.sentinels == "codegen2":
            tokens_N = np.concatenate([text_N, piece.tokens_N[len(piece.tokens_N) - piece.is_end :]])
            piece = dataclasses.replace(piece, tokens_N=tokens_N)
            return hide_spans(piece, np.array([first]), np.array([second - first]), layout.special_tokens)
        fim, eod = layout.special_tokens.fim, layout.special_tokens.eod
        parts = (text_N[:first], text_N[first:second], text_N[second:])
        return Segment(piece.lead, arrange(*parts, fim, eod, is_spm), modality_N=piece.modality)


def draw_cuts(text_N: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int]]:
    """Two uniform points between tokens, ends included, ascending; and the text as it is."""
    first, second = np.sort(rng.integers(0, len(text_N) + 1, 2)).tolist()
    return text_N, (first, second)


def arrange(
    prefix_N: np.ndarray, middle_N: np.ndarray, suffix_N: np.ndarray, fim: FimTokens, eod: int, is_spm: bool
) -> np.ndarray:
    """StarCoder's two orders, int32."""
    if is_spm:
        parts = [[fim.prefix, fim.suffix], suffix_N, [fim.middle], prefix_N, middle_N, [eod]]
    else:
        parts = [[fim.prefix], prefix_N, [fim.suffix], suffix_N, [fim.middle], middle_N, [eod]]
    return np.concatenate(parts).astype(np.int32)
