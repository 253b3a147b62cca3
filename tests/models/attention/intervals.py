"""Intervals of keys as training makes them: causal, prefixes, packed documents, windows, padding."""

import itertools

import numpy as np

KINDS = ("causal", "packed prefixes", "windows", "padding")


def intervals(kind: str, rows: int, length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """First key seen and one past the last, int32 [rows, length] each."""
    rng = np.random.default_rng(seed)
    index = np.arange(length)
    attend_from, attend_to = np.zeros((rows, length), np.int32), np.tile(index + 1, (rows, 1)).astype(np.int32)
    for row in range(rows):
        if kind == "packed prefixes":
            cuts = [0, *np.sort(rng.choice(np.arange(1, length), 3, replace=False)), length]
            for start, end in itertools.pairwise(cuts):
                prefix_end = rng.integers(start, end)
                attend_from[row, start:end] = start
                attend_to[row, start:end] = np.maximum(index[start:end] + 1, prefix_end)
        if kind == "windows":
            attend_from[row] = np.maximum(0, index - rng.integers(1, length) + 1)
        if kind == "padding":
            attend_to[row, rng.integers(length // 2, length) :] = 0
    return attend_from, attend_to
