"""Attention, forward and backward: ours beside `jax.nn.dot_product_attention` with a mask, on the same arrays.

    python benchmarks/attention.py --lengths=1024,2048 --output=attention.json

Ours is what "auto" chooses for the device (printed). The peer is JAX's own function with a boolean mask, as users of
masks of their own call it; on an NVIDIA GPU also ours for recipes whose tokens see no later ones, and cuDNN with its
built-in causal mask, which is the limit there: it knows no documents and no prefixes. Each runs on causal rows, and on
rows of packed documents that begin with a prefix which sees itself both ways. `to causal` is the cost of the latter
beside the former: at most 1.1 is wanted. Variants take turns, A B A B. Memory is what the compiled program asks for
beside its arguments and results, up to the longest of --memory_lengths; it has to grow linearly. A variant that the
device's memory does not hold has no times.

Legend: B batch, L length, H heads, E head dim.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import turns
from absl import flags

from t5x_code.models.attention.choice import choose
from t5x_code.models.attention.dispatch import attention, case_of
from t5x_code.models.config import AUTO
from t5x_code.recipes import command_line
from t5x_code.terminal import say

DOCUMENT_LENGTH = 400  # mean tokens of a packed document, of which the first third is its prefix

_BATCH_SIZE = flags.DEFINE_integer("batch_size", 1, "B")
_NUM_HEADS = flags.DEFINE_integer("num_heads", 16, "H")
_HEAD_DIM = flags.DEFINE_integer("head_dim", 64, "E")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of queries, keys and values.")
_LENGTHS = flags.DEFINE_list("lengths", ["1024", "2048"], "L of the timed rows.")
_MEMORY_LENGTHS = flags.DEFINE_list("memory_lengths", ["2048", "8192", "32768"], "L of what is only compiled.")
_ROUNDS = flags.DEFINE_integer("rounds", 4, "How often each variant is timed.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")

Arrays = tuple[jax.Array, ...]


def main(argv: list[str]) -> None:
    """Times each length, compiles the long ones, prints the table."""
    del argv
    sizes = {flag.name: flag.value for flag in (_BATCH_SIZE, _NUM_HEADS, _HEAD_DIM, _DTYPE)}
    rows: list[dict[str, Any]] = []
    for length in map(int, _LENGTHS.value):
        rows += measure(length)
        turns.write(_OUTPUT.value, rows, **sizes)  # what is measured stays, whatever becomes of the next
    for length in map(int, _MEMORY_LENGTHS.value):
        program = compiled(ours, arrays_of("causal", length))
        rows.append(
            {"length": length, "variant": f"ours ({chosen(length)})", "rows": "compiled only"} | memory(program)
        )
    names = ("length", "variant", "rows", "seconds", "fastest", "slowest", "speed_ratio", "to_causal", "temp_mib")
    titles = ("L", "variant", "rows", "s", "min", "max", "speed ratio", "to causal", "temp MiB")
    turns.print_table(titles, [[row.get(name) for name in names] for row in rows])
    turns.write(_OUTPUT.value, rows, **sizes)


def measure(length: int) -> list[dict[str, Any]]:
    """The rows of the table for one length."""
    variants: dict[str, Callable[..., jax.Array]] = {f"ours ({chosen(length)})": ours, "jax.nn, mask": masked}
    cases = [(name, kind) for name in variants for kind in ("causal", "packed prefixes")]
    if jax.default_backend() == "gpu" and _DTYPE.value == "bfloat16":
        variants["cuDNN, causal only"] = cudnn
        cases.append(("cuDNN, causal only", "causal"))
        if chosen(length) == "tokamax":
            variants["ours (tokamax_causal)"] = functools.partial(ours, implementation="tokamax_causal")
            cases.append(("ours (tokamax_causal)", "causal"))
    programs: dict[tuple[str, str], jax.stages.Compiled] = {}
    runs: dict[tuple[str, str], Callable[[], Any]] = {}
    for name, kind in cases:
        arrays = arrays_of(kind, length)
        with unless_too_large(f"{name}, {kind}, {length} tokens"):
            program = compiled(variants[name], arrays)
            jax.block_until_ready(program(*arrays))
            programs[name, kind] = program
            runs[name, kind] = lambda program=program, arrays=arrays: jax.block_until_ready(program(*arrays))
    timed = {key: turns.summarise(values) for key, values in turns.interleave(runs, _ROUNDS.value).items()}
    results = []
    for name, kind in cases:
        row: dict[str, Any] = {"length": length, "variant": name, "rows": kind}
        if (name, kind) in timed:
            row |= timed[name, kind] | memory(programs[name, kind])
            peer, causal = timed.get(("jax.nn, mask", kind)), timed.get((name, "causal"))
            row["speed_ratio"] = peer["seconds"] / row["seconds"] if peer else None
            row["to_causal"] = row["seconds"] / causal["seconds"] if causal else None
        results.append(row)
    return results


@contextlib.contextmanager
def unless_too_large(what: str) -> Iterator[None]:
    """Says so where the device has too little memory for something, and goes on without it."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        say(f"{what}: too large for the device's memory")


def ours(q, k, v, attend_from, attend_to, implementation=AUTO):
    """By intervals."""
    return attention(q, k, v, attend_from, attend_to, implementation, scale=_HEAD_DIM.value**-0.5)


def masked(q, k, v, attend_from, attend_to):
    """JAX's own, from a mask made of the same intervals."""
    key = jnp.arange(k.shape[1])
    seen = (key >= attend_from[..., None]) & (key < attend_to[..., None])
    return jax.nn.dot_product_attention(q, k, v, mask=seen[:, None], implementation="xla")


def cudnn(q, k, v, attend_from, attend_to):
    """NVIDIA's, which masks by itself."""
    del attend_from, attend_to
    return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")


def compiled(compute: Callable[..., jax.Array], arrays: Arrays) -> jax.stages.Compiled:
    """Forward and backward pass."""

    def loss(*arrays: jax.Array) -> jax.Array:
        return compute(*arrays).astype(jnp.float32).sum()

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(*arrays).compile()


def arrays_of(kind: str, length: int) -> Arrays:
    """Queries, keys, values [B, L, H, E], and both ends of the intervals [B, L]."""
    shape = (_BATCH_SIZE.value, length, _NUM_HEADS.value, _HEAD_DIM.value)
    heads = (jax.random.normal(key, shape, _DTYPE.value) for key in jax.random.split(jax.random.key(0), 3))
    index = np.arange(length)
    starts = np.zeros(length, np.int64)
    ends = index + 1
    if kind != "causal":
        starts = index - index % DOCUMENT_LENGTH
        ends = np.minimum(np.maximum(ends, starts + DOCUMENT_LENGTH // 3), length)
    return *heads, *(jnp.tile(jnp.asarray(array, jnp.int32), (shape[0], 1)) for array in (starts, ends))


def chosen(length: int) -> str:
    """What "auto" takes here."""
    return choose("auto", case_of(jax.devices()[0], length, length, _HEAD_DIM.value, _DTYPE.value))


def memory(program: jax.stages.Compiled) -> dict[str, float]:
    """Beside arguments and results."""
    return {"temp_mib": program.memory_analysis().temp_size_in_bytes / 2**20}


if __name__ == "__main__":
    command_line.run(main)
