"""A loss is a set of named sums, each over a count that is known before the model runs.

`total = sum over terms of weight * sum / count`, with counts of the whole batch: so accumulation, padding and the
number of hosts never change a gradient. What compares codes across the batch is no such sum: it is made of the pooled
codes of the whole batch (`PooledTerms`), whichever parts they were read in.

Legend: B batch, L length, D model, V vocabulary padded, C code slots of a row.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from t5x_code.errors import UserError, check_choice
from t5x_code.models.config import TransformerConfig
from t5x_code.models.cross_entropy import cross_entropy, default_chunk
from t5x_code.models.decoder import head_weights, hidden_states
from t5x_code.models.modality import VocabularySplit, predicted_head
from t5x_code.models.pooling import Pooling, pool_codes
from t5x_code.training.contrastive import contrastive_sums, num_queries

Batch = dict[str, jax.Array]
Sums = dict[str, jax.Array]  # scalars by name


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the terms. Temperature, pooling and the recipes' contrastive weight are our choice."""

    z_loss: float = 1e-4  # of squared logsumexp (PaLM, arXiv 2204.02311), added to next-token cross-entropy
    next_token: float = 1.0
    contrastive: float = 0.0  # NTP+'s lambda (arXiv 2404.08885); above 0 the batch must have codes
    temperature: float = 0.05  # of the contrastive term's similarities
    pooling: Pooling = "mean"  # how a code's vector is made of its tokens

    def __post_init__(self):
        check_choice("LossConfig.pooling", self.pooling, get_args(Pooling))
        for name in ("z_loss", "next_token", "contrastive"):
            if getattr(self, name) < 0:
                raise UserError(f"LossConfig.{name} is {getattr(self, name)}: it must be 0 or more")
        if self.temperature <= 0:
            raise UserError(f"LossConfig.temperature is {self.temperature}: it must be above 0")
        if self.next_token == self.contrastive == 0:
            raise UserError("LossConfig: next_token and contrastive are both 0, so that nothing is learnt; set one")


@dataclasses.dataclass(frozen=True)
class PooledTerms:
    """Sums over the pooled codes of a whole batch."""

    read: Callable[[Any, Batch], tuple[Sums, jax.Array]]  # (params, part) -> the part's other sums, its codes [B, C, D]
    sums: Callable[[jax.Array, Batch], Sums]  # (codes, batch) -> sums over the whole batch


@dataclasses.dataclass(frozen=True)
class Loss:
    """Named sums over parts of a batch. Those in `weights` are trained on, the others are only reported."""

    weights: dict[str, float]  # of each term in the total
    counts: Callable[[Batch], Sums]  # what each sum is divided by; adds up over parts of a batch
    sums: Callable[[Any, Batch], Sums]  # (params, part of a batch) -> each sum over the part
    pooled: PooledTerms | None = None  # where some sums need the whole batch at once

    def total(self, sums: Sums, counts: Sums) -> jax.Array:
        """What is trained on, of the terms among `sums`: 0 where a term has nothing to count."""
        terms = [weight * ratio(sums[name], counts[name]) for name, weight in self.weights.items() if name in sums]
        return sum(terms, start=jnp.zeros((), jnp.float32))


def ratio(total: jax.Array, count: jax.Array) -> jax.Array:
    """total / count, and 0 where the count is 0."""
    return total / jnp.where(count == 0, 1, count)


def make_loss(model: TransformerConfig, config: LossConfig, mesh: Mesh, split: VocabularySplit | None = None) -> Loss:
    """The loss of a config: next-token prediction, with the contrastive term where it has a weight (NTP+)."""
    make = ntp_plus_loss if config.contrastive else next_token_loss
    return make(model, config, mesh, split)


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

    def sums(params: Any, batch: Batch) -> Sums:
        return _next_token_sums(model, config, mesh, split, params, batch, _read(model, params, batch))

    return Loss({"next_token": config.next_token}, _next_token_counts, sums)


def ntp_plus_loss(
    model: TransformerConfig, config: LossConfig, mesh: Mesh, split: VocabularySplit | None = None
) -> Loss:
    """NTP+: `next_token_loss`, and beside it the contrastive term on the pooled codes of the batch.

    Reports `contrastive` (nats per query) and `selected` (share of queries closest to their accepted code) as well.
    """

    def counts(batch: Batch) -> Sums:
        if "pool_ids" not in batch:
            raise UserError("LossConfig.contrastive needs rows with codes: use the objective NtpPlus, or set it to 0")
        queries = num_queries(batch["code_pair"], batch["code_role"])
        return _next_token_counts(batch) | {"contrastive": queries, "selected": queries}

    def read(params: Any, batch: Batch) -> tuple[Sums, jax.Array]:
        x_BxLxD = _read(model, params, batch)
        codes_BxCxD = pool_codes(x_BxLxD, batch["pool_ids"], batch["code_role"].shape[1], config.pooling)
        return _next_token_sums(model, config, mesh, split, params, batch, x_BxLxD), codes_BxCxD

    def pooled_sums(codes_BxCxD: jax.Array, batch: Batch) -> Sums:
        of_codes = (batch[name] for name in ("code_pair", "code_problem", "code_role"))
        return contrastive_sums(codes_BxCxD, *of_codes, config.temperature)

    def sums(params: Any, batch: Batch) -> Sums:
        of_tokens, codes_BxCxD = read(params, batch)
        return of_tokens | pooled_sums(codes_BxCxD, batch)

    weights = {"next_token": config.next_token, "contrastive": config.contrastive}
    return Loss(weights, counts, sums, PooledTerms(read, pooled_sums))


def _read(model: TransformerConfig, params: Any, batch: Batch) -> jax.Array:
    reads = (batch[name] for name in ("inputs", "positions", "attend_from", "attend_to"))
    return hidden_states(model, params, *reads)


def _next_token_counts(batch: Batch) -> Sums:
    weight = batch["loss_weights"].sum()
    return dict.fromkeys(("next_token", "loss", "z_loss", "accuracy"), weight)


def _next_token_sums(
    model: TransformerConfig,
    config: LossConfig,
    mesh: Mesh,
    split: VocabularySplit | None,
    params: Any,
    batch: Batch,
    x_BxLxD: jax.Array,
) -> Sums:
    kernel_DxV, bias_V = head_weights(model, params)
    targets_BxL, vocab_size = batch["targets"], model.vocab_size
    allowed_2xV = modality_BxL = None
    if split is not None and len(split.target_modalities) == 1:
        multiple = model.vocab_multiple * mesh.shape.get("tensor", 1)
        kernel_DxV, bias_V, targets_BxL, vocab_size = predicted_head(split, multiple, kernel_DxV, bias_V, targets_BxL)
    elif split is not None:
        allowed_2xV, modality_BxL = jnp.asarray(split.allowed_2xW), batch["target_modality"]
    result = cross_entropy(
        x_BxLxD,
        kernel_DxV,
        bias_V,
        targets_BxL,
        batch["loss_weights"],
        vocab_size=vocab_size,
        chunk=model.loss_chunk or default_chunk(mesh.devices.flat[0].platform),
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
