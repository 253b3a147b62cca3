"""Where a document is split, and which documents of a row stay plain where not all can grow."""

import collections
import itertools

import numpy as np

from t5x_code.objectives.example import Layout, Piece, Row
from t5x_code.objectives.infill import Infill, draw_cuts
from t5x_code.tokens.special_tokens import SpecialTokens

SPECIAL = SpecialTokens(eod=0, sep=1, eom=2, masks=(3,))


def test_points_are_uniform_with_both_ends():
    rng, rounds = np.random.default_rng(0), 4000
    drawn = collections.Counter(draw_cuts(np.arange(3), rng)[1] for _ in range(rounds))
    assert set(drawn) == set(itertools.combinations_with_replacement(range(4), 2))
    for (first, second), count in drawn.items():
        assert abs(count / rounds - (1 if first == second else 2) / 16) < 0.025


def test_without_room_documents_are_infilled_wherever_they_stand():
    piece = Piece(SPECIAL.eod, np.array([10, 11, 12, SPECIAL.eod], np.int32), True, True)
    rng, rounds = np.random.default_rng(0), 600
    room_for_two = Layout(4 * len(piece.tokens_N) + 2 * 4 + 3, SPECIAL)
    infilled = np.zeros(4)
    for _ in range(rounds):
        segments = Infill(rate=1.0).infill(Row((piece,) * 4), room_for_two, rng)
        is_infilled = [SPECIAL.sep in segment.targets_N for segment in segments]
        assert sum(is_infilled) == 2
        infilled += is_infilled
    assert np.abs(infilled / rounds - 0.5).max() < 0.08
