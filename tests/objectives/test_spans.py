"""How long rows may be, by simulation: as many tokens as leave room for what objectives add, in 99 of 100 rows."""

import numpy as np
import pytest

from t5x_code.objectives.example import Layout
from t5x_code.objectives.infill import Infill
from t5x_code.objectives.span_corruption import SpanCorruption
from t5x_code.objectives.spans import _simulated_pieces
from t5x_code.objectives.ul2 import UL2
from t5x_code.tokens.special_tokens import SpecialTokens

SPECIAL = SpecialTokens(eod=0, sep=1, eom=2, masks=tuple(range(3, 103)))


def pieces_one_by_one(ends_N, start, stop) -> tuple[list[int], list[bool]]:
    """Text tokens of a row's pieces and whether they are cut, token by token."""
    lengths, is_cut, text = [], [], 0
    for token in range(start, stop):
        is_eod = token + 1 in ends_N
        text += not is_eod
        if is_eod or token + 1 == stop:
            lengths.append(text)
            is_cut.append(not is_eod)
            text = 0
    return lengths, is_cut


@pytest.mark.parametrize("seed", range(5))
def test_pieces_of_simulated_rows_are_those_of_real_ones(seed):
    rng = np.random.default_rng(seed)
    ends_N = np.cumsum(rng.integers(1, 9, 60))
    starts_R = rng.integers(0, ends_N[-1] - 20, 30)
    stops_R = starts_R + rng.integers(1, 21, 30)
    lengths_P, is_cut_P, firsts_R = _simulated_pieces(ends_N, starts_R, stops_R, joins_pieces=False)
    joined_R, joined_cut_R, _ = _simulated_pieces(ends_N, starts_R, stops_R, joins_pieces=True)
    of_rows = zip(np.split(lengths_P, firsts_R[1:]), np.split(is_cut_P, firsts_R[1:]), strict=True)
    for row, (lengths, is_cut) in enumerate(of_rows):
        wanted = pieces_one_by_one(set(ends_N.tolist()), starts_R[row], stops_R[row])
        assert (lengths.tolist(), is_cut.tolist()) == wanted
        assert joined_R[row] == stops_R[row] - starts_R[row] - (not is_cut[-1]) and joined_cut_R[row] == is_cut[-1]


@pytest.mark.parametrize("span_lengths", ["uniform", "t5"])
def test_numbers_of_spans_are_those_of_drawn_lengths(span_lengths):
    objective = SpanCorruption(span_lengths=span_lengths)
    text_lengths_P = np.random.default_rng(0).integers(0, 900, 200)
    numbers_P = objective.draw_numbers(text_lengths_P, 10, np.random.default_rng(1))
    lengths_PxK = objective.draw_lengths(text_lengths_P, 10, np.random.default_rng(1))
    np.testing.assert_array_equal(numbers_P, np.count_nonzero(lengths_PxK, axis=1))
    assert numbers_P.max() == 10


def share_too_long(objective, raw_length, layout, ends_N) -> float:
    """Of rows of that length, by what the objective itself would hide in each."""
    rng, too_long = np.random.default_rng(3), 0
    starts = rng.integers(0, ends_N[-1] - raw_length, 1500)
    for start in starts:
        first, last = np.searchsorted(ends_N, [start + 1, start + raw_length])
        bounds = np.array([start, *ends_N[first:last], start + raw_length])
        is_cut_P = np.arange(1, len(bounds)) == (len(bounds) - 1) * (ends_N[last] != start + raw_length)
        text_lengths_P = np.diff(bounds) - ~is_cut_P
        if isinstance(objective, UL2):
            lengths_PxK = objective._draw(text_lengths_P, len(SPECIAL.masks) - 3, rng)[1]
        else:
            lengths_PxK = objective.draw_lengths(text_lengths_P, len(SPECIAL.masks), rng)
        numbers_P = np.count_nonzero(lengths_PxK, axis=1)
        growth_P = 3 * numbers_P + (numbers_P > 0) * (1 + is_cut_P) + isinstance(objective, UL2)
        too_long += raw_length + growth_P.sum() > layout.length
    return too_long / len(starts)


@pytest.mark.parametrize("objective", [SpanCorruption(), SpanCorruption(span_lengths="t5"), UL2()])
def test_one_row_in_a_hundred_is_too_long_and_no_more_fit(objective):
    """UL2's rows of one long document all grow alike: by a token too much, one in ten was too long."""
    layout = Layout(512, SPECIAL)
    lengths_N = np.maximum(4, np.random.default_rng(1).lognormal(6, 1.2, 30000)).astype(int)
    raw_length = objective.raw_length(layout, lengths_N)
    ends_N = np.cumsum(lengths_N)
    assert share_too_long(objective, raw_length, layout, ends_N) < 0.02
    assert share_too_long(objective, raw_length + 6, layout, ends_N) > 0.01


def test_a_store_of_less_than_a_row():
    assert Infill().raw_length(Layout(512, SPECIAL), np.array([100])) == 508  # one document, and four sentinels
