"""Mixing by index: which stream gives row r of the mixture, and which of its rows, as a pure function of r.

Rates are shares of rows, constant or piecewise linear in the mixture's row number. The mixture is cut into blocks of
`BLOCK` rows. A block's shares are the rates at its middle, rounded to whole rows (largest remainders first), so that
its row counts are exact; after a schedule's last point all blocks are alike. Inside a block rows are spread evenly by
Grain's interleaving rule: of k rows left to the streams i, i + 1, .. those after i get floor(k * their share).

Shape legend: T blocks, S streams.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from t5x_code.data.declarations import Rate, check_rate
from t5x_code.errors import UserError

BLOCK = 10_000  # rows; rates are exact to one in so many


@dataclasses.dataclass(frozen=True)
class Mixing:
    """The plan of a mixture. Plain integers, so that it is exact at any row number."""

    counts: tuple[tuple[int, ...], ...]  # [T][S] rows of each stream in a block; the last block repeats for ever
    before: tuple[tuple[int, ...], ...]  # [T][S] rows of each stream before the block

    def select(self, row: int) -> tuple[int, int]:
        """The stream that gives a row of the mixture, and the row's index in that stream."""
        block, index = divmod(row, BLOCK)
        planned = min(block, len(self.counts) - 1)
        counts = self.counts[planned]
        stream, index = _interleave(index, counts)
        return stream, self.before[planned][stream] + (block - planned) * counts[stream] + index


def plan_mixing(names: Sequence[str], rates: Sequence[Rate]) -> Mixing:
    """Computes the blocks of a mixture.

    Args:
      names: the streams' names, for messages.
      rates: each stream's share, relative to the others' at the same row.

    Raises:
      UserError: a rate cannot be drawn from, all are 0 somewhere, or one is too small to give a row.
    """
    points = [_points(name, rate) for name, rate in zip(names, rates, strict=True)]
    last_row = max(rows[-1] for rows, _ in points)
    middles_T = (np.arange(-(-last_row // BLOCK) + 1) + 0.5) * BLOCK
    rates_TxS = np.stack([np.interp(middles_T, rows, shares) for rows, shares in points], axis=1)
    sums_T = rates_TxS.sum(axis=1)
    if (sums_T == 0).any():
        raise UserError(
            f"all rates of the mixture are 0 near row {int(middles_T[np.argmin(sums_T)])}; give a stream a rate"
        )
    counts_TxS = _round_shares(rates_TxS / sums_T[:, None])
    for stream, name in enumerate(names):
        if not counts_TxS[:, stream].any():
            raise UserError(f"stream {name} has a rate below one row in {BLOCK}; raise its rate or leave it out")
    before_TxS = np.cumsum(counts_TxS, axis=0) - counts_TxS
    return Mixing(tuple(map(tuple, counts_TxS.tolist())), tuple(map(tuple, before_TxS.tolist())))


def _points(name: str, rate: Rate) -> tuple[list[int], list[float]]:
    """A rate as the rows and shares of a piecewise-linear curve, flat outside its ends."""
    check_rate(rate, f"stream {name}")
    schedule = ((0, rate),) if isinstance(rate, int | float) else rate
    return [row for row, _ in schedule], [share for _, share in schedule]


def _round_shares(shares_TxS: np.ndarray) -> np.ndarray:
    """Shares of each block in whole rows that sum to BLOCK; the largest remainders are rounded up."""
    exact_TxS = shares_TxS * BLOCK
    counts_TxS = np.floor(exact_TxS).astype(np.int64)
    order_TxS = np.argsort(counts_TxS - exact_TxS, axis=1, kind="stable")
    ranks_TxS = np.argsort(order_TxS, axis=1)
    return counts_TxS + (ranks_TxS < BLOCK - counts_TxS.sum(axis=1, keepdims=True))


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
