"""CodeGen2's file-level span corruption (arXiv 2305.02309): learn to infill while staying a causal decoder.

Spans of each file are hidden as spans.py shows, with a loss on every token. Each file of a row is corrupted by itself,
mask numbers restart in each. The paper gives a dynamic ratio, then uniform span lengths, then locations; bounds and
details are our choice, as it is silent on them. Two variants are for comparison: `across_files` corrupts a row as one
file, ends of documents included (lesson 3 of the paper), and `span_lengths = 't5'` with one ratio is T5's corruption
(arXiv 1910.10683): round(hidden / mean_span) spans, their lengths uniform over all ways to sum up.

Shape legend: L sequence length, N tokens of a piece, P pieces of a row, K spans of a piece (at most, where a matrix).
"""

import dataclasses
from typing import ClassVar, Literal, get_args

import numpy as np

from t5x_code.errors import UserError, check_choice
from t5x_code.objectives.example import Example, Layout, Piece, Row
from t5x_code.objectives.segments import Segment, lay_out
from t5x_code.objectives.spans import (
    check_masks,
    drop_spans,
    expansion,
    growth_of,
    hide_drawn_spans,
    simulate_raw_length,
    text_lengths,
)

SpanLengths = Literal["uniform", "t5"]


@dataclasses.dataclass(frozen=True)
class SpanCorruption:
    """Hides spans of each piece and asks for them behind `<sep>`.

    Of a piece's n tokens (its `eod` not counted, and never hidden) `m = max(1, round(ratio * n))` are hidden. Lengths
    of spans are uniform and sum to m (the last one is cut to fit); their places are uniform over all placements in
    which no two spans touch. A piece without tokens, or without room for a span, stays plain.
    """

    is_causal: ClassVar[bool] = True

    min_ratio: float = 0.05  # of a piece's tokens that are hidden
    max_ratio: float = 0.5  # at most one half, so that the spans always find places apart
    max_span: int = 64  # tokens of a span, where lengths are uniform
    span_lengths: SpanLengths = "uniform"
    mean_span: float = 3.0  # tokens of a span, where lengths are T5's
    across_files: bool = False  # the row is one file, its documents see each other

    def __post_init__(self):
        if not 0 < self.min_ratio <= self.max_ratio <= 0.5:
            raise UserError(
                f"SpanCorruption hides {self.min_ratio} to {self.max_ratio} of a file; "
                "set 0 < min_ratio <= max_ratio <= 0.5"
            )
        check_choice("SpanCorruption.span_lengths", self.span_lengths, get_args(SpanLengths))
        for name in ("max_span", "mean_span"):
            if getattr(self, name) < 1:
                raise UserError(f"SpanCorruption.{name} is {getattr(self, name)}; set it to 1 or more")

    @property
    def name(self) -> str:
        """Short name for metrics and streams."""
        return "span_corruption" + ("_across_files" if self.across_files else "")

    def raw_length(self, layout: Layout, document_lengths_N: np.ndarray) -> int:
        """The most tokens of the store that leave 99 of 100 rows room for all spans; the others hide fewer than drawn.

        Raises:
          UserError: the vocabulary has no masks, or L is too short to corrupt anything.
        """
        check_masks("span corruption", layout.special_tokens)
        max_spans = len(layout.special_tokens.masks)

        def growth(text_lengths_P: np.ndarray, is_cut_P: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return growth_of(self.draw_numbers(text_lengths_P, max_spans, rng), is_cut_P)

        return simulate_raw_length("span corruption", growth, layout, document_lengths_N, self.across_files)

    def __call__(self, row: Row, layout: Layout, rng: np.random.Generator) -> Example:
        """Corrupts each piece of the row and lays them out."""
        segments, _ = self.corrupt(row, layout, rng)
        return lay_out(segments, layout)

    def corrupt(self, row: Row, layout: Layout, rng: np.random.Generator) -> tuple[list[Segment], bool]:
        """Corrupts each piece of the row.

        Returns:
          One segment per piece, and whether spans were dropped for want of room (never cut).
        """
        pieces = (_joined(row),) if self.across_files else row.pieces
        text_lengths_P, is_cut_P = text_lengths(pieces)
        lengths_PxK = self.draw_lengths(text_lengths_P, len(layout.special_tokens.masks), rng)
        room = layout.length - row.num_tokens
        trimmed = expansion(lengths_PxK, is_cut_P) > room
        if trimmed:
            lengths_PxK = drop_spans(lengths_PxK, is_cut_P, room, rng)
        segments = [
            hide_drawn_spans(piece, lengths_K[lengths_K > 0], layout.special_tokens, rng)
            for piece, lengths_K in zip(pieces, lengths_PxK, strict=True)
        ]
        return segments, trimmed

    def draw_numbers(self, text_lengths_P: np.ndarray, max_spans: int, rng: np.random.Generator) -> np.ndarray:
        """Draws how many spans each piece has, int64 [P], as `draw_lengths` makes them."""
        if self.span_lengths == "t5":
            hidden_P = self._draw_hidden(text_lengths_P, rng)
            return np.minimum(self._num_t5_spans(hidden_P, text_lengths_P), max_spans)
        return np.count_nonzero(self.draw_lengths(text_lengths_P, max_spans, rng), axis=1)

    def draw_lengths(self, text_lengths_P: np.ndarray, max_spans: int, rng: np.random.Generator) -> np.ndarray:
        """Draws every piece's span lengths.

        Args:
          text_lengths_P: int64, tokens of each piece without its `eod`.
          max_spans: mask tokens of the vocabulary; a piece's further spans are not hidden.

        Returns:
          int64 lengths_PxK, each row's spans first, then zeros.
        """
        hidden_P = self._draw_hidden(text_lengths_P, rng)
        if self.span_lengths == "t5":
            return self._segmentation(hidden_P, text_lengths_P, rng)[:, :max_spans]
        hidden_Px1 = hidden_P[:, None]
        most_hidden = int(hidden_Px1.max(initial=0))
        width = most_hidden // max(1, self.max_span // 3) + 2  # mostly enough for the sum at the first draw
        sums_PxK = np.cumsum(rng.integers(1, self.max_span + 1, (len(text_lengths_P), width)), axis=1)
        while (sums_PxK[:, -1:] < hidden_Px1).any():
            more_PxK = np.cumsum(rng.integers(1, self.max_span + 1, (len(text_lengths_P), width)), axis=1)
            sums_PxK = np.hstack([sums_PxK, sums_PxK[:, -1:] + more_PxK])
        return np.diff(np.minimum(sums_PxK, hidden_Px1), axis=1, prepend=0)[:, :max_spans]

    def _draw_hidden(self, text_lengths_P: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """How many tokens of each piece are hidden."""
        ratios_P = rng.uniform(self.min_ratio, self.max_ratio, len(text_lengths_P))
        return np.maximum(np.rint(ratios_P * text_lengths_P).astype(np.int64), np.minimum(text_lengths_P, 1))

    def _num_t5_spans(self, hidden_P: np.ndarray, text_lengths_P: np.ndarray) -> np.ndarray:
        most_P = np.minimum(hidden_P, text_lengths_P - hidden_P + 1)  # spans that find places apart
        return np.clip(np.rint(hidden_P / self.mean_span).astype(np.int64), np.minimum(hidden_P, 1), most_P)

    def _segmentation(self, hidden_P: np.ndarray, text_lengths_P: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """T5's span lengths: hidden tokens cut at K - 1 of the places between them, uniformly over all ways."""
        num_spans_P = self._num_t5_spans(hidden_P, text_lengths_P)
        lengths_PxK = np.zeros((len(hidden_P), int(num_spans_P.max(initial=0))), np.int64)
        for row, (hidden, num_spans) in enumerate(zip(hidden_P.tolist(), num_spans_P.tolist(), strict=True)):
            if num_spans:
                cuts = np.sort(rng.permutation(hidden - 1)[: num_spans - 1]) + 1
                lengths_PxK[row, :num_spans] = np.diff(cuts, prepend=0, append=hidden)
        return lengths_PxK


def _joined(row: Row) -> Piece:
    """The row as one piece, the ends of its documents inside."""
    first, last = row.pieces[0], row.pieces[-1]
    tokens_N = np.concatenate([piece.tokens_N for piece in row.pieces])
    return Piece(first.lead, tokens_N, first.is_start, last.is_end, first.modality)
