"""CodeGen2's file-level span corruption (arXiv 2305.02309): learn to infill while staying a causal decoder.

A file `a b c d e <eod>` with the spans `b` and `d e` hidden becomes

    a <mask_1> c <mask_2> <eod> <sep> <mask_1> b <eom> <mask_2> d e <eom>

with a loss on every token. Each file of a row is corrupted by itself, mask numbers restart in each. The paper gives a
dynamic ratio, then uniform span lengths, then locations; bounds and details are our choice, as it is silent on them.

Shape legend: L sequence length, N tokens of a piece, P pieces of a row, K spans of a piece (at most, where a matrix).
"""

import dataclasses

import numpy as np

from t5x_code.errors import UserError
from t5x_code.objectives.example import Example, Layout, Piece, Row
from t5x_code.objectives.segments import Segment, lay_out
from t5x_code.tokens.special_tokens import SpecialTokens

SIMULATED_ROWS = 2000
SIMULATION_ROUNDS = 3  # they close in from both sides; an odd number ends on the side with more room


@dataclasses.dataclass(frozen=True)
class SpanCorruption:
    """Hides spans of each piece and asks for them behind `<sep>`.

    Of a piece's n tokens (its `eod` not counted, and never hidden) `m = max(1, round(ratio * n))` are hidden, in spans
    of uniform length that sum to m (the last drawn is cut to fit), at places uniform over all without two adjacent
    spans. A piece grows by 3K + 1 tokens; one that the row's end cuts off also gets an `eod` before `<sep>`, without
    loss. A piece without tokens, or without room for a span, stays plain.
    """

    min_ratio: float = 0.05  # of a piece's tokens that are hidden
    max_ratio: float = 0.5  # at most one half, so that the spans always find places apart
    max_span: int = 64  # tokens of a span

    def __post_init__(self):
        if not 0 < self.min_ratio <= self.max_ratio <= 0.5:
            raise UserError(
                f"SpanCorruption hides {self.min_ratio} to {self.max_ratio} of a file; "
                "set 0 < min_ratio <= max_ratio <= 0.5"
            )
        if self.max_span < 1:
            raise UserError(f"SpanCorruption.max_span is {self.max_span}; set it to 1 or more")

    @property
    def name(self) -> str:
        """Short name for metrics and streams."""
        return "span_corruption"

    def raw_length(self, layout: Layout, document_lengths_N: np.ndarray) -> int:
        """L less the 99th percentile of the expansion, found by corrupting rows of the store's own documents.

        About one row in a hundred then hides fewer spans than drawn. The simulation has its own fixed seed.

        Raises:
          UserError: the vocabulary has no masks, or L is too short to corrupt anything.
        """
        max_spans = len(layout.special_tokens.masks)
        if not max_spans:
            raise UserError(
                "span corruption needs mask tokens, which this tokenizer lacks; choose a tokenizer with them"
            )
        ends_N = np.cumsum(document_lengths_N)
        raw_length = layout.length
        for _ in range(SIMULATION_ROUNDS):
            rng = np.random.default_rng(0)
            starts = rng.integers(0, max(1, ends_N[-1] - raw_length + 1), SIMULATED_ROWS)
            expansions = []
            for start in starts.tolist():
                text_lengths_P, is_cut_P = _text_lengths(ends_N, start, min(start + raw_length, int(ends_N[-1])))
                expansions.append(_expansion(self.draw_lengths(text_lengths_P, max_spans, rng), is_cut_P))
            raw_length = layout.length - int(np.percentile(expansions, 99, method="higher"))
            if raw_length < 1:
                raise UserError(
                    f"a sequence length of {layout.length} leaves span corruption no room; set it to 64 or more"
                )
        return raw_length

    def __call__(self, row: Row, layout: Layout, rng: np.random.Generator) -> Example:
        """Corrupts each piece of the row and lays them out."""
        segments, _ = self.corrupt(row, layout, rng)
        return lay_out(segments, layout)

    def corrupt(self, row: Row, layout: Layout, rng: np.random.Generator) -> tuple[list[Segment], bool]:
        """Corrupts each piece of the row.

        Returns:
          One segment per piece, and whether spans were dropped for want of room (never cut).
        """
        special_tokens = layout.special_tokens
        text_lengths_P = np.array([len(piece.tokens_N) - piece.is_end for piece in row.pieces], np.int64)
        is_cut_P = np.array([not piece.is_end for piece in row.pieces], bool)
        lengths_PxK = self.draw_lengths(text_lengths_P, len(special_tokens.masks), rng)
        room = layout.length - row.num_tokens
        trimmed = _expansion(lengths_PxK, is_cut_P) > room
        if trimmed:
            lengths_PxK = _drop_spans(lengths_PxK, is_cut_P, room, rng)
        segments = [
            _corrupt_piece(piece, lengths_K[lengths_K > 0], special_tokens, rng)
            for piece, lengths_K in zip(row.pieces, lengths_PxK, strict=True)
        ]
        return segments, trimmed

    def draw_lengths(self, text_lengths_P: np.ndarray, max_spans: int, rng: np.random.Generator) -> np.ndarray:
        """Draws every piece's span lengths.

        Args:
          text_lengths_P: int64, tokens of each piece without its `eod`.
          max_spans: mask tokens of the vocabulary; a piece's further spans are not hidden.

        Returns:
          int64 lengths_PxK, each row's spans first, then zeros.
        """
        ratios_P = rng.uniform(self.min_ratio, self.max_ratio, len(text_lengths_P))
        hidden_P = np.rint(ratios_P * text_lengths_P).astype(np.int64)
        hidden_Px1 = np.maximum(hidden_P, np.minimum(text_lengths_P, 1))[:, None]
        most_hidden = int(hidden_Px1.max(initial=0))
        width = most_hidden // max(1, self.max_span // 3) + 2  # mostly enough for the sum at the first draw
        sums_PxK = np.cumsum(rng.integers(1, self.max_span + 1, (len(text_lengths_P), width)), axis=1)
        while (sums_PxK[:, -1:] < hidden_Px1).any():
            more_PxK = np.cumsum(rng.integers(1, self.max_span + 1, (len(text_lengths_P), width)), axis=1)
            sums_PxK = np.hstack([sums_PxK, sums_PxK[:, -1:] + more_PxK])
        return np.diff(np.minimum(sums_PxK, hidden_Px1), axis=1, prepend=0)[:, :max_spans]


