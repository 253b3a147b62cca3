"""Span corruption: exact inverse, the format by hand, the distributions, and what happens without room."""

import collections
import itertools

import numpy as np
import pytest
from scipy import stats

from t5x_code.errors import UserError
from t5x_code.objectives.example import Layout, Piece, Row
from t5x_code.objectives.span_corruption import SpanCorruption
from t5x_code.objectives.spans import place_spans, restore
from t5x_code.tokens.special_tokens import SpecialTokens

EOD, SEP, EOM = 0, 1, 2
SPECIAL = SpecialTokens(EOD, SEP, EOM, masks=tuple(range(102, 2, -1)))  # descending, as CodeGen2's are
FIRST_TEXT = 103


def random_piece(length: int, is_end: bool, rng: np.random.Generator, vocabulary: int = 1000) -> Piece:
    tokens_N = rng.integers(FIRST_TEXT, FIRST_TEXT + vocabulary, length + is_end).astype(np.int32)
    tokens_N[length:] = EOD
    return Piece(EOD, tokens_N, True, is_end)


def random_rows(num_rows: int, rng: np.random.Generator):
    """Rows of ten pieces, a third of them tiny, the last one cut off in half of the rows."""
    for _ in range(num_rows):
        lengths = np.where(rng.random(10) < 0.3, rng.integers(0, 4, 10), rng.lognormal(5, 1.3, 10).astype(int))
        ends = [True] * 9 + [bool(rng.random() < 0.5)]
        vocabulary = int(rng.choice([1, 1000]))
        pieces = tuple(
            random_piece(int(length) + (not end), end, rng, vocabulary)
            for length, end in zip(lengths, ends, strict=True)
        )
        yield Row(pieces)


def assert_restored(row: Row, segments) -> None:
    for piece, segment in zip(row.pieces, segments, strict=True):
        weights_N = np.ones(len(segment.targets_N)) if segment.weights_N is None else segment.weights_N
        np.testing.assert_array_equal(restore(segment.targets_N, weights_N, SPECIAL), piece.tokens_N)


def test_ten_thousand_documents_decode_back_each_from_its_own_segment():
    rng = np.random.default_rng(0)
    objective, layout = SpanCorruption(), Layout(1 << 20, SPECIAL)
    corrupted = 0
    for row in random_rows(1000, rng):
        segments, trimmed = objective.corrupt(row, layout, rng)
        assert not trimmed
        assert_restored(row, segments)
        corrupted += sum(SEP in segment.targets_N for segment in segments)
    assert corrupted > 9000  # all but the empty documents


def test_rows_without_room_lose_whole_spans_and_still_decode_back():
    rng = np.random.default_rng(1)
    objective = SpanCorruption()
    for row in random_rows(300, rng):
        layout = Layout(row.num_tokens + int(rng.integers(0, 60)), SPECIAL)
        segments, trimmed = objective.corrupt(row, layout, rng)
        assert_restored(row, segments)
        used = sum(len(segment.targets_N) for segment in segments)
        assert used <= layout.length
        assert not trimmed or layout.length - used < 5  # the next span did not fit: 3 tokens, `<sep>`, `eod`


@pytest.mark.parametrize("is_end", [True, False])
def test_format_by_hand(is_end):
    """A piece that is cut off reads the same, but nothing is learned from its added `eod`."""
    objective, mask = SpanCorruption(0.5, 0.5, max_span=1), SPECIAL.masks[0]
    piece = Piece(7, np.array([201, 202, EOD][: 2 + is_end], np.int32), True, is_end)
    seen = set()
    for seed in range(30):
        example = objective(Row((piece,)), Layout(9, SPECIAL), np.random.default_rng(seed))
        seen.add(tuple(example.targets_L.tolist()))
        assert example.inputs_L.tolist() == [7, *example.targets_L[:6], 0, 0]
        assert example.loss_weights_L.tolist() == [1, 1, float(is_end), 1, 1, 1, 1, 0, 0]
    assert seen == {(mask, 202, EOD, SEP, mask, 201, EOM, 0, 0), (201, mask, EOD, SEP, mask, 202, EOM, 0, 0)}


