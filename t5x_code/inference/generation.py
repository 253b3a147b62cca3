"""Continues token prompts with a key/value cache: one prefill per prompt, then one compiled loop for all its samples.

Rows are padded on the left, as prefill.py says; a new token sees the slots from its row's first real one to its own.

Legend of array names: P prompts of a batch, R rows decoded together (P x samples), N new tokens, V vocabulary,
D model, S tokens that end a row, F tokens that are never chosen.
"""

import dataclasses
import functools
from collections.abc import Callable, Container, Iterator, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from t5x_code.errors import UserError
from t5x_code.inference.prefill import check_fits, prefill, prompt_slots
from t5x_code.inference.sampling import Sampling, check_seed, row_key, sample
from t5x_code.models.cache import KeyValueCache, init_cache
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import decode, decode_logits
from t5x_code.models.few_rows import Decoding
from t5x_code.parallel.rules import logical_axes_on, num_batch_shards

# Bytes of a cache that has room for half of the new tokens first: every step reads all slots, but the second size is
# another program to compile.
GROWS_FROM = 32 << 20


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
        """Raises UserError for counts below 1, a seed that is none, and what does nothing in greedy decoding."""
        for name in ("max_new_tokens", "num_samples", "batch_size", "check_period"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        check_seed(self.seed)
        if self.num_samples > 1 and self.sampling.temperature == 0:
            raise UserError(f"num_samples is {self.num_samples}, but at temperature 0 all are alike; set a temperature")
        for name, every in (("top_k", 0), ("top_p", 1)):
            if self.sampling.temperature == 0 and getattr(self.sampling, name) != every:
                given = getattr(self.sampling, name)
                raise UserError(f"{name} is {given}, but at temperature 0 nothing is drawn; set a temperature")

    @property
    def samples_at_once(self) -> int:
        """Samples of a prompt that are decoded together."""
        return min(self.num_samples, self.batch_size)


@flax.struct.dataclass
class _Rows:
    """State of the decoding loop."""

    cache: KeyValueCache  # of all but the last token made
    keys_R: jax.Array
    pad_R: jax.Array  # padding slots before the prompt
    tokens_RxN: jax.Array
    lengths_R: jax.Array  # new tokens that count
    done_R: jax.Array
    step: jax.Array  # new tokens made so far, 1 or more, the same for all rows

    def add(self, token_R: jax.Array, stop_S: jax.Array) -> "_Rows":
        """With one more token of each row."""
        return self.replace(
            tokens_RxN=self.tokens_RxN.at[:, self.step].set(token_R),
            lengths_R=self.lengths_R + ~self.done_R,
            done_R=self.done_R | jnp.any(token_R[:, None] == stop_S, axis=1),
            step=self.step + 1,
        )


def generate(
    config: TransformerConfig,
    decoding: Decoding,
    prompts: Sequence[np.ndarray],
    generation: GenerationConfig,
    *,
    mesh: Mesh | None = None,
    prefix_lengths: Sequence[int] | None = None,
    should_stop: Callable[[int, list[int]], bool] | None = None,
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
        prefix_lengths: how many of each prompt's first tokens see each other both ways; none if not given.
        should_stop: is asked about each unfinished row every `check_period` tokens, by the index of its prompt and its
            new tokens; True ends the row there.
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
    prefix_lengths = prefix_lengths or [0] * len(prompts)
    for prompt, name in zip(prompts, names, strict=True):
        check_fits(len(prompt), generation.max_new_tokens, config.max_length, name)
    batch_size = min(generation.batch_size // generation.samples_at_once, len(prompts))
    if mesh is not None:  # every device takes as many prompts
        batch_size = -(-max(batch_size, 1) // num_batch_shards(mesh)) * num_batch_shards(mesh)
    by_length = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    results: dict[int, list[list[int]]] = {}
    with logical_axes_on(mesh):
        for start in range(0, len(prompts), max(batch_size, 1)):
            indices = by_length[start : start + batch_size]
            if all(index in skip for index in indices):
                continue
            batch = {index: prompts[index] for index in indices}
            prefixes = [prefix_lengths[index] for index in indices]
            batch_numbers = [numbers[index] for index in indices]
            results |= _generate_batch(
                config, decoding, batch, prefixes, batch_numbers, generation, batch_size, should_stop
            )
            on_answers({index: results[index] for index in indices if index not in skip})
    return [results.get(index, []) for index in range(len(prompts))]


def _generate_batch(
    config: TransformerConfig,
    decoding: Decoding,
    prompts: dict[int, np.ndarray],
    prefix_lengths: Sequence[int],
    numbers: Sequence[int],
    generation: GenerationConfig,
    batch_size: int,
    should_stop: Callable[[int, list[int]], bool] | None,
) -> dict[int, list[list[int]]]:
    """Continues prompts, by index, from one prefill of `batch_size` of them; the others are padding."""
    indices = list(prompts)
    samples = generation.samples_at_once

    def row_should_stop(row: int, tokens: list[int]) -> bool:
        return should_stop(indices[row // samples], tokens)

    slots = prompt_slots(max(map(len, prompts.values())), config.max_length - generation.max_new_tokens)
    room = _first_room(config, generation.max_new_tokens, slots, batch_size * samples)
    cache, logits_PxV, pad_P = prefill(
        config, decoding, list(prompts.values()), prefix_lengths, batch_size, slots, room
    )
    results: dict[int, list[list[int]]] = {index: [] for index in indices}
    for first in range(0, generation.num_samples, samples):
        rows = _start(generation, numbers, range(first, first + samples), pad_P, cache, logits_PxV)
        rows = _finish(config, decoding, generation, rows, slots, row_should_stop if should_stop else None)
        for row, tokens in enumerate(_new_tokens(rows)):
            prompt, extra = divmod(row, samples)
            if prompt < len(indices) and first + extra < generation.num_samples:
                results[indices[prompt]].append(tokens)
    return results


def _first_room(config: TransformerConfig, max_new_tokens: int, slots: int, num_rows: int) -> int:
    """New tokens that the cache has room for at first."""
    cache = jax.eval_shape(lambda: init_cache(config, num_rows, slots + max_new_tokens))
    grows = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache)) >= GROWS_FROM
    return -(-max_new_tokens // 2) if grows else max_new_tokens


def _start(
    generation: GenerationConfig,
    prompt_numbers: Sequence[int],
    sample_indices: Sequence[int],
    pad_P: np.ndarray,
    cache: KeyValueCache,
    logits_PxV: jax.Array,
) -> _Rows:
    """Rows for some samples of each prompt, all from the one prefill, with their first new token.

    Rows without a prompt or sample are done.
    """
    num_prompts, num_samples = len(pad_P), len(sample_indices)
    absent = num_prompts - len(prompt_numbers)
    prompt_R = np.repeat(np.array([*prompt_numbers, *[-1] * absent]), num_samples)
    sample_R = np.tile(np.array(sample_indices), num_prompts)
    done_R = (prompt_R < 0) | (sample_R >= generation.num_samples)
    return _spread(
        num_samples,
        generation.max_new_tokens,
        generation.sampling,
        generation.seed,
        prompt_R,
        sample_R,
        done_R,
        pad_P,
        cache,
        logits_PxV,
        *_token_sets(generation),
    )


def _token_sets(generation: GenerationConfig) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that end a row [S], and those that are never chosen [F]."""
    return np.array(generation.stop_tokens, np.int32), np.array(generation.forbidden_tokens, np.int32)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _spread(
    num_samples: int,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
    prompt_R: jax.Array,
    sample_R: jax.Array,
    done_R: jax.Array,
    pad_P: jax.Array,
    cache: KeyValueCache,
    logits_PxV: jax.Array,
    stop_S: jax.Array,
    forbidden_F: jax.Array,
) -> _Rows:
    """The state that decoding starts from: each prompt's part of the prefill once for each of its samples."""

    def spread(array_Px_: jax.Array) -> jax.Array:
        return jnp.repeat(array_Px_, num_samples, axis=0)

    rows = _Rows(
        cache=jax.tree.map(spread, cache),
        keys_R=jax.vmap(row_key, (None, 0, 0))(seed, prompt_R, sample_R),
        pad_R=spread(pad_P),
        tokens_RxN=jnp.zeros((len(prompt_R), max_new_tokens), jnp.int32),
        lengths_R=jnp.zeros(len(prompt_R), jnp.int32),
        done_R=done_R,
        step=jnp.int32(0),
    )
    allowed_V = _allowed(logits_PxV.shape[-1], forbidden_F)
    return rows.add(_choose(spread(logits_PxV), allowed_V, rows, sampling), stop_S)


def _allowed(vocabulary: int, forbidden_F: jax.Array) -> jax.Array | None:
    """Which tokens may be chosen, [V]; None: all."""
    return jnp.ones(vocabulary, bool).at[forbidden_F].set(False) if len(forbidden_F) else None


def _choose(logits_RxV: jax.Array, allowed_V: jax.Array | None, rows: _Rows, sampling: Sampling) -> jax.Array:
    """The next token of each row, int32 [R]."""
    if allowed_V is not None:
        logits_RxV = jnp.where(allowed_V, logits_RxV, -jnp.inf)
    return sample(logits_RxV, rows.keys_R, rows.step, sampling)


def _finish(
    config: TransformerConfig,
    decoding: Decoding,
    generation: GenerationConfig,
    rows: _Rows,
    slots: int,
    should_stop: Callable[[int, list[int]], bool] | None,
) -> _Rows:
    """Decodes until every row is done, with a look at the text between chunks when there is something to look for."""
    most = generation.max_new_tokens
    room = rows.cache.length - slots
    looks = range(generation.check_period, most, generation.check_period) if should_stop is not None else ()
    ends = _token_sets(generation)
    for until in sorted({*looks, room, most}):
        if until > rows.cache.length - slots:
            rows = _grow(rows, most - room)
        rows = _decode_until(config, generation.sampling, decoding, rows, slots, until, *ends)
        if should_stop is not None and (until in looks or until == most):
            done_R = np.array(rows.done_R)
            for row, tokens in enumerate(_new_tokens(rows)):
                done_R[row] |= not done_R[row] and should_stop(row, tokens)
            rows = rows.replace(done_R=jnp.asarray(done_R))
        if np.asarray(rows.done_R).all():
            break
    return rows


@functools.partial(jax.jit, static_argnums=1)
def _grow(rows: _Rows, room: int) -> _Rows:
    """The rows with a cache that has room for more tokens."""
    return rows.replace(cache=rows.cache.extended(room))


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
    allowed_V = _allowed(config.padded_vocab_size, forbidden_F)

    def decode_token(rows: _Rows) -> _Rows:
        slot = slots + rows.step - 1
        x_Rx1xD, cache = decode(
            config,
            decoding,
            rows.cache,
            jax.lax.dynamic_slice_in_dim(rows.tokens_RxN, rows.step - 1, 1, axis=1),
            (slot - rows.pad_R)[:, None],
            slot,
            rows.pad_R[:, None],
            jnp.full_like(rows.pad_R, slot + 1)[:, None],
        )
        # Chosen at once, not carried to the next turn: a loop's logits would be written out in another order.
        logits_RxV = decode_logits(config, decoding, x_Rx1xD)[:, 0]
        return rows.replace(cache=cache).add(_choose(logits_RxV, allowed_V, rows, sampling), stop_S)

    return jax.lax.while_loop(lambda rows: (rows.step < until) & ~jnp.all(rows.done_R), decode_token, rows)


def _new_tokens(rows: _Rows) -> Iterator[list[int]]:
    tokens_RxN, lengths_R = np.asarray(rows.tokens_RxN), np.asarray(rows.lengths_R)
    return (tokens_RxN[row, :length].tolist() for row, length in enumerate(lengths_R))