def place_spans(num_tokens: int, lengths_K: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Places spans in random order, uniformly over all placements without overlap or adjacency.

    Stars and bars: a placement is a choice of K distinct slots among the gaps between the tokens that stay, both ends
    included.

    Returns:
      starts_K ascending, and lengths_K in that order.
    """
    num_slots = num_tokens - int(lengths_K.sum()) + 1
    slots_K = rng.choice(num_slots, len(lengths_K), replace=False)  # in random order, which also permutes the lengths
    order_K = np.argsort(slots_K)
    lengths_K = lengths_K[order_K]
    return slots_K[order_K] + np.cumsum(lengths_K) - lengths_K, lengths_K


def restore(targets_N: np.ndarray, weights_N: np.ndarray, special_tokens: SpecialTokens) -> np.ndarray:
    """The piece that one segment's targets were made from; the inverse of corruption.

    Args:
      targets_N: int32 targets of one whole segment, plain or corrupted.
      weights_N: float32 loss weights; 0 marks the `eod` that was added to a cut piece.

    Raises:
      ValueError: the targets are no corrupted piece.
    """
    (separators,) = np.nonzero(targets_N == special_tokens.sep)
    if not len(separators):
        return targets_N
    body_N, tail_N = np.split(targets_N[weights_N > 0], separators - np.count_nonzero(weights_N == 0))
    tail_N = tail_N[1:]
    (ends_K,) = np.nonzero(tail_N == special_tokens.eom)
    starts_K = np.concatenate([[0], ends_K[:-1] + 1])
    masks_K = np.array(special_tokens.masks[: len(ends_K)])
    (holes_K,) = np.nonzero(np.isin(body_N, special_tokens.masks))
    if not np.array_equal(body_N[holes_K], masks_K) or not np.array_equal(tail_N[starts_K], masks_K):
        raise ValueError("masks of the text and masks of the spans differ")
    spans = [tail_N[start + 1 : end] for start, end in zip(starts_K, ends_K, strict=True)]
    texts = np.split(body_N, holes_K)
    return np.concatenate(
        [texts[0], *(part for span, text in zip(spans, texts[1:], strict=True) for part in (span, text[1:]))]
    )


def _corrupt_piece(
    piece: Piece, lengths_K: np.ndarray, special_tokens: SpecialTokens, rng: np.random.Generator
) -> Segment:
    """The piece with spans of these lengths hidden; as it is where there are none."""
    num_spans = len(lengths_K)
    if not num_spans:
        return Segment(piece.lead, piece.tokens_N, modality_N=piece.modality)
    num_text_tokens = len(piece.tokens_N) - piece.is_end
    starts_K, lengths_K = place_spans(num_text_tokens, lengths_K, rng)
    masks_K = np.array(special_tokens.masks[:num_spans], np.int32)
    eod, sep, eom = np.array([[special_tokens.eod], [special_tokens.sep], [special_tokens.eom]], np.int32)
    body, tail, after = [], [], 0
    for k, (start, length) in enumerate(zip(starts_K.tolist(), lengths_K.tolist(), strict=True)):
        mask = masks_K[k : k + 1]
        body += (piece.tokens_N[after:start], mask)
        after = start + length
        tail += (mask, piece.tokens_N[start:after], eom)
    body.append(piece.tokens_N[after:])
    if piece.is_end:
        return Segment(piece.lead, np.concatenate([*body, sep, *tail]), modality_N=piece.modality)
    targets_N = np.concatenate([*body, eod, sep, *tail])
    weights_N = np.ones(len(targets_N), np.float32)
    weights_N[num_text_tokens - int(lengths_K.sum()) + num_spans] = 0.0  # the piece does not end there in truth
    return Segment(piece.lead, targets_N, weights_N, modality_N=piece.modality)


def _expansion(lengths_PxK: np.ndarray, is_cut_P: np.ndarray) -> int:
    """Tokens by which a row grows: a mask in the text, a mask and `<eom>` around each span, and `<sep>` per piece."""
    num_spans_P = np.count_nonzero(lengths_PxK, axis=1)
    return int(3 * num_spans_P.sum() + ((1 + is_cut_P) * (num_spans_P > 0)).sum())


def _drop_spans(lengths_PxK: np.ndarray, is_cut_P: np.ndarray, room: int, rng: np.random.Generator) -> np.ndarray:
    """Keeps spans, taken in random order from the whole row, for as long as the row's expansion stays within `room`."""
    pieces_S, columns_S = np.nonzero(lengths_PxK)
    order_S = rng.permutation(len(pieces_S))
    pieces_S, columns_S = pieces_S[order_S], columns_S[order_S]
    costs_S = np.full(len(pieces_S), 3)
    firsts_P = np.unique(pieces_S, return_index=True)[1]  # a piece's first span also brings `<sep>`, and `eod` if cut
    costs_S[firsts_P] += 1 + is_cut_P[pieces_S[firsts_P]]
    kept_S = np.cumsum(costs_S) <= room
    kept_PxK = np.zeros_like(lengths_PxK)
    kept_PxK[pieces_S[kept_S], columns_S[kept_S]] = lengths_PxK[pieces_S[kept_S], columns_S[kept_S]]
    return kept_PxK


def _text_lengths(ends_N: np.ndarray, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Cuts the tokens [start, stop) of a store at document ends: each piece's text tokens, and whether it is cut."""
    first, last = np.searchsorted(ends_N, start, "right"), np.searchsorted(ends_N, stop, "left")
    lengths_P = np.diff(np.concatenate([[start], ends_N[first:last], [stop]]))
    is_cut_P = np.zeros(len(lengths_P), bool)
    is_cut_P[-1] = ends_N[last] != stop
    return lengths_P - ~is_cut_P, is_cut_P
