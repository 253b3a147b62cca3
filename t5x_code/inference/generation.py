"""Continues token prompts with a key/value cache: one prefill per prompt, then one compiled loop for all its samples.

Prompts of a batch are padded on the left, so that every row writes the same cache slot at the same time. Slots and
positions differ by the row's padding; a token sees the slots from its row's first real one to its own.

Legend of array names: P prompts of a batch, T prompt slots (a few sizes only, as each is compiled), R rows decoded
together (P x samples), N new tokens, V vocabulary.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Container, Iterator, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from t5x_code.errors import UserError
from t5x_code.inference.sampling import Sampling, row_key, sample
from t5x_code.models.cache import KeyValueCache, init_cache
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import decode, decode_logits
from t5x_code.models.few_rows import Decoding
from t5x_code.parallel.rules import logical_axes_on, num_batch_shards

SMALLEST_BUCKET = 32  # prompt slots


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """How prompts are continued."""

    max_new_tokens: int = 128
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    num_samples: int = 1  # continuations of each prompt
    seed: int = 0
    stop_tokens: tuple[int, ...] = ()  # a continuation ends with the first of these
    forbidden_tokens: tuple[int, ...] = ()  # never chosen
    batch_size: int = 32  # rows decoded together, at most
    check_period: int = 32  # new tokens between two calls of `should_stop`

    def __post_init__(self) -> None:
        """Raises UserError for counts below 1, and for samples that greedy decoding would make all alike."""
        for name in ("max_new_tokens", "num_samples", "batch_size", "check_period"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.num_samples > 1 and self.sampling.temperature == 0:
            raise UserError(f"num_samples is {self.num_samples}, but at temperature 0 all are alike; set a temperature")


@flax.struct.dataclass
class _Rows:
    """State of the decoding loop."""

    cache: KeyValueCache
    logits_RxV: jax.Array  # of the next token
    keys_R: jax.Array
    pad_R: jax.Array  # padding slots before the prompt
    tokens_RxN: jax.Array
    lengths_R: jax.Array  # new tokens that count
    done_R: jax.Array
    step: jax.Array  # new tokens made so far, the same for all rows


def generate(
    config: TransformerConfig,
    decoding: Decoding,
    prompts: Sequence[np.ndarray],
    generation: GenerationConfig,
    *,
    mesh: Mesh | None = None,
    should_stop: Callable[[list[int]], bool] | None = None,
    names: Sequence[str] | None = None,
    numbers: Sequence[int] | None = None,
    skip: Container[int] = (),
    on_answers: Callable[[dict[int, list[list[int]]]], None] = lambda answers: None,
) -> list[list[list[int]]]:
    """Continues each prompt `num_samples` times.

    A prompt's continuations depend on its tokens, its number and the generation config, not on its batch.

    Args:
        config: the model's.
        decoding: the model's parameters, as `decoding_params` makes them.
        prompts: token ids, at least one each.
        generation: how.
        mesh: what the parameters are laid out on, rows are split over its batch axes; None: one device.
        should_stop: is asked about the new tokens of each unfinished row every `check_period` tokens; True ends the
            row there.
        names: what error messages call the prompts.
        numbers: key the draws of each prompt; its index if not given.
        skip: indices of prompts that need no answer. Which prompts share a batch does not depend on it, so that what
            is left of a generation that was interrupted comes out as it would have.
        on_answers: called with the continuations of the prompts just finished, by index.

    Returns:
        New token ids by prompt and sample, none for a prompt whose batch was skipped; a stop token that ended a
        continuation is its last.

    Raises:
        UserError: a prompt is empty, or too long for the context.
    """
    names = names or [f"prompt {index + 1}" for index in range(len(prompts))]
    numbers = range(len(prompts)) if numbers is None else numbers
    for prompt, name in zip(prompts, names, strict=True):
        check_fits(len(prompt), generation.max_new_tokens, config.max_length, name)
    samples = min(generation.num_samples, generation.batch_size)
    batch_size = min(generation.batch_size // samples, len(prompts))
    if mesh is not None:  # every device takes as many prompts
        batch_size = -(-max(batch_size, 1) // num_batch_shards(mesh)) * num_batch_shards(mesh)
    by_length = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    results: list[list[list[int]]] = [[] for _ in prompts]
    with logical_axes_on(mesh) if mesh is not None else contextlib.nullcontext():
        for start in range(0, len(prompts), max(batch_size, 1)):
            indices = by_length[start : start + batch_size]
            if all(index in skip for index in indices):
                continue
            slots = _bucket(len(prompts[indices[0]]), config.max_length - generation.max_new_tokens)
            inputs_PxT, pad_P = _left_pad([prompts[index] for index in indices], batch_size, slots)
            prefilled = _prefill(config, generation.max_new_tokens, decoding, inputs_PxT, pad_P)
            for first in range(0, generation.num_samples, samples):
                rows = _start(
                    generation, [numbers[index] for index in indices], range(first, first + samples), pad_P, *prefilled
                )
                rows = _finish(config, decoding, generation, rows, slots, should_stop)
                for row, tokens in enumerate(_new_tokens(rows)):
                    prompt, extra = divmod(row, samples)
                    if prompt < len(indices) and first + extra < generation.num_samples:
                        results[indices[prompt]].append(tokens)
            on_answers({index: results[index] for index in indices if index not in skip})
    return results


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


def _bucket(num_tokens: int, most: int) -> int:
    """Prompt slots: a power of two, so that prompts of many lengths compile few programs; no more than fit."""
    return min(max(SMALLEST_BUCKET, 1 << (num_tokens - 1).bit_length()), most)


def _left_pad(prompts: Sequence[np.ndarray], batch_size: int, slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts side by side at the right end, int32 [P, T], and the padding of each; rows without a prompt hold a 0."""
    inputs_PxT = np.zeros((batch_size, slots), np.int32)
    pad_P = np.full(batch_size, slots - 1, np.int32)
    for row, prompt in enumerate(prompts):
        pad_P[row] = slots - len(prompt)
        inputs_PxT[row, pad_P[row] :] = prompt
    return inputs_PxT, pad_P


