"""Time and memory of the loss head: our chunked cross-entropy beside the naive one, on the same arrays.

    python benchmarks/loss_head.py --output=loss_head.json

Each variant computes the loss and its gradients for hidden states, head and bias. Variants take turns in each round, so
that a busy machine slows all of them alike; the table shows medians and, as a ratio, the naive one of the same type.
Memory is what the compiled program asks for beside its arguments and results ("temp").

Legend: B batch, L length, D model, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import turns
from absl import flags

from t5x_code.models.cross_entropy import cross_entropy
from t5x_code.recipes import command_line

Z_LOSS = 1e-4

_BATCH_SIZE = flags.DEFINE_integer("batch_size", 4, "B")
_LENGTH = flags.DEFINE_integer("length", 512, "L")
_MODEL_DIM = flags.DEFINE_integer("model_dim", 512, "D")
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 51200, "V")
_CHUNKS = flags.DEFINE_list("chunks", ["1024", "512", "128"], "Tokens of a chunk; one variant each.")
_DTYPES = flags.DEFINE_list("dtypes", ["float32", "bfloat16"], "Types of the hidden states.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each variant is timed.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")


def main(argv: list[str]) -> None:
    """Compiles, times in turns, prints the table."""
    del argv
    results = [result for dtype in _DTYPES.value for result in measure_dtype(dtype)]
    print(f"{'variant':<28}{'seconds':>10}{'(min':>10}{'max)':>9}{'ratio':>8}{'temp MiB':>11}{'ratio':>8}")
    for r in results:
        times = f"{r['seconds']:>10.3f}{r['fastest']:>10.3f}{r['slowest']:>9.3f}{r['seconds_ratio']:>8.2f}"
        print(f"{r['variant']:<28}{times}{r['temp_mib']:>11.0f}{r['temp_ratio']:>8.2f}")
    sizes = {flag.name: flag.value for flag in (_BATCH_SIZE, _LENGTH, _MODEL_DIM, _VOCAB_SIZE)}
    turns.write(_OUTPUT.value, results, **sizes)


def naive(x: jax.Array, kernel: jax.Array, bias: jax.Array, targets: jax.Array) -> jax.Array:
    """All logits at once, differentiated by JAX."""
    logits = jnp.einsum("bld,dv->blv", x, kernel.astype(x.dtype), preferred_element_type=jnp.float32) + bias
    logsumexp = jax.nn.logsumexp(logits, -1)
    target = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return (logsumexp - target + Z_LOSS * logsumexp**2).sum()


def chunked(x: jax.Array, kernel: jax.Array, bias: jax.Array, targets: jax.Array, chunk: int) -> jax.Array:
    """Ours."""
    weights = jnp.ones(targets.shape, jnp.float32)
    sums = cross_entropy(x, kernel, bias, targets, weights, vocab_size=kernel.shape[1], chunk=chunk, z_loss=Z_LOSS)
    return sums.total


def measure_dtype(dtype: str) -> list[dict[str, Any]]:
    """Results of all variants for one type of hidden states, the naive one first."""
    B, L, D, V = _BATCH_SIZE.value, _LENGTH.value, _MODEL_DIM.value, _VOCAB_SIZE.value
    keys = jax.random.split(jax.random.key(0), 3)
    x_BxLxD = jax.random.normal(keys[0], (B, L, D), dtype)
    kernel_DxV = 0.02 * jax.random.normal(keys[1], (D, V))
    targets_BxL = jax.random.randint(keys[2], (B, L), 0, V)
    arrays = (x_BxLxD, kernel_DxV, jnp.zeros(V), targets_BxL)

    losses: dict[str, Callable[..., jax.Array]] = {f"{dtype} naive": naive}
    for chunk in map(int, _CHUNKS.value):
        losses[f"{dtype} chunked {chunk}"] = functools.partial(chunked, chunk=chunk)
    programs = {
        name: jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(*arrays).compile() for name, loss in losses.items()
    }
    runs = {name: lambda program=program: jax.block_until_ready(program(*arrays)) for name, program in programs.items()}
    seconds = turns.interleave(runs, _ROUNDS.value)
    results = [summarise(name, seconds[name], program) for name, program in programs.items()]
    for result in results:
        result["seconds_ratio"] = result["seconds"] / results[0]["seconds"]
        result["temp_ratio"] = result["temp_mib"] / results[0]["temp_mib"]
    return results


def summarise(name: str, seconds: list[float], program: jax.stages.Compiled) -> dict[str, Any]:
    """One row of the table, without its ratios."""
    return {
        "variant": name,
        **turns.summarise(seconds),
        "temp_mib": program.memory_analysis().temp_size_in_bytes / 2**20,
    }


if __name__ == "__main__":
    command_line.run(main)
