"""Attention, forward and backward: ours beside `jax.nn.dot_product_attention` with a mask, on the same arrays.

    python benchmarks/attention.py --lengths=1024,2048 --output=attention.json

Ours is what "auto" chooses for the device (printed). The peer is JAX's own function with a boolean mask, as users of
masks of their own call it; on an NVIDIA GPU also cuDNN with its built-in causal mask, which is the limit there: it
knows no documents and no prefixes. Each runs on causal rows, and on rows of packed documents that begin with a prefix
which sees itself both ways. `to causal` is the cost of the latter beside the former: at most 1.1 is wanted. Variants
take turns, A B A B. Memory is what the compiled program asks for beside its arguments and results, up to the longest of
--memory_lengths; it has to grow linearly.

Legend: B batch, L length, H heads, E head dim.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import turns
from absl import flags

from t5x_code.models.attention.choice import choose
from t5x_code.models.attention.dispatch import attention, case_of
from t5x_code.recipes import command_line

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
    rows = [row for length in map(int, _LENGTHS.value) for row in measure(length)]
    for length in map(int, _MEMORY_LENGTHS.value):
        program = compiled(ours, arrays_of("causal", length))
        rows.append(
            {"length": length, "variant": f"ours ({chosen(length)})", "rows": "compiled only"} | memory(program)
        )
    names = ("length", "variant", "rows", "seconds", "fastest", "slowest", "speed_ratio", "to_causal", "temp_mib")
    titles = ("L", "variant", "rows", "s", "min", "max", "speed ratio", "to causal", "temp MiB")
    turns.print_table(titles, [[row.get(name) for name in names] for row in rows])
    sizes = {flag.name: flag.value for flag in (_BATCH_SIZE, _NUM_HEADS, _HEAD_DIM, _DTYPE)}
    turns.write(_OUTPUT.value, rows, **sizes)


def measure(length: int) -> list[dict[str, Any]]:
    """The rows of the table for one length."""
    variants: dict[str, Callable[..., jax.Array]] = {f"ours ({chosen(length)})": ours, "jax.nn, mask": masked}
    programs = {}
    for name, compute in variants.items():
        for kind in ("causal", "packed prefixes"):
            arrays = arrays_of(kind, length)
            programs[name, kind] = compiled(compute, arrays), arrays
    if jax.default_backend() == "gpu" and _DTYPE.value == "bfloat16":
        arrays = arrays_of("causal", length)
        programs["cuDNN, causal only", "causal"] = compiled(cudnn, arrays), arrays
    runs = {
        key: lambda program=program, arrays=arrays: jax.block_until_ready(program(*arrays))
        for key, (program, arrays) in programs.items()
    }
    results = []
    seconds = turns.interleave(runs, _ROUNDS.value)
    medians = {key: turns.summarise(values)["seconds"] for key, values in seconds.items()}
    for (name, kind), values in seconds.items():
        row = {"length": length, "variant": name, "rows": kind} | turns.summarise(values)
        row["speed_ratio"] = medians["jax.nn, mask", kind] / row["seconds"]
        row["to_causal"] = row["seconds"] / medians[name, "causal"]
        results.append(row | memory(programs[name, kind][0]))
    return results


def ours(q, k, v, attend_from, attend_to):
    """By intervals."""
    return attention(q, k, v, attend_from, attend_to, scale=_HEAD_DIM.value**-0.5)


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
