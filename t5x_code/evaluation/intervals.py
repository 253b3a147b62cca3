"""Confidence intervals by bootstrap (Efron 1979): problems are drawn again, with replacement."""

import numpy as np

RESAMPLES = 2000


def bootstrap_interval(values_P: np.ndarray, seed: int, coverage: float = 0.95) -> list[float]:
    """The percentile interval of the mean of per-problem values [P]; [low, high].

    Args:
        values_P: one number per problem, not empty.
        seed: of the draws.
        coverage: share of resampled means inside.
    """
    values_P = np.asarray(values_P, float)
    rng = np.random.default_rng([seed, len(values_P)])
    means = [values_P[rng.integers(0, len(values_P), len(values_P))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [(1 - coverage) / 2, (1 + coverage) / 2])
    return [float(low), float(high)]
