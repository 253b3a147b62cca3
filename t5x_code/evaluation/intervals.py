"""Confidence intervals by bootstrap (Efron 1979): problems are drawn again, with replacement."""

import numpy as np

RESAMPLES = 2000
COVERAGE = 0.95  # share of resampled means inside, as the results' `confidence_95` says


def bootstrap_interval(values_P: np.ndarray, seed: int, weights_P: np.ndarray | None = None) -> list[float]:
    """The percentile interval of the mean of per-problem values [P]; [low, high].

    Args:
        values_P: one number per problem, not empty.
        seed: of the draws.
        weights_P: of the problems in the mean, such as how many parts each has: parts of one problem fail together.
    """
    weights_P = np.ones(len(values_P)) if weights_P is None else np.asarray(weights_P, float)
    values_P = np.asarray(values_P, float) * weights_P
    rng = np.random.default_rng([seed, len(values_P)])
    drawn = (rng.integers(0, len(values_P), len(values_P)) for _ in range(RESAMPLES))
    means = [values_P[again_P].sum() / weights_P[again_P].sum() for again_P in drawn]
    low, high = np.quantile(means, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return [float(low), float(high)]
