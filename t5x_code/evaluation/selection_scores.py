"""From similarities to the figures of Logically Equivalent Code Selection, and the baselines that know no program.

Between two, a tie counts one half, and a similarity that is no number makes no number. Legend: P items, S settings.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from t5x_code.evaluation.intervals import bootstrap_interval
from t5x_code.source_code.selection import ACCEPTED, SETTINGS

Similarities = Mapping[str, float]  # of a query's candidates by kind


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Cosine of two vectors, 0 where one is all zeros."""
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norm if norm else 0.0


def selection_scores(
    similarities_P: Sequence[Similarities], others_P: Sequence[Sequence[float]], seed: int = 0
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Accuracies, and their bootstrap intervals over items.

    Args:
        similarities_P: of each query to its candidates by kind.
        others_P: of each query to programs of other problems.
        seed: of the bootstrap.

    Returns:
        By name: `pos|neg` and the other settings, the `mean` of those that are there, and for each accepted kind
        `accuracy_at_1` and `mrr` among the others and the shuffled query. An item without a candidate of a kind is left
        out of its settings.
    """
    metrics: dict[str, float] = {}
    intervals: dict[str, list[float]] = {}

    def add(name: str, values: list[float]) -> None:
        if values:
            metrics[name] = float(np.mean(values))
            intervals[name] = bootstrap_interval(np.array(values), seed)

    wins_PxS = np.zeros((len(similarities_P), len(SETTINGS)))
    has_PxS = np.zeros(wins_PxS.shape, bool)
    for at, (accepted, rejected) in enumerate(SETTINGS):
        for number, similarities in enumerate(similarities_P):
            if accepted in similarities and rejected in similarities:
                wins_PxS[number, at] = _win(similarities[accepted], similarities[rejected])
                has_PxS[number, at] = True
        add(f"{accepted}|{rejected}", wins_PxS[has_PxS[:, at], at].tolist())
    if metrics:  # an item that lacks a setting weighs no more in the others
        has_any_P = has_PxS.any(axis=1)
        metrics["mean"] = float(np.mean(list(metrics.values())))
        intervals["mean"] = bootstrap_interval(wins_PxS[has_any_P], seed, has_PxS[has_any_P])
    for accepted in ACCEPTED:
        wins = [
            [_win(similarities[accepted], other) for other in (*others, *_of(similarities, "lsh"))]
            for similarities, others in zip(similarities_P, others_P, strict=True)
            if accepted in similarities and others
        ]
        add(f"{accepted}/accuracy_at_1", [_is_first(of_item) for of_item in wins])
        add(f"{accepted}/mrr", [1 / (1 + sum(1 - win for win in of_item)) for of_item in wins])
    return metrics, intervals


def _win(accepted: float, rejected: float) -> float:
    if math.isnan(accepted) or math.isnan(rejected):  # of a diverged model, whose accuracy 0 would be taken for its own
        return math.nan
    return 0.5 if accepted == rejected else float(accepted > rejected)


def _is_first(wins: Sequence[float]) -> float:
    """Whether all are won; of several that are first together, each is with equal probability."""
    if any(math.isnan(win) for win in wins):
        return math.nan
    return 1 / (1 + wins.count(0.5)) if min(wins) else 0.0


def _of(similarities: Similarities, kind: str) -> list[float]:
    return [similarities[kind]] if kind in similarities else []


class BagOfTokens:
    """Cosine of token counts, with or without inverse document frequencies: what knows keywords and no order."""

    def __init__(self, codes: Sequence[np.ndarray], weigh_by_frequency: bool):
        """Takes all programs; a token's weight is log((1 + N) / (1 + programs with it)) + 1, as scikit-learn's."""
        counts = [Counter(code.tolist()) for code in codes]
        documents = Counter(token for count in counts for token in count)
        weights = {
            token: math.log((1 + len(codes)) / (1 + number)) + 1 if weigh_by_frequency else 1.0
            for token, number in documents.items()
        }
        self._vectors = [{token: n * weights[token] for token, n in count.items()} for count in counts]
        self._norms = [math.sqrt(sum(value * value for value in vector.values())) for vector in self._vectors]

    def similarity(self, first: int, second: int) -> float:
        """Cosine of two programs by their numbers."""
        a, b = self._vectors[first], self._vectors[second]
        product = sum(value * b[token] for token, value in a.items() if token in b)
        norm = self._norms[first] * self._norms[second]
        return product / norm if norm else 0.0


def correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's; 0 where one does not vary."""
    if len(first) < 2 or np.std(first) == 0 or np.std(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])
