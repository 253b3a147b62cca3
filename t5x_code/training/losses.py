"""A loss is a set of named sums, each over a count that is known before the model runs.

`total = sum over terms of weight * sum / count`, with counts of the whole batch: so accumulation, padding and the
number of hosts never change a gradient.

Legend: B batch, L length, D model, V vocabulary padded.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from t5x_code.models.config import TransformerConfig
from t5x_code.models.cross_entropy import cross_entropy
from t5x_code.models.decoder import head_weights, hidden_states
from t5x_code.models.modality import VocabularySplit, predicted_head

Batch = dict[str, jax.Array]
Sums = dict[str, jax.Array]  # scalars by name


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of what is added to next-token cross-entropy."""

    z_loss: float = 1e-4  # of squared logsumexp (PaLM, arXiv 2204.02311)


@dataclasses.dataclass(frozen=True)
class Loss:
    """Named sums over parts of a batch. Those in `weights` are trained on, the others are only reported."""

    weights: dict[str, float]  # of each term in the total
    counts: Callable[[Batch], Sums]  # what each sum is divided by; adds up over parts of a batch
    sums: Callable[[Any, Batch], Sums]  # (params, part of a batch) -> each sum over the part

    def total(self, sums: Sums, counts: Sums) -> jax.Array:
        """What is trained on: 0 where a term has nothing to count."""
        return sum(weight * ratio(sums[name], counts[name]) for name, weight in self.weights.items())


def ratio(total: jax.Array, count: jax.Array) -> jax.Array:
    """total / count, and 0 where the count is 0."""
    return total / jnp.where(count == 0, 1, count)


def next_token_loss(
    model: TransformerConfig, config: LossConfig, mesh: Mesh, split: VocabularySplit | None = None
) -> Loss:
    """Cross-entropy of the next token with z-loss, per token of weight.

    Reports `loss` (cross-entropy alone, nats per token), `z_loss` and `accuracy` beside the trained `next_token`.

    Args:
        model: the decoder.
        config: weights.
        mesh: on more than one device the logits are made where their shares of the head lie.
        split: of a vocabulary that is split by modality; a target's softmax runs over its own modality.
    """

    def counts(batch: Batch) -> Sums:
        weight = batch["loss_weights"].sum()
        return dict.fromkeys(("next_token", "loss", "z_loss", "accuracy"), weight)

    def sums(params: Any, batch: Batch) -> Sums:
        reads = (batch[name] for name in ("inputs", "positions", "attend_from", "attend_to"))
        x_BxLxD = hidden_states(model, params, *reads)
        kernel_DxV, bias_V = head_weights(model, params)
        targets_BxL, vocab_size = batch["targets"], model.vocab_size
        allowed_2xV = modality_BxL = None
        if split is not None and len(split.target_modalities) == 1:
            multiple = model.vocab_multiple * mesh.shape.get("tensor", 1)
            kernel_DxV, bias_V, targets_BxL, vocab_size = predicted_head(
                split, multiple, kernel_DxV, bias_V, targets_BxL
            )
        elif split is not None:
            allowed_2xV, modality_BxL = jnp.asarray(split.allowed_2xW), batch["target_modality"]
        result = cross_entropy(
            x_BxLxD,
            kernel_DxV,
            bias_V,
            targets_BxL,
            batch["loss_weights"],
            vocab_size=vocab_size,
            chunk=model.loss_chunk,
            z_loss=config.z_loss,
            allowed_2xV=allowed_2xV,
            modality_BxL=modality_BxL,
            mesh=mesh if mesh.size > 1 else None,
        )
        return {
            "next_token": result.total,
            "loss": result.total - result.z_loss,
            "z_loss": result.z_loss,
            "accuracy": result.correct,
        }

    return Loss({"next_token": 1.0}, counts, sums)
