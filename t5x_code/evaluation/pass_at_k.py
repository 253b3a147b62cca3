"""pass@k: the chance that one of k samples of a problem is right, estimated without bias from n samples.

Chen et al. 2021 (arXiv 2107.03374), equation 1 and figure 3: `1 - C(n - c, k) / C(n, k)` for c right ones of n.
"""

from collections.abc import Mapping, Sequence

import numpy as np

Counts = tuple[int, int]  # samples of a problem, and how many of them are right


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """The estimate for one problem; k is at most `num_samples`.

    The product is the paper's own way to compute it: factorials of 200 do not fit a float.
    """
    if num_samples - num_right < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(num_samples - num_right + 1, num_samples + 1)))


def each_pass_at_k(counts_P: Sequence[Counts], k: int) -> np.ndarray:
    """The estimate for each problem, [P]."""
    return np.array([pass_at_k(n, c, k) for n, c in counts_P])


def usable_k(counts_P: Sequence[Counts], ks: Sequence[int]) -> list[int]:
    """Those k that every problem has samples enough for."""
    fewest = min((n for n, _ in counts_P), default=0)
    return [k for k in ks if k <= fewest]


def incremental_pass_at_k(counts: Mapping[str, Sequence[Counts]], k: int) -> np.ndarray:
    """Incremental pass@k of each problem, [P]: the mean over its sub-problems (arXiv 2402.05783).

    The mean of the result is `1/P sum_p 1/L_p sum_l pass@k(n_pl, c_pl)`.

    Args:
        counts: by problem, the counts of each of its sub-problems.
        k: at most the samples of any sub-problem.
    """
    return np.array([each_pass_at_k(of_problem, k).mean() for of_problem in counts.values()])
