"""The ways in plain XLA against a loop over queries, what each promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_code.errors import UserError
from t5x_code.models.attention.chunked import KEY_TILE, QUERY_CHUNK
from t5x_code.models.attention.dispatch import attention

E = 8
LONG = KEY_TILE + QUERY_CHUNK + 37  # more than one tile of keys, and neither whole tiles nor whole chunks


def random_case(B=2, L=20, S=20, H=4, K=2, seed=0):
    """Random queries, keys, values, and intervals of which some are empty."""
    rng = np.random.default_rng(seed)
    shapes = [(B, L, H, E), (B, S, K, E), (B, S, K, E)]
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    attend_from = rng.integers(0, S, (B, L))
    attend_to = np.minimum(S, attend_from + rng.integers(0, 7, (B, L)))
    return (*map(jnp.asarray, arrays), jnp.asarray(attend_from, jnp.int32), jnp.asarray(attend_to, jnp.int32))


def one_query_at_a_time(q, k, v, attend_from, attend_to, scale):
    B, L, H, _ = q.shape
    group = H // k.shape[2]
    out = np.zeros(q.shape)
    for b, i, h in np.ndindex(B, L, H):
        seen = slice(attend_from[b, i], attend_to[b, i])
        if attend_from[b, i] < attend_to[b, i]:
            scores = np.float64(k[b, seen, h // group]) @ np.float64(q[b, i, h]) * scale
            weights = np.exp(scores - scores.max())
            out[b, i, h] = weights / weights.sum() @ np.float64(v[b, seen, h // group])
    return out


def run(case, implementation, scale=0.3):
    return attention(*case, implementation=implementation, scale=scale)


@pytest.mark.parametrize("implementation", ["dense", "chunked", "by_head"])
@pytest.mark.parametrize(("L", "K"), [(20, 2), (LONG, 2), (LONG, 4)])
def test_equals_one_query_at_a_time(implementation, L, K):
    """Short intervals; each chunk of queries has them all over the keys."""
    case = random_case(L=L, S=L, K=K)
    want = one_query_at_a_time(*map(np.asarray, case), 0.3)
    np.testing.assert_allclose(run(case, implementation), want, atol=1e-5)
    empty = np.asarray(case[3] >= case[4])
    assert empty.any() and not np.asarray(run(case, implementation))[empty].any()


def long_intervals(L):
    """Causal rows, whose last tile starts early so as not to pass the end, and documents of 300 tokens that see all of
    themselves, which begin anywhere in a tile; some queries see nothing."""
    index = np.arange(L)
    starts = np.stack([0 * index, index // 300 * 300])
    ends = np.stack([index + 1, np.minimum(starts[1] + 300, L)])
    ends[:, 100:120] = 0
    return jnp.asarray(starts, jnp.int32), jnp.asarray(ends, jnp.int32)


def gradients(q, k, v, ends, implementation):
    def loss(q, k, v):
        return jnp.sin(3 * run((q, k, v, *ends), implementation).astype(jnp.float32)).sum()

    return jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v)


@pytest.mark.parametrize("implementation", ["chunked", "by_head"])
@pytest.mark.parametrize(("intervals", "K"), [("short", 2), ("long", 2), ("long", 4)])
def test_gradients_equal_those_of_dense(implementation, intervals, K):
    q, k, v, *ends = random_case(L=LONG, S=LONG, K=K)
    if intervals == "long":
        ends = long_intervals(LONG)
    expected = gradients(q, k, v, ends, "dense")
    for dense, got in zip(expected, gradients(q, k, v, ends, implementation), strict=True):
        assert np.isfinite(dense).all()
        np.testing.assert_allclose(dense, got, atol=2e-5)


def test_heads_in_turn_keep_bfloat16():
    """Results lie as whole numbers in the loop over heads; beside float32 they have bfloat16's rounding alone."""
    q, k, v, *_ = random_case(L=LONG, S=LONG)
    ends = long_intervals(LONG)
    rounded = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    expected = gradients(*(x.astype(jnp.float32) for x in rounded), ends, "by_head")
    for exact, got in zip(expected, gradients(*rounded, ends, "by_head"), strict=True):
        assert got.dtype == jnp.bfloat16
        error = np.linalg.norm(np.asarray(got, np.float32) - exact) / np.linalg.norm(exact)
        assert error < 0.02


def test_grouped_query_attention_equals_repeated_heads():
    q, k, v, attend_from, attend_to = random_case(H=6, K=3)
    repeated = (q, jnp.repeat(k, 2, axis=2), jnp.repeat(v, 2, axis=2), attend_from, attend_to)
    np.testing.assert_allclose(run((q, k, v, attend_from, attend_to), "dense"), run(repeated, "dense"), atol=1e-6)


def temporary_bytes(implementation, length):
    """What forward and backward pass ask for beside their arguments and results."""
    case = random_case(B=1, L=length, S=length, H=2, K=2)

    def loss(q, k, v):
        return run((q, k, v, *case[3:]), implementation).sum()

    return jax.jit(jax.grad(loss, (0, 1, 2))).lower(*case[:3]).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("implementation", ["chunked", "by_head"])
def test_memory_grows_linearly_from_2k_to_32k(implementation):
    short, long = temporary_bytes(implementation, 2048), temporary_bytes(implementation, 32768)
    assert long < 17 * short
    assert short < temporary_bytes("dense", 2048) / 10


@pytest.mark.parametrize(("length", "scans"), [(64, False), (2048, True)])
def test_auto_chunks_long_rows(length, scans):
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    q, ends = shape((1, length, 1, E)), jax.ShapeDtypeStruct((1, length), jnp.int32)
    assert (" scan[" in str(jax.make_jaxpr(attention)(q, q, q, ends, ends))) == scans


def test_unknown_implementation_is_refused():
    with pytest.raises(UserError, match="choose one of auto, splash"):
        run(random_case(), "magic")
