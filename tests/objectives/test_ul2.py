"""UL2's denoisers: how often each is drawn, what it hides, and the token that says which it is."""

import collections

import numpy as np
import pytest

from t5x_code.errors import UserError
from t5x_code.objectives.example import Layout, Piece, Row
from t5x_code.objectives.ul2 import UL2
from t5x_code.tokens.special_tokens import SpecialTokens

SPECIAL = SpecialTokens(eod=0, sep=1, eom=2, masks=tuple(range(3, 103)))
NUM_TOKENS = 400


def test_settings_are_equally_likely_and_led_by_the_token_of_their_mode():
    piece = Piece(SPECIAL.eod, np.append(np.arange(1000, 1000 + NUM_TOKENS), SPECIAL.eod).astype(np.int32), True, True)
    rng, rounds = np.random.default_rng(0), 700
    drawn = collections.Counter()
    for _ in range(rounds):
        (segment,) = UL2().denoise(Row((piece,)), Layout(1024, SPECIAL), rng)
        mode = "RSX"[SPECIAL.masks[-3:].index(segment.targets_N[0])]
        assert segment.weights_N[0] == 0
        if mode == "S":
            unlearnt = np.count_nonzero(segment.weights_N == 0)
            assert not segment.weights_N[:unlearnt].any() and segment.prefix_length == unlearnt + 1
            assert NUM_TOKENS / 2 <= unlearnt <= NUM_TOKENS + 1  # the mode, and all but the end of the document
            drawn[mode] += 1
        else:
            assert segment.weights_N[1:].all()
            tail_N = segment.targets_N[np.flatnonzero(segment.targets_N == SPECIAL.sep)[0] :]
            drawn[mode, np.count_nonzero(tail_N == SPECIAL.eom), np.count_nonzero(tail_N >= 1000)] += 1
    hidden = {("R", 0.15): (3, 8), ("X", 0.5): (3, 8, 64), ("X", 0.15): (64,)}
    settings = {
        (mode, round(share * NUM_TOKENS / span), round(share * NUM_TOKENS))
        for (mode, share), spans in hidden.items()
        for span in spans
    }
    assert set(drawn) == settings | {"S"}
    assert all(abs(count / rounds - 1 / 7) < 0.05 for count in drawn.values()), drawn


def test_masks_are_needed_beside_the_mode_tokens():
    for count in (1, 2, 3):
        layout = Layout(512, SpecialTokens(eod=0, sep=1, eom=2, masks=tuple(range(900, 900 + count))))
        with pytest.raises(UserError, match=f"UL2 has {count} masks, of which 3 serve as mode tokens"):
            UL2().raw_length(layout, np.full(100, 100))
    layout = Layout(512, SpecialTokens(eod=0, sep=1, eom=2, masks=tuple(range(900, 904))))
    assert 0 < UL2().raw_length(layout, np.full(100, 100)) < 512
