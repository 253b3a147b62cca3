"""Hiding spans of a piece behind sentinels, and finding the piece again: what all infilling objectives share.

A file `a b c d e <eod>` with the spans `b` and `d e` hidden becomes

    a <mask_1> c <mask_2> <eod> <sep> <mask_1> b <eom> <mask_2> d e <eom>

A piece grows by 3K + 1 tokens; one that the row's end cuts off also gets an `eod` before `<sep>`, without loss.

Shape legend: L sequence length, N tokens of a piece or targets of a segment, P pieces of a row, K spans of a piece (at
most, where a matrix), S spans of a row, R simulated rows.
"""

import bisect
from collections.abc import Callable, Sequence

import numpy as np

from t5x_code.errors import UserError
from t5x_code.objectives.example import Layout, Piece
from t5x_code.objectives.segments import Segment, plain_segment
from t5x_code.tokens.special_tokens import SpecialTokens

SIMULATED_ROWS = 2000
ROWS_AT_A_TIME = 64  # of those that are simulated: large matrices of many short pieces and one long one would be empty
FITTING_SHARE = 0.99  # of the rows

# (text tokens of each piece [P], whether it is cut [P], generator) -> tokens by which each piece grows [P]
Growth = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def text_lengths(pieces: Sequence[Piece]) -> tuple[np.ndarray, np.ndarray]:
    """Text tokens of each piece, int64 [P], its `eod` not counted, and whether the row's end cuts it off, bool [P]."""
    is_cut_P = np.array([not piece.is_end for piece in pieces], bool)
    return np.array([len(piece.tokens_N) for piece in pieces], np.int64) - ~is_cut_P, is_cut_P


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


def hide_spans(piece: Piece, starts_K: np.ndarray, lengths_K: np.ndarray, special_tokens: SpecialTokens) -> Segment:
    """The piece with these spans hidden, `starts_K` ascending; loss on every position but that of an added `eod`."""
    num_spans = len(lengths_K)
    num_text_tokens = len(piece.tokens_N) - piece.is_end
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


def hide_drawn_spans(
    piece: Piece, lengths_K: np.ndarray, special_tokens: SpecialTokens, rng: np.random.Generator
) -> Segment:
    """The piece with spans of these lengths hidden at drawn places; as it is where there are none."""
    if not len(lengths_K):
        return plain_segment(piece)
    return hide_spans(piece, *place_spans(len(piece.tokens_N) - piece.is_end, lengths_K, rng), special_tokens)


def restore(targets_N: np.ndarray, weights_N: np.ndarray, special_tokens: SpecialTokens) -> np.ndarray:
    """The piece that one segment's targets were made from; the inverse of hiding.

    Args:
      targets_N: int32 targets of one whole segment, plain or with spans hidden.
      weights_N: float32 loss weights; 0 marks the `eod` that was added to a cut piece.

    Raises:
      ValueError: the targets are no such piece.
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


def expansion(lengths_PxK: np.ndarray, is_cut_P: np.ndarray) -> int:
    """Tokens by which a row grows where these spans are hidden."""
    return int(growth_of(np.count_nonzero(lengths_PxK, axis=1), is_cut_P).sum())


def growth_of(num_spans_P: np.ndarray, is_cut_P: np.ndarray) -> np.ndarray:
    """Tokens by which each piece grows: a mask in the text, a mask and `<eom>` around each span, and one `<sep>`."""
    return 3 * num_spans_P + (1 + is_cut_P) * (num_spans_P > 0)


def drop_spans(lengths_PxK: np.ndarray, is_cut_P: np.ndarray, room: int, rng: np.random.Generator) -> np.ndarray:
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


def simulate_raw_length(
    name: str, growth: Growth, layout: Layout, document_lengths_N: np.ndarray, joins_pieces: bool = False
) -> int:
    """The most tokens of the store that a row can take, so that with an objective's growth 99 of 100 rows fit into L.

    The other rows have to grow less than drawn. Rows of the store's own documents are simulated, with a fixed seed.

    Args:
      name: of the objective, for errors.
      growth: how much it makes pieces grow.
      layout: of the rows.
      document_lengths_N: tokens of each of the store's documents.
      joins_pieces: whether a row is one piece, the ends of its documents inside.

    Raises:
      UserError: L is too short for the objective.
    """
    ends_N = np.cumsum(document_lengths_N)

    def fit(raw_length: int) -> bool:
        growths_R = _simulated_growths(growth, ends_N, raw_length, joins_pieces)
        return np.mean(raw_length + growths_R <= layout.length) >= FITTING_SHARE

    raw_length = bisect.bisect_left(range(1, layout.length + 1), True, key=lambda length: not fit(length))
    if raw_length < 1:
        raise UserError(f"a sequence length of {layout.length} leaves {name} no room; set it to 64 or more")
    return raw_length


def _simulated_growths(growth: Growth, ends_N: np.ndarray, raw_length: int, joins_pieces: bool) -> np.ndarray:
    """Tokens by which rows of this length grow, [R]; the rows of a store whose documents end at `ends_N`."""
    rng = np.random.default_rng(0)
    starts_R = rng.integers(0, max(1, ends_N[-1] - raw_length + 1), SIMULATED_ROWS)
    stops_R = np.minimum(starts_R + raw_length, ends_N[-1])
    growths = []
    for first in range(0, SIMULATED_ROWS, ROWS_AT_A_TIME):
        some = slice(first, first + ROWS_AT_A_TIME)
        text_lengths_P, is_cut_P, firsts_R = _simulated_pieces(ends_N, starts_R[some], stops_R[some], joins_pieces)
        growths.append(np.add.reduceat(growth(text_lengths_P, is_cut_P, rng), firsts_R))
    return np.concatenate(growths)


def check_masks(name: str, special_tokens: SpecialTokens) -> None:
    """Raises a UserError where the vocabulary has no masks."""
    if not special_tokens.masks:
        raise UserError(
            f"{name} needs mask tokens, which this tokenizer lacks; choose one with them, or add them when the stores "
            "are made: launch/cache.py --num_masks=100"
        )


def _simulated_pieces(
    ends_N: np.ndarray, starts_R: np.ndarray, stops_R: np.ndarray, joins_pieces: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`text_lengths` of the rows' pieces, row by row, and the first piece of each row.

    Args:
      ends_N: where a store's documents end.
      starts_R: of rows.
      stops_R: of rows, at most the last document's end.
      joins_pieces: see `simulate_raw_length`.
    """
    first_R, last_R = np.searchsorted(ends_N, starts_R, "right"), np.searchsorted(ends_N, stops_R, "left")
    is_cut_R = ends_N[last_R] != stops_R
    if joins_pieces:
        return stops_R - starts_R - ~is_cut_R, is_cut_R, np.arange(len(starts_R))
    counts_R = last_R - first_R + 1
    firsts_R = np.cumsum(counts_R) - counts_R
    row_P = np.repeat(np.arange(len(starts_R)), counts_R)
    document_P = np.arange(len(row_P)) - firsts_R[row_P] + first_R[row_P]
    is_last_P = document_P == last_R[row_P]
    from_P = np.where(document_P == first_R[row_P], starts_R[row_P], ends_N[document_P - 1])
    to_P = np.where(is_last_P, stops_R[row_P], ends_N[document_P])
    is_cut_P = is_last_P & is_cut_R[row_P]
    return to_P - from_P - ~is_cut_P, is_cut_P, firsts_R
