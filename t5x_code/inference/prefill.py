"""Reads the prompts of a batch in one pass, and leaves their keys and values in a cache.

Prompts of a batch are padded on the left, so that every row writes the same cache slot at the same time. Slots and
positions differ by the row's padding.

Legend of array names: P prompts of a batch, T prompt slots (a few sizes only, as each is compiled), V vocabulary,
D model.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from t5x_code.errors import UserError
from t5x_code.models.cache import KeyValueCache, init_cache
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import decode, decode_logits
from t5x_code.models.few_rows import Decoding

SMALLEST_BUCKET, BUCKET_RATIO = 64, 8  # prompt slots; each size is compiled


def check_fits(num_tokens: int, max_new_tokens: int, context: int, name: str) -> None:
    """Raises UserError, with the prompt's name, for one that is empty or leaves too little of the context."""
    if num_tokens == 0:
        raise UserError(
            f"{name} is empty, and this model's documents do not begin with a token of their own; write one"
        )
    if num_tokens + max_new_tokens > context:
        raise UserError(
            f"{name} has {num_tokens} tokens, which with max_new_tokens {max_new_tokens} is more than the model's "
            f"context of {context}; shorten it or lower max_new_tokens"
        )


def prompt_slots(num_tokens: int, most: int) -> int:
    """Prompt slots: one of a few sizes, so that prompts of many lengths compile few programs; no more than fit."""
    slots = SMALLEST_BUCKET
    while slots < num_tokens:
        slots *= BUCKET_RATIO
    return min(slots, most)


def prefill(
    config: TransformerConfig,
    decoding: Decoding,
    prompts: Sequence[np.ndarray],
    prefix_lengths: Sequence[int],
    batch_size: int,
    slots: int,
    room: int,
) -> tuple[KeyValueCache, jax.Array, np.ndarray]:
    """Reads prompts in one pass.

    Args:
        config: the model's.
        decoding: its parameters.
        prompts: token ids, at least one each.
        prefix_lengths: how many of each prompt's first tokens see each other both ways.
        batch_size: P, at least as many as there are prompts; the other rows are padding.
        slots: T, as `prompt_slots` says.
        room: new tokens that the cache shall have room for.

    Returns:
        The filled cache, the logits [P, V] of each prompt's first new token, and the padding [P] before each prompt.
    """
    inputs_PxT, pad_P = _left_pad(prompts, batch_size, slots)
    prefix_end_P = pad_P + np.pad(np.asarray(prefix_lengths, np.int32), (0, batch_size - len(prompts)))
    return *_read(config, room, decoding, inputs_PxT, pad_P, prefix_end_P), pad_P


def _left_pad(prompts: Sequence[np.ndarray], batch_size: int, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts side by side at the right end, int32 [P, T], and the padding of each; rows without a prompt hold a 0."""
    inputs_PxT = np.zeros((batch_size, slots), np.int32)
    pad_P = np.full(batch_size, slots - 1, np.int32)
    for row, prompt in enumerate(prompts):
        pad_P[row] = slots - len(prompt)
        inputs_PxT[row, pad_P[row] :] = prompt
    return inputs_PxT, pad_P


@functools.partial(jax.jit, static_argnums=(0, 1))
def _read(
    config: TransformerConfig,
    room: int,
    decoding: Decoding,
    inputs_PxT: jax.Array,
    pad_P: jax.Array,
    prefix_end_P: jax.Array,
) -> tuple[KeyValueCache, jax.Array]:
    """The filled cache with room for new tokens, and the logits [P, V] of the first; `prefix_end_P` is a slot."""
    num_prompts, slots = inputs_PxT.shape
    slot_PxT = jnp.broadcast_to(jnp.arange(slots), (num_prompts, slots))
    pad_Px1 = pad_P[:, None]
    cache = init_cache(config, num_prompts, slots)  # no more: a prompt sees all of it
    positions_PxT = jnp.maximum(slot_PxT - pad_Px1, 0)
    # Padding sees itself, so that no row of the softmax is empty; nobody reads it.
    attend_from_PxT = jnp.where(slot_PxT < pad_Px1, slot_PxT, pad_Px1)
    attend_to_PxT = jnp.maximum(slot_PxT + 1, prefix_end_P[:, None])
    x_PxTxD, cache = decode(
        config, decoding, cache, inputs_PxT, positions_PxT, jnp.int32(0), attend_from_PxT, attend_to_PxT
    )
    return cache.extended(room), decode_logits(config, decoding, x_PxTxD[:, -1:])[:, 0]