@functools.partial(jax.jit, static_argnums=(0, 1))
def _prefill(
    config: TransformerConfig, max_new_tokens: int, decoding: Decoding, inputs_PxT: jax.Array, pad_P: jax.Array
) -> tuple[KeyValueCache, jax.Array]:
    """Reads the prompts in one pass: the filled cache, and the logits [P, V] of the first new token."""
    num_prompts, slots = inputs_PxT.shape
    slot_PxT = jnp.broadcast_to(jnp.arange(slots), (num_prompts, slots))
    pad_Px1 = pad_P[:, None]
    cache = init_cache(config, num_prompts, slots + max_new_tokens, jnp.dtype(config.dtype))
    positions_PxT = jnp.maximum(slot_PxT - pad_Px1, 0)
    # Padding sees itself alone: nobody reads it, and no row of the softmax is empty.
    attend_from_PxT = jnp.where(slot_PxT < pad_Px1, slot_PxT, pad_Px1)
    x_PxTxD, cache = decode(
        config, decoding, cache, inputs_PxT, positions_PxT, jnp.int32(0), attend_from_PxT, slot_PxT + 1
    )
    return cache, decode_logits(config, decoding, x_PxTxD[:, -1:])[:, 0]


def _start(
    generation: GenerationConfig,
    prompt_numbers: Sequence[int],
    sample_indices: Sequence[int],
    pad_P: np.ndarray,
    cache: KeyValueCache,
    logits_PxV: jax.Array,
) -> _Rows:
    """Rows for some samples of each prompt, all from the one prefill. Rows without a prompt or sample are done."""
    num_prompts, num_samples = len(pad_P), len(sample_indices)
    absent = num_prompts - len(prompt_numbers)
    prompt_R = np.repeat(np.array([*prompt_numbers, *[-1] * absent]), num_samples)
    sample_R = np.tile(np.array(sample_indices), num_prompts)
    rows = num_prompts * num_samples
    return _Rows(
        cache=jax.tree.map(lambda array_Px_: jnp.repeat(array_Px_, num_samples, axis=0), cache),
        logits_RxV=jnp.repeat(logits_PxV, num_samples, axis=0),
        keys_R=jax.vmap(row_key, (None, 0, 0))(generation.seed, prompt_R, sample_R),
        pad_R=jnp.repeat(pad_P, num_samples),
        tokens_RxN=jnp.zeros((rows, generation.max_new_tokens), jnp.int32),
        lengths_R=jnp.zeros(rows, jnp.int32),
        done_R=jnp.asarray((prompt_R < 0) | (sample_R >= generation.num_samples)),
        step=jnp.int32(0),
    )


