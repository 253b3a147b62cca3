"""Mixing by index: nothing skipped or repeated, shares as asked for, Grain's own mixing where it has one."""

import grain
import numpy as np
import pytest
from memory_store import EOD, MemoryStore, random_lengths

from t5x_code.data.mixing import BLOCK, plan_mixing
from t5x_code.data.streams import Stream
from t5x_code.errors import UserError
from t5x_code.objectives.causal_lm import CausalLM
from t5x_code.objectives.example import Layout
from t5x_code.recipes.inputs import Inputs, training_rows
from t5x_code.recipes.recipe import DataConfig
from t5x_code.tokens.special_tokens import SpecialTokens


def selections(rates, rows):
    mixing = plan_mixing([f"s{i}" for i in range(len(rates))], rates)
    return np.array([mixing.select(row) for row in rows])


@pytest.mark.parametrize(
    "rates",
    [
        (1.0,),
        (0.5, 0.5),
        (0.7, 0.2, 0.1, 1e-4),
        (3, 1 / 3, 1 / 7),
        (((0, 1.0), (30_000, 0.0)), ((0, 0.0), (30_000, 2.0))),
        (((5_000, 0.0), (15_000, 1.0), (15_001, 0.2)), 0.5, ((0, 0.3),)),
    ],
)
def test_each_stream_gives_its_rows_in_order_and_without_gaps(rates):
    chosen = selections(rates, range(4 * BLOCK))
    for stream in range(len(rates)):
        indices = chosen[chosen[:, 0] == stream, 1]
        np.testing.assert_array_equal(indices, np.arange(len(indices)))


@pytest.mark.parametrize("weights", [(1, 1), (1, 3), (2, 1, 1), (4, 2, 1, 1)])
def test_constant_rates_are_mixed_as_grain_mixes_them(weights):
    parents = [grain.MapDataset.range(stream * 10**6, stream * 10**6 + 20_000) for stream in range(len(weights))]
    expected = grain.MapDataset.mix(parents, weights)
    rows = range(0, 20_000, 7)
    assert [divmod(expected[row], 10**6) for row in rows] == [
        tuple(pair) for pair in selections(weights, rows).tolist()
    ]


def test_shares_hold_in_every_window():
    streams = selections((0.6, 0.3, 0.1), range(3 * BLOCK))[:, 0]
    for stream, share in enumerate((0.6, 0.3, 0.1)):
        counts = np.cumsum(streams == stream)
        assert np.abs(counts - share * np.arange(1, 3 * BLOCK + 1)).max() < 3


def test_a_schedule_is_followed_and_then_held():
    last = 20 * BLOCK
    mixing = plan_mixing(["code", "text"], [((0, 0.0), (last, 1.0)), ((0, 1.0), (last, 0.0))])
    for row in (last // 4, last // 2, 3 * last // 4, last):
        selected = [mixing.select(row + i) for i in range(200)]
        assert abs(np.mean([stream == 0 for stream, _ in selected]) - min(row / last, 1)) < 0.01
    expected = last / 2  # the area under the ramp
    stream, index = mixing.select(last + 10**12)
    assert (stream, index) == (0, last + 10**12 - expected)


def test_a_schedule_shorter_than_a_block_is_followed_too():
    rates = (0.7, ((0, 0.3), (9000, 0.1)), ((0, 0.0), (4000, 0.01)))  # the first two as in the README
    streams = selections(rates, range(2 * BLOCK))[:, 0]
    rows = np.arange(2 * BLOCK) + 0.5
    rates_3xR = np.stack([np.full(2 * BLOCK, 0.7), np.interp(rows, *zip(*rates[1], strict=True)), rows / 4e5])
    rates_3xR[2] = np.minimum(rates_3xR[2], 0.01)
    for stream, shares in enumerate(rates_3xR / rates_3xR.sum(axis=0)):
        assert np.abs(np.cumsum(streams == stream) - np.cumsum(shares)).max() < 4
    assert 0 in selections((((0, 1.0), (4000, 0.0)), 1.0), range(100))[:, 0]


@pytest.mark.parametrize(
    "rates, message",
    [
        ((1.0, -0.5), "stream s1: rate"),
        ((1.0, float("nan")), "stream s1: rate"),
        ((1.0, 0.0), "stream s1: rate 0.0 must be above 0"),
        ((((0, 1.0), (20_000, 0.0)), ((0, 2.0), (15_000, 0.0))), "all rates of the mixture are 0 near row 20100"),
        ((1.0, float("inf")), "stream s1: rate"),
        ((1.0, ((0, float("nan")), (5, 1.0))), "stream s1: a rate schedule is"),
        ((1.0, 1e-9), "stream s1 has a rate below"),
        ((((5, 1.0), (5, 2.0)), 1.0), "stream s0: a rate schedule is"),
        (((), 1.0), "stream s0: a rate schedule is"),
    ],
)
def test_unusable_rates_are_named(rates, message):
    with pytest.raises(UserError, match=message):
        plan_mixing(["s0", "s1"], rates)


def test_a_share_that_rounding_changes_is_said(capfd):
    """A share of 0.6 rows of a block is one row, two thirds more than was asked for; 100.4 rows are near enough."""
    store = MemoryStore(random_lengths(20), first_token=103, vocabulary=500)
    rates = {"small": 6e-5, "near": 0.01004, "large": 1 - 6e-5 - 0.01004}
    streams = tuple(Stream(name, "t", store, CausalLM(), rate) for name, rate in rates.items())
    layout = Layout(32, SpecialTokens(EOD, 1, 2, masks=tuple(range(3, 103))))
    rows = training_rows(Inputs(None, {}, layout, streams, ()), DataConfig("t", ((CausalLM(), 1.0),)))
    assert rows.mixing == plan_mixing([*rates], [*rates.values()])
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "asks for" in line]
    assert line.startswith("small: its rate asks for 6e-05 of the rows, it gives 0.0001")
