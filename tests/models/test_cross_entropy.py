"""Chunked cross-entropy against the formula written out, on one device and on a mesh."""

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from t5x_code.models.cross_entropy import cross_entropy

B, L, D, V, VOCAB = 8, 12, 16, 64, 50
Z_LOSS = 1e-2


@dataclasses.dataclass(frozen=True)
class Case:
    x: jax.Array
    kernel: jax.Array
    bias: jax.Array
    targets: jax.Array
    weights: jax.Array
    allowed: jax.Array | None
    modality: jax.Array | None


def random_case(seed=0, dtype=jnp.float32, modality=False):
    rng = np.random.default_rng(seed)
    half = VOCAB // 2
    kinds = rng.integers(0, 2, (B, L))
    return Case(
        x=jnp.asarray(rng.normal(size=(B, L, D)), dtype),
        kernel=jnp.asarray(rng.normal(size=(D, V)), jnp.float32),
        bias=jnp.asarray(rng.normal(size=V), jnp.float32),
        targets=jnp.asarray(rng.integers(0, half, (B, L)) + half * kinds * modality, jnp.int32),
        weights=jnp.asarray(rng.random((B, L)) * (rng.random((B, L)) < 0.7), jnp.float32),
        allowed=jnp.stack([jnp.arange(VOCAB) < half, jnp.arange(VOCAB) >= half]) if modality else None,
        modality=jnp.asarray(kinds, jnp.int32) if modality else None,
    )


def written_out(case, x, kernel, bias):
    """The formula, all logits at once, differentiated by JAX. Returns total, z-loss and correct."""
    logits = jnp.einsum("bld,dv->blv", x, kernel.astype(x.dtype), preferred_element_type=jnp.float32) + bias
    logits = jnp.where(jnp.arange(V) < VOCAB, logits, -1e30)
    if case.allowed is not None:
        logits = jnp.where(jnp.pad(case.allowed, [(0, 0), (0, V - VOCAB)])[case.modality], logits, -1e30)
    logsumexp = jax.nn.logsumexp(logits, -1)
    target = jnp.take_along_axis(logits, case.targets[..., None], -1)[..., 0]
    z_loss = Z_LOSS * logsumexp**2
    sums = [(case.weights * term).sum() for term in (logsumexp - target + z_loss, z_loss)]
    return (*sums, (case.weights * (logits.argmax(-1) == case.targets)).sum())


def ours(case, x, kernel, bias, chunk=7, mesh=None):
    return cross_entropy(
        x,
        kernel,
        bias,
        case.targets,
        case.weights,
        vocab_size=VOCAB,
        chunk=chunk,
        z_loss=Z_LOSS,
        allowed_2xV=case.allowed,
        modality_BxL=case.modality,
        mesh=mesh,
    )


def compare(case, tolerance, **arguments):
    """Values, and gradients of the mean (the sum divided after the fact)."""
    wrt = (case.x, case.kernel, case.bias)
    got = jax.jit(functools.partial(ours, case, **arguments))(*wrt)
    want = written_out(case, *wrt)
    np.testing.assert_allclose(got[:3], want, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(got.weight, case.weights.sum(), rtol=1e-6)
    count = case.weights.sum() + 1e-3

    def our_mean(*wrt):
        return ours(case, *wrt, **arguments).total / count

    got = jax.jit(jax.grad(our_mean, (0, 1, 2)))(*wrt)
    want = jax.grad(lambda *wrt: written_out(case, *wrt)[0] / count, (0, 1, 2))(*wrt)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(np.float32(one), np.float32(other), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("chunk", [7, 32, 10_000])
@pytest.mark.parametrize("modality", [False, True])
def test_equals_the_formula(chunk, modality):
    compare(random_case(modality=modality), 1e-5, chunk=chunk)


def test_bfloat16_hidden_states():
    compare(random_case(dtype=jnp.bfloat16), 2e-2)


def test_all_weights_zero_gives_zero_and_no_nan():
    case = dataclasses.replace(random_case(), weights=jnp.zeros((B, L)))
    sums, gradients = jax.value_and_grad(lambda x: ours(case, x, case.kernel, case.bias).total)(case.x)
    assert float(sums) == 0 and not np.asarray(gradients).any()


def test_metrics_have_no_gradient():
    case = random_case()
    for field in ("z_loss", "correct"):
        gradient = jax.grad(lambda x, field=field: getattr(ours(case, x, case.kernel, case.bias), field))(case.x)
        assert not np.asarray(gradient).any()


def test_no_gradient_work_without_a_gradient():
    """Evaluation does one product of tokens x D x V per chunk, training three."""
    case = random_case()

    def products(function):
        return jax.jit(function).lower(case.x, case.kernel).as_text().count("stablehlo.dot_general")

    def total(x, kernel):
        return ours(case, x, kernel, case.bias).total

    assert products(total) == 1
    assert products(jax.grad(total, (0, 1))) == 3


def test_logits_of_a_chunk_only_exist_at_a_time():
    case = random_case()

    def temporary_bytes(chunk):
        total = functools.partial(ours, case, chunk=chunk)
        gradient = jax.jit(jax.grad(lambda *wrt: total(*wrt).total, (0, 1, 2)))
        return gradient.lower(case.x, case.kernel, case.bias).compile().memory_analysis().temp_size_in_bytes

    assert temporary_bytes(8) < temporary_bytes(B * L) - (B * L - 8) * V * 4


def test_sharded_equals_one_device():
    """Runs this file on 8 virtual devices, in a process of its own."""
    environment = dict(os.environ, JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="8")
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def main():
    meshes = [
        {"data": 2, "fsdp": 2, "tensor": 2},
        {"fsdp": 2, "sequence": 2, "tensor": 2},
        {"data": 4, "fsdp": 2, "sequence": 1, "tensor": 1},
    ]
    for sizes in meshes:
        mesh = Mesh(np.array(jax.devices()).reshape(*sizes.values()), tuple(sizes))
        compare(random_case(modality=True), 1e-5, chunk=5, mesh=mesh)


if __name__ == "__main__":
    main()
