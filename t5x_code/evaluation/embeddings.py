"""One vector per code, from a decoder's last layer: its tokens' mean or its last token, with either kind of attention.

Codes are packed into rows and isolated, so that one compiled function serves all lengths.

Legend: N codes, B rows, L length, C code slots of a row, D model.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import numpy as np

from t5x_code.inference.infilling import TextModel
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import hidden_states
from t5x_code.models.pooling import Pooling, pool_codes
from t5x_code.parallel.rules import logical_axes_on, num_batch_shards

Attention = Literal["causal", "bidirectional"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
ATTENTIONS: tuple[Attention, ...] = get_args(Attention)
MAX_ROW = 2048  # tokens
BATCH_TOKENS = 8192
SLOTS = 64  # C
FULL_BELOW = 8  # tokens left of a row: hardly a code is that short, and it is not looked at again


def most_tokens(model: TextModel) -> int:
    """Tokens of a code that are read; what is longer is cut at its end."""
    return min(model.config.max_length, MAX_ROW) - len(model.begin)


def embed_codes(
    model: TextModel,
    codes: Sequence[np.ndarray],
    attention: Attention = "causal",
    on_progress: Callable[[int], object] = lambda done: None,
) -> dict[Pooling, np.ndarray]:
    """Embeds codes.

    Args:
        model: any decoder.
        codes: token ids of each, at least one, without control tokens; `most_tokens` of them are read.
        attention: whether a token of a code sees only those before it or all of the code.
        on_progress: is told how many more codes are done.

    Returns:
        By pooling, float32 [N, D], not normalised. What the model begins documents with is read first and
        not pooled.
    """
    length = min(model.config.max_length, MAX_ROW)
    cut = [code[: most_tokens(model)] for code in codes]
    rows = _pack([len(code) + len(model.begin) for code in cut], length)
    num_rows = max(1, BATCH_TOKENS // length)
    if model.mesh is not None:
        shards = num_batch_shards(model.mesh)
        num_rows = -(-num_rows // shards) * shards
    vectors = {pooling: np.zeros((len(codes), model.config.model_dim), np.float32) for pooling in POOLINGS}
    with logical_axes_on(model.mesh):
        for start in range(0, len(rows), num_rows):
            group = rows[start : start + num_rows]
            batch = _lay_out(group, cut, num_rows, length, model, attention)
            pooled = jax.device_get(_embed(model.config, model.params, *batch))
            for pooling, vectors_BxCxD in pooled.items():
                for row, numbers in enumerate(group):
                    vectors[pooling][numbers] = vectors_BxCxD[row, : len(numbers)]
            on_progress(sum(map(len, group)))
    return vectors


@functools.partial(jax.jit, static_argnums=0)
def _embed(
    config: TransformerConfig,
    params: Any,
    inputs_BxL: jax.Array,
    positions_BxL: jax.Array,
    attend_from_BxL: jax.Array,
    attend_to_BxL: jax.Array,
    pool_ids_BxL: jax.Array,
) -> dict[Pooling, jax.Array]:
    """By pooling, the vectors [B, C, D] of a batch."""
    x_BxLxD = hidden_states(config, params, inputs_BxL, positions_BxL, attend_from_BxL, attend_to_BxL)
    return {pooling: pool_codes(x_BxLxD, pool_ids_BxL, SLOTS, pooling) for pooling in POOLINGS}


def _pack(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Numbers of the codes in each row, longest codes first."""
    rows: list[list[int]] = []
    room: list[int] = []
    first_open = 0  # rows before it are full
    for number in sorted(range(len(sizes)), key=lambda n: -sizes[n]):
        size = max(1, sizes[number])
        row = next((r for r in range(first_open, len(rows)) if room[r] >= size and len(rows[r]) < SLOTS), None)
        if row is None:
            rows.append([])
            room.append(length)
            row = len(rows) - 1
        rows[row].append(number)
        room[row] -= size
        while first_open < len(rows) and (room[first_open] < FULL_BELOW or len(rows[first_open]) == SLOTS):
            first_open += 1
    return rows


def _lay_out(
    rows: Sequence[Sequence[int]],
    codes: Sequence[np.ndarray],
    num_rows: int,
    length: int,
    model: TextModel,
    attention: Attention,
) -> tuple[np.ndarray, ...]:
    """inputs, positions, attend_from, attend_to and pool_ids, each int32 [B, L]."""
    inputs, positions, attend_from, attend_to = (np.zeros((num_rows, length), np.int32) for _ in range(4))
    pool_ids = np.full((num_rows, length), -1, np.int32)
    for row, numbers in enumerate(rows):
        start = 0
        for slot, number in enumerate(numbers):
            tokens = np.concatenate([model.begin, codes[number]]).astype(np.int32)
            end = start + len(tokens)
            inputs[row, start:end] = tokens
            positions[row, start:end] = np.arange(len(tokens))
            attend_from[row, start:end] = start
            attend_to[row, start:end] = np.arange(start, end) + 1 if attention == "causal" else end
            pool_ids[row, start + len(model.begin) : end] = slot
            start = end
    return inputs, positions, attend_from, attend_to, pool_ids
