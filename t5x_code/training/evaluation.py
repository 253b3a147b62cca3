"""Validation inside the loop: teacher-forced metrics of each task under each objective."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from t5x_code.parallel.hosts import global_batch
from t5x_code.training.losses import Sums, ratio

Arrays = dict[str, np.ndarray]
REPORTED = frozenset({"loss", "accuracy", "contrastive", "selected"})


def evaluate(
    eval_step: Callable[[Any, Any], tuple[Sums, Sums]],
    params: Any,
    mesh: Mesh,
    evaluations: dict[str, Callable[[], Iterator[Arrays]]],
    batch_done: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Metrics over all batches of each evaluation; every token counts alike, padded rows do not.

    Args:
        eval_step: compiled `make_eval_step`.
        params: the model's.
        mesh: what batches are laid out on.
        evaluations: by `task/objective`, this process's part of each batch.
        batch_done: called when the devices have finished the batch before the one in hand; what it raises ends this.

    Returns:
        `validation/task/objective/loss` (nats per token), `.../accuracy`, and with a contrastive term `.../contrastive`
        (nats per query, the negatives those of a batch) and `.../selected`.
    """
    results: dict[str, float] = {}
    for name, batches in evaluations.items():
        sums, counts = None, None
        for rows in batches():
            part = eval_step(params, global_batch(mesh, rows))
            jax.block_until_ready(sums)  # no further ahead than one batch
            batch_done()
            sums, counts = part if sums is None else jax.tree.map(jnp.add, (sums, counts), part)
        if sums is None:
            continue
        for metric in sorted(name for name in REPORTED & sums.keys() if counts[name]):  # not of what is not there
            results[f"validation/{name}/{metric}"] = float(ratio(sums[metric], counts[metric]))
    return results
