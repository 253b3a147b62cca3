"""How well a model predicts the next token of held-out rows: loss, accuracy and bits per byte.

By task and objective, and where rows say it, by the modality of the target. Bits per byte compares models whose
tokenizers differ: the loss in bits over the UTF-8 bytes of the texts that were predicted.

Legend: B batch, L length, V vocabulary padded, M modalities (text, code).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_code.errors import UserError
from t5x_code.evaluation.request import Arrays, Request, Results
from t5x_code.inference.infilling import TextCodec
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import hidden_states, logits
from t5x_code.parallel.rules import logical_axes_on
from t5x_code.progress import progress_bar
from t5x_code.tokens.modality import MODALITY_NAMES
from t5x_code.tokens.tokenizer import Tokenizer

_READ = ("inputs", "positions", "attend_from", "attend_to")


def evaluate_loss(request: Request) -> Results:
    """Loss in nats per token, bits per byte and accuracy of each task and objective of the model's own recipe.

    Raises:
        UserError: no model, nothing held out, or it was not trained here: rows are made by the recipe in its folder.
    """
    model = request.require_model()
    if request.batches is None:
        raise UserError("--eval=loss reads the rows that the model's recipe makes; give a --model_dir with config.gin")
    held_out = request.batches()
    metrics: dict[str, float] = {}
    targets: dict[str, float] = {}
    for name, batches in held_out.batches.items():
        sums_Mx3, num_bytes, says_modality = np.zeros((len(MODALITY_NAMES), 3)), 0, False
        for rows in progress_bar(batches(), unit="batch", desc=name, shown=request.show_progress):
            with logical_axes_on(model.mesh):
                sums = _sums(model.config, model.params, _as_read(rows), held_out.allowed_2xW)
            sums_Mx3 += np.asarray(sums, float)
            num_bytes += count_bytes(model.tokenizer, rows["targets"], rows["loss_weights"])
            says_modality = "target_modality" in rows
        loss, right, count = sums_Mx3.sum(0)
        if not count:
            continue
        metrics |= {
            f"{name}/loss": loss / count,
            f"{name}/accuracy": right / count,
            f"{name}/bits_per_byte": loss / math.log(2) / max(num_bytes, 1),
        }
        targets[name] = count
        if says_modality:
            for modality, (part, part_right, part_count) in zip(MODALITY_NAMES, sums_Mx3, strict=True):
                if part_count:
                    metrics[f"{name}/{modality}/loss"] = part / part_count
                    metrics[f"{name}/{modality}/accuracy"] = part_right / part_count
    if not metrics:
        raise UserError(
            "the model's recipe holds nothing out: its validation splits are empty, or DataConfig.eval_batches is 0"
        )
    return {"metrics": metrics, "num_targets": targets}


def count_bytes(tokenizer: TextCodec, targets_BxL: np.ndarray, weights_BxL: np.ndarray) -> int:
    """UTF-8 bytes of the targets that count; control tokens have none."""
    if isinstance(tokenizer, Tokenizer) and tokenizer.is_byte_level:  # by token: a span may begin inside a character
        return int(tokenizer.token_sizes[targets_BxL[weights_BxL > 0]].sum())
    rows: Sequence[np.ndarray] = [row_L[weight_L > 0] for row_L, weight_L in zip(targets_BxL, weights_BxL, strict=True)]
    return sum(len(tokenizer.decode(row.tolist()).encode()) for row in rows)


def _as_read(rows: Arrays) -> Arrays:
    """The fields that are needed; targets are all of one modality where the rows do not say."""
    read = {name: rows[name] for name in (*_READ, "targets", "loss_weights")}
    return read | {"target_modality": rows.get("target_modality", np.zeros_like(rows["targets"]))}


@functools.partial(jax.jit, static_argnums=0)
def _sums(
    config: TransformerConfig, params: Any, rows: dict[str, jax.Array], allowed_2xW: jax.Array | None
) -> jax.Array:
    """Sums [M, 3] of loss, right guesses and weights, a row at a time: its logits alone exist."""

    def of_row(row: dict[str, jax.Array]) -> jax.Array:
        x_1xLxD = hidden_states(config, params, *(row[name][None] for name in _READ))
        logits_LxV = logits(config, params, x_1xLxD)[0]
        modality_L = row["target_modality"]
        if allowed_2xW is not None:
            width = allowed_2xW.shape[1]
            logits_LxV = jnp.where(allowed_2xW[modality_L], logits_LxV[:, :width], -jnp.inf)
        target_L = row["targets"]
        log_probability_LxV = jax.nn.log_softmax(logits_LxV)
        loss_L = -jnp.take_along_axis(log_probability_LxV, target_L[:, None], axis=1)[:, 0]
        right_L = jnp.argmax(logits_LxV, axis=-1) == target_L
        weight_L = row["loss_weights"]
        of_modality_MxL = weight_L * (modality_L == jnp.arange(len(MODALITY_NAMES))[:, None])
        parts_Lx3 = jnp.stack([jnp.where(weight_L > 0, loss_L, 0), right_L, jnp.ones_like(loss_L)], axis=1)
        return of_modality_MxL @ parts_Lx3

    return jax.lax.map(of_row, rows).sum(0)
