"""Confidence intervals by bootstrap (Efron 1979): problems are drawn again, with replacement."""

import numpy as np

RESAMPLES = 2000
COVERAGE = 0.95  # share of resampled means inside, as the results' `confidence_95` says


def bootstrap_interval(values: np.ndarray, seed: int, weights: np.ndarray | None = None) -> list[float]:
    """The percentile interval of the mean of per-problem values; [low, high].

    Args:
        values: [P], one number per problem, not empty; or [P, S], of which the mean of the S settings' means is taken.
        seed: of the draws.
        weights: of the values in their mean, such as how many parts each problem has: parts of one problem fail
            together. At 0 a problem lacks a setting; one that all problems drawn lack is left out.
    """
    size = len(values)
    weights_PxS = np.ones((size, 1)) if weights is None else np.asarray(weights, float).reshape(size, -1)
    values_PxS = np.asarray(values, float).reshape(size, -1) * weights_PxS
    rng = np.random.default_rng([seed, size])
    means = []
    for _ in range(RESAMPLES):
        again_P = rng.integers(0, size, size)
        sums_S, weights_S = values_PxS[again_P].sum(0), weights_PxS[again_P].sum(0)
        means.append(np.mean(sums_S[weights_S > 0] / weights_S[weights_S > 0]))
    low, high = np.quantile(means, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return [float(low), float(high)]
