"""What a model that was taught equivalence as text says of two codes: how much likelier "equivalent" is than "not".

The text is that of objectives/equivalence_text.py: query, candidate, verdict.

Legend: B pairs, L length, K tokens of a verdict, V vocabulary.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_code.inference.infilling import TextModel
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import hidden_states, logits
from t5x_code.parallel.rules import logical_axes_on
from t5x_code.source_code.selection import DIFFERENT_TEXT, EQUIVALENT_TEXT

BATCH_TOKENS = 8192


def verdict_log_odds(
    model: TextModel, pairs: Sequence[tuple[str, str]], on_progress: Callable[[int], object] = lambda done: None
) -> np.ndarray:
    """log p(equivalent) - log p(not equivalent) after each (query, candidate), float64 [pairs].

    Where a pair does not fit the context, the longer code is cut at its end until it does.
    """
    encode = model.tokenizer.encode
    verdicts = [encode(text) for text in (EQUIVALENT_TEXT, DIFFERENT_TEXT)]
    longest = max(map(len, verdicts))
    length = model.config.max_length
    batch_size = max(1, BATCH_TOKENS // length)
    prompts = [_prompt(model, encode(query), encode(candidate), length - longest) for query, candidate in pairs]
    odds = np.zeros(len(prompts))
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        for verdict, sign in zip(verdicts, (1, -1), strict=True):
            inputs = np.zeros((batch_size, length), np.int32)
            firsts, sizes = np.zeros(batch_size, np.int32), np.zeros(batch_size, np.int32)
            for row, prompt in enumerate(part):
                tokens = np.concatenate([prompt, verdict])
                inputs[row, : len(tokens)] = tokens
                firsts[row], sizes[row] = len(prompt), len(tokens)
            targets = np.pad(verdict, (0, longest - len(verdict)), constant_values=-1)
            with logical_axes_on(model.mesh):
                log_p = _log_probability(model.config, model.params, inputs, firsts, sizes, targets)
            odds[start : start + len(part)] += sign * np.asarray(log_p, np.float64)[: len(part)]
        on_progress(len(part))
    return odds


def _prompt(model: TextModel, query: np.ndarray, candidate: np.ndarray, room: int) -> np.ndarray:
    room -= len(model.begin)
    shorter = min(len(query), len(candidate), room // 2)
    query, candidate = query[: max(shorter, room - len(candidate))], candidate[: max(shorter, room - len(query))]
    return np.concatenate([model.begin, query, candidate[: room - len(query)]]).astype(np.int32)


@functools.partial(jax.jit, static_argnums=0)
def _log_probability(config: TransformerConfig, params: Any, inputs_BxL, firsts_B, sizes_B, targets_K) -> jax.Array:
    """Sum of the log probabilities of `targets_K` (-1: none) from index `firsts_B` on, float32 [B]."""
    index_L = jnp.arange(inputs_BxL.shape[1])
    positions_BxL = jnp.broadcast_to(index_L, inputs_BxL.shape)
    attend_to_BxL = jnp.where(index_L < sizes_B[:, None], positions_BxL + 1, 0)
    x_BxLxD = hidden_states(config, params, inputs_BxL, positions_BxL, 0 * positions_BxL, attend_to_BxL)
    says_BxK = jnp.clip(firsts_B[:, None] - 1 + jnp.arange(len(targets_K)), 0, inputs_BxL.shape[1] - 1)
    x_BxKxD = jnp.take_along_axis(x_BxLxD, says_BxK[..., None], axis=1)
    log_p_BxKxV = jax.nn.log_softmax(logits(config, params, x_BxKxD), axis=-1)
    log_p_BxK = jnp.take_along_axis(log_p_BxKxV, jnp.maximum(targets_K, 0)[None, :, None], axis=-1)[..., 0]
    return jnp.where(targets_K >= 0, log_p_BxK, 0).sum(-1)
