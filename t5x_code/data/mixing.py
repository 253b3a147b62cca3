"""Mixing by index: which stream gives row r of the mixture, and which of its rows, as a pure function of r.

Rates are shares of rows, constant or piecewise linear in the mixture's row number. The mixture is cut into blocks. A
block's shares are the rates at its middle, rounded to whole rows (largest remainders first), so that its row counts are
exact. Up to a schedule's last point a block has a hundredth of its rows, `BLOCK` at most, and what rounding owes a
stream is made good in the next one; after it all blocks are alike and have `BLOCK` rows. Inside a block rows are spread
evenly by Grain's interleaving rule: of k rows left to the streams i, i + 1, .. those after i get floor(k * their
share).

Shape legend: T blocks, the last of which stands for all that follow, S streams.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from t5x_code.data.declarations import Rate, check_rate
from t5x_code.errors import UserError

BLOCK = 10_000  # rows; rates are exact to one in so many
SCHEDULE_BLOCKS = 100  # a schedule is followed in so many steps at least


@dataclasses.dataclass(frozen=True)
class Mixing:
    """The plan of a mixture. Plain integers, so that it is exact at any row number."""

    block: int  # rows of a block; the last, and those that repeat it, have BLOCK
    counts: tuple[tuple[int, ...], ...]  # [T][S] rows of each stream in a block; the last block repeats for ever
    before: tuple[tuple[int, ...], ...]  # [T][S] rows of each stream before the block

    def select(self, row: int) -> tuple[int, int]:
        """The stream that gives a row of the mixture, and the row's index in that stream."""
        last = len(self.counts) - 1
        block, index = divmod(row, self.block)
        repeats = 0
        if block >= last:
            block = last
            repeats, index = divmod(row - last * self.block, BLOCK)
        counts = self.counts[block]
        stream, index = _interleave(index, counts)
        return stream, self.before[block][stream] + repeats * counts[stream] + index


def plan_mixing(names: Sequence[str], rates: Sequence[Rate]) -> Mixing:
    """Computes the blocks of a mixture.

    Args:
      names: the streams' names, for messages.
      rates: each stream's share, relative to the others' at the same row.

    Raises:
      UserError: a rate cannot be drawn from, all are 0 somewhere, or one is too small to give a row.
    """
    points = [_points(name, rate) for name, rate in zip(names, rates, strict=True)]
    last_row = max(0, math.ceil(max(rows[-1] for rows, _ in points)))
    block = min(max(last_row // SCHEDULE_BLOCKS, 1), BLOCK)
    middles_T = (np.arange(-(-last_row // block) + 1) + 0.5) * block
    rates_TxS = np.stack([np.interp(middles_T, rows, shares) for rows, shares in points], axis=1)
    sums_T = rates_TxS.sum(axis=1)
    if (sums_T == 0).any():
        raise UserError(
            f"all rates of the mixture are 0 near row {int(middles_T[np.argmin(sums_T)])}; give a stream a rate"
        )
    shares_TxS = rates_TxS / sums_T[:, None]
    counts_TxS = np.stack([*_scheduled_counts(shares_TxS[:-1], block), _round_shares(shares_TxS[-1], BLOCK)])
    for stream, name in enumerate(names):
        if not counts_TxS[:, stream].any():
            raise UserError(f"stream {name} has a rate below one row in {BLOCK}; raise its rate or leave it out")
    before_TxS = np.cumsum(counts_TxS, axis=0) - counts_TxS
    return Mixing(block, tuple(map(tuple, counts_TxS.tolist())), tuple(map(tuple, before_TxS.tolist())))


def _points(name: str, rate: Rate) -> tuple[list[int], list[float]]:
    """A rate as the rows and shares of a piecewise-linear curve, flat outside its ends."""
    check_rate(rate, f"stream {name}")
    schedule = ((0, rate),) if isinstance(rate, int | float) else rate
    return [row for row, _ in schedule], [share for _, share in schedule]


def _scheduled_counts(shares_TxS: np.ndarray, block: int) -> Iterator[np.ndarray]:
    """Rows [S] of each stream in each block; they sum to `block`."""
    owed_S = np.zeros(shares_TxS.shape[1])
    for shares_S in shares_TxS:
        owed_S += shares_S * block
        positive_S = np.maximum(owed_S, 0)
        counts_S = _round_shares(positive_S / positive_S.sum(), block)
        owed_S -= counts_S
        yield counts_S


def _round_shares(shares_S: np.ndarray, num_rows: int) -> np.ndarray:
    """Shares in whole rows that sum to `num_rows`; the largest remainders are rounded up."""
    exact_S = shares_S * num_rows
    counts_S = np.floor(exact_S).astype(np.int64)
    order_S = np.argsort(counts_S - exact_S, kind="stable")
    counts_S[order_S[: num_rows - counts_S.sum()]] += 1
    return counts_S


def _interleave(index: int, counts: tuple[int, ...]) -> tuple[int, int]:
    """The stream at a block's index, and how many of that stream's rows stand before it in the block."""
    before, after, left = index, index + 1, sum(counts)
    for stream, count in enumerate(counts):
        if count:
            passed_before, passed_after = before * (left - count) // left, after * (left - count) // left
            if after - passed_after != before - passed_before:
                return stream, before - passed_before
            before, after, left = passed_before, passed_after, left - count
    raise IndexError(f"index {index} is outside a block of {sum(counts)} rows")