def _finish(
    config: TransformerConfig,
    decoding: Decoding,
    generation: GenerationConfig,
    rows: _Rows,
    slots: int,
    should_stop: Callable[[list[int]], bool] | None,
) -> _Rows:
    """Decodes until every row is done, with a look at the text between chunks when there is something to look for."""
    period = generation.max_new_tokens if should_stop is None else generation.check_period
    stop_S = np.array(generation.stop_tokens, np.int32)
    forbidden_F = np.array(generation.forbidden_tokens, np.int32)
    for until in range(period, generation.max_new_tokens + period, period):
        until = min(until, generation.max_new_tokens)
        rows = _decode_until(config, generation.sampling, decoding, rows, slots, until, stop_S, forbidden_F)
        if should_stop is not None:
            done_R = np.array(rows.done_R)
            for row, tokens in enumerate(_new_tokens(rows)):
                done_R[row] |= not done_R[row] and should_stop(tokens)
            rows = rows.replace(done_R=jnp.asarray(done_R))
        if np.all(rows.done_R):
            break
    return rows


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _decode_until(
    config: TransformerConfig,
    sampling: Sampling,
    decoding: Decoding,
    rows: _Rows,
    slots: jax.Array,
    until: jax.Array,
    stop_S: jax.Array,
    forbidden_F: jax.Array,
) -> _Rows:
    """Adds tokens up to the `until`-th, or until all rows are done."""

    def decode_token(rows: _Rows) -> _Rows:
        allowed_RxV = rows.logits_RxV.at[:, forbidden_F].set(-jnp.inf) if len(forbidden_F) else rows.logits_RxV
        token_R = sample(allowed_RxV, rows.keys_R, rows.step, sampling)
        slot = slots + rows.step
        x_Rx1xD, cache = decode(
            config,
            decoding,
            rows.cache,
            token_R[:, None],
            (slot - rows.pad_R)[:, None],
            slot,
            rows.pad_R[:, None],
            jnp.full_like(rows.pad_R, slot + 1)[:, None],
        )
        return rows.replace(
            cache=cache,
            logits_RxV=decode_logits(config, decoding, x_Rx1xD)[:, 0],
            tokens_RxN=rows.tokens_RxN.at[:, rows.step].set(token_R),
            lengths_R=rows.lengths_R + ~rows.done_R,
            done_R=rows.done_R | jnp.any(token_R[:, None] == stop_S, axis=1),
            step=rows.step + 1,
        )

    return jax.lax.while_loop(lambda rows: (rows.step < until) & ~jnp.all(rows.done_R), decode_token, rows)


def _new_tokens(rows: _Rows) -> Iterator[list[int]]:
    tokens_RxN, lengths_R = np.asarray(rows.tokens_RxN), np.asarray(rows.lengths_R)
    return (tokens_RxN[row, :length].tolist() for row, length in enumerate(lengths_R))