def test_ratios_and_span_lengths_follow_their_distributions():
    objective, rng = SpanCorruption(), np.random.default_rng(2)
    lengths_PxK = objective.draw_lengths(np.full(10_000, 20_000), max_spans=10_000, rng=rng)
    shares_P = lengths_PxK.sum(axis=1) / 20_000
    assert stats.kstest(shares_P, stats.uniform(0.05, 0.45).cdf).pvalue > 0.01
    for column in (0, 5):  # spans that the sum does not cut
        counts = np.bincount(lengths_PxK[:, column], minlength=65)[1:]
        assert len(counts) == 64 and stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("num_tokens", [0, 1, 2, 3, 10, 63, 64, 65, 5000])
def test_hidden_tokens_are_the_rounded_share(num_tokens):
    objective = SpanCorruption(0.3, 0.3)
    lengths_PxK = objective.draw_lengths(np.full(50, num_tokens), max_spans=10_000, rng=np.random.default_rng(3))
    expected = max(1, round(0.3 * num_tokens)) if num_tokens else 0
    assert set(lengths_PxK.sum(axis=1)) == {expected}
    assert lengths_PxK.max() <= 64
    few_PxK = objective.draw_lengths(np.full(50, num_tokens), max_spans=3, rng=np.random.default_rng(3))
    np.testing.assert_array_equal(few_PxK, lengths_PxK[:, :3])


def test_placements_are_uniform_over_all_without_overlap_or_adjacency():
    num_tokens, spans = 8, (1, 2, 2)
    possible = set()
    for lengths in set(itertools.permutations(spans)):
        for starts in itertools.combinations(range(num_tokens), len(spans)):
            ends = [start + length for start, length in zip(starts, lengths, strict=True)]
            if ends[-1] <= num_tokens and all(end < start for end, start in zip(ends, starts[1:], strict=False)):
                possible.add((starts, lengths))
    rng = np.random.default_rng(4)
    drawn = collections.Counter()
    for _ in range(6000):
        starts_K, lengths_K = place_spans(num_tokens, np.array(spans), rng)
        drawn[tuple(starts_K.tolist()), tuple(lengths_K.tolist())] += 1
    assert set(drawn) == possible
    assert stats.chisquare(list(drawn.values())).pvalue > 0.01


def test_dropped_spans_are_drawn_from_the_whole_row():
    rng = np.random.default_rng(5)
    row = Row(tuple(random_piece(400, True, rng) for _ in range(2)))
    layout = Layout(row.num_tokens + 16, SPECIAL)  # room for four spans of about twelve
    kept = np.zeros(2)
    for _ in range(400):
        segments, trimmed = SpanCorruption(0.5, 0.5).corrupt(row, layout, rng)
        assert trimmed
        kept += [np.count_nonzero(segment.targets_N == EOM) for segment in segments]
    assert abs(kept[0] / kept.sum() - 0.5) < 0.05


def test_restore_refuses_what_is_no_corruption():
    mask, other = SPECIAL.masks[:2]
    with pytest.raises(ValueError, match="masks of the text"):
        restore(np.array([mask, EOD, SEP, other, 300, EOM]), np.ones(6), SPECIAL)


def test_unusable_settings_say_what_to_do():
    lengths_N = np.full(100, 50)
    with pytest.raises(UserError, match="choose one with them, or add them"):
        SpanCorruption().raw_length(Layout(128, SpecialTokens(EOD, SEP, EOM, ())), lengths_N)
    with pytest.raises(UserError, match="sequence length of 4"):
        SpanCorruption().raw_length(Layout(4, SPECIAL), lengths_N)
    with pytest.raises(UserError, match=r"max_ratio <= 0\.5"):
        SpanCorruption(max_ratio=0.6)
    with pytest.raises(UserError, match="max_span is 0"):
        SpanCorruption(max_span=0)
