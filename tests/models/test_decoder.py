"""Properties of the decoder: sizes, isolation, causality, and that a compilation choice never changes a result."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_code.errors import UserError
from t5x_code.models.config import RopeScaling, TransformerConfig
from t5x_code.models.decoder import count_params, hidden_states, init_params, logical_axes, logits

TINY = TransformerConfig(
    num_layers=3,
    model_dim=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_dim=64,
    vocab_size=50,
    max_length=32,
    rotary_dim=4,
    window_pattern=(0, 5),
    initializer_range=0.3,
    dtype="float32",
)
SERIAL = dataclasses.replace(
    TINY,
    norm="rms_norm",
    parallel_block=False,
    position_encoding="learned",
    mlp="swiglu",
    qkv_bias=True,
    tie_embeddings=True,
)


@pytest.mark.parametrize(
    ("layers", "width", "heads", "head_dim", "billions"),
    [
        (16, 2048, 16, 128, 1.015),
        (16, 4096, 16, 256, 3.641),
        (32, 4096, 16, 256, 6.863),
        (34, 6144, 24, 256, 16.032),
    ],
)
def test_parameter_counts_of_codegen2(layers, width, heads, head_dim, billions):
    config = TransformerConfig(
        num_layers=layers,
        model_dim=width,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        mlp_dim=4 * width,
        vocab_multiple=1024,
    )
    assert round(count_params(config) / 1e9, 3) == billions


@pytest.mark.parametrize("config", [TINY, SERIAL, dataclasses.replace(SERIAL, top_query_layer=True)])
def test_every_axis_of_every_parameter_is_named(config):
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    axes = logical_axes(config)
    ranks = jax.tree.map(lambda leaf: leaf.ndim, params)
    assert jax.tree.map(len, axes, is_leaf=lambda leaf: isinstance(leaf, tuple)) == ranks


def test_initial_values_do_not_depend_on_padding():
    padded = init_params(TINY, jax.random.key(0))
    bare = init_params(dataclasses.replace(TINY, vocab_multiple=1), jax.random.key(0))
    np.testing.assert_array_equal(padded["embedding"]["kernel"][:50], bare["embedding"]["kernel"])
    np.testing.assert_array_equal(padded["head"]["kernel"][:, :50], bare["head"]["kernel"])
    assert not padded["head"]["kernel"][:, 50:].any()
    assert abs(float(bare["layers"]["mlp"]["in"]["kernel"].std()) / TINY.initializer_range - 1) < 0.05
    layers = bare["layers"]["mlp"]["in"]["kernel"]
    assert not np.array_equal(layers[0], layers[1])


def test_a_model_may_start_by_the_sizes_of_its_matrices():
    """As CodeGen was trained: 1 / sqrt(inputs), and 2 / layers of that in what is added to the residual stream."""
    config = dataclasses.replace(TINY, initializer_range=None, model_dim=64, mlp_dim=512, num_layers=8, vocab_size=4096)
    params = init_params(config, jax.random.key(0))
    layers = params["layers"]
    inputs = [layers["attention"][name]["kernel"] for name in ("query", "key", "value")]
    for kernel in (*inputs, layers["mlp"]["in"]["kernel"], params["head"]["kernel"]):
        assert float(kernel.std()) == pytest.approx(1 / 8, rel=0.05)
    for kernel in (layers["attention"]["out"]["kernel"], layers["mlp"]["out"]["kernel"]):
        assert float(kernel.std()) == pytest.approx(2 / 8 / 8, rel=0.05)
    assert float(params["embedding"]["kernel"].std()) == pytest.approx(1 / 64, rel=0.05)


def test_padded_vocabulary_is_never_predicted():
    params = init_params(TINY, jax.random.key(0))
    params["head"]["bias"] = jnp.full(128, 5.0)
    scores = logits(TINY, params, jnp.ones((1, 1, 32)))
    assert scores.shape == (1, 1, 128) and scores.dtype == jnp.float32
    assert np.isneginf(scores[..., 50:]).all() and np.isfinite(scores[..., :50]).all()


def packed_row(seed=0):
    """Three segments of random lengths with bidirectional prefixes, then padding: [1, 24] arrays and the segments."""
    rng = np.random.default_rng(seed)
    ends = [0, *sorted(rng.choice(np.arange(1, 20), 2, replace=False)), 20]
    arrays = {name: np.zeros((1, 24), np.int32) for name in ("inputs", "positions", "attend_from", "attend_to")}
    arrays["inputs"][0, :20] = rng.integers(0, 50, 20)
    for start, end in itertools.pairwise(ends):
        prefix_end = rng.integers(start, end + 1)
        index = np.arange(start, end)
        arrays["positions"][0, index] = index - start
        arrays["attend_from"][0, index] = start
        arrays["attend_to"][0, index] = np.where(index < prefix_end, prefix_end, index + 1)
    return arrays, list(itertools.pairwise(ends))


@pytest.mark.parametrize("config", [TINY, SERIAL])
@pytest.mark.parametrize("seed", [0, 1])
def test_packed_equals_alone(config, seed):
    params = init_params(config, jax.random.key(seed))
    arrays, segments = packed_row(seed)
    read = jax.jit(lambda *arrays: hidden_states(config, params, *arrays))
    packed = read(*arrays.values())
    assert np.isfinite(packed).all()
    for start, end in segments:
        shifted = arrays | {name: arrays[name] - start for name in ("attend_from", "attend_to")}
        alone = np.zeros((4, 1, 24), np.int32)  # one shape, compiled once; what follows the segment is padding
        alone[:, :, : end - start] = np.stack([array[:, start:end] for array in shifted.values()])
        np.testing.assert_allclose(read(*alone)[:, : end - start], packed[:, start:end], atol=1e-5)


def test_a_token_depends_on_what_its_interval_holds_and_on_nothing_else():
    """By gradient: each position has its own token, whose embedding's gradient says who is looked at."""
    config = dataclasses.replace(TINY, num_layers=1, window_pattern=(0,))
    params = init_params(config, jax.random.key(0))
    arrays, _ = packed_row(2)
    arrays["inputs"] = np.arange(24, dtype=np.int32)[None]

    @jax.jit
    def gradient(position):
        def state(kernel):
            changed = params | {"embedding": {"kernel": kernel}}
            return hidden_states(config, changed, *arrays.values())[0, position] @ jnp.arange(32.0)

        return jnp.abs(jax.grad(state)(params["embedding"]["kernel"])).sum(-1)[:24]

    for i in range(24):
        seen = np.arange(24)
        seen = (seen >= arrays["attend_from"][0, i]) & (seen < arrays["attend_to"][0, i])
        seen[i] = True  # the residual stream
        np.testing.assert_array_equal(np.asarray(gradient(i)) > 0, seen)


def test_a_window_bounds_what_a_token_sees():
    config = dataclasses.replace(TINY, num_layers=2, window_pattern=(3,))
    params = init_params(config, jax.random.key(0))
    position = jnp.arange(24)[None]
    tokens = jax.random.randint(jax.random.key(1), (1, 24), 0, 50)

    @jax.jit
    def read(tokens):
        return hidden_states(config, params, tokens, position, 0 * position, position + 1)

    changed = np.flatnonzero(np.abs(read(tokens) - read(tokens.at[0, 10].add(1) % 50)).max(-1)[0] > 1e-6)
    np.testing.assert_array_equal(changed, np.arange(10, 15))  # two layers, each reaching 2 further


@functools.cache
def value_and_gradient(config):
    """Loss, gradient and the program that computes them on accelerators, without the loops that help CPUs only."""
    params = init_params(TINY, jax.random.key(0))
    arrays, _ = packed_row()

    def loss(params):
        return jnp.square(hidden_states(config, params, *arrays.values()) - 0.5).mean()

    traced = jax.jit(jax.value_and_grad(loss)).trace(params)
    return traced.lower().compile()(params), traced.lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize(
    ("changes", "loops", "products", "softmaxes"),
    [
        # A layer has 10 products forward, two of them rotations, and 19 backward, the scores' again among them;
        # recomputing adds the forward ones that it repeats.
        ({"remat": "dots"}, 2, 29 + 2, 2),
        ({"remat": "full"}, 2, 29 + 8, 3),
        pytest.param({"scan_layers": False}, 0, 29, 2, marks=pytest.mark.slow),
        ({"scan_layers": False, "remat": "full"}, 0, 29 + 8, 3),
    ],
)
def test_remat_and_scan_change_the_program_and_not_the_result(changes, loops, products, softmaxes):
    (want, want_gradient), plain = value_and_gradient(TINY)
    (got, gradient), program = value_and_gradient(dataclasses.replace(TINY, **changes))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4), gradient, want_gradient)
    assert count(plain) == (2, 29, 2)
    # JAX writes an unrolled layer once and calls it, or, in newer releases, as often as there are layers.
    copies = [1] if loops else [1, TINY.num_layers]
    assert count(program) in [(loops, n * products, n * softmaxes) for n in copies]


def count(program):
    return tuple(program.count(f"stablehlo.{name}") for name in ("while", "dot_general", "exponential"))


def test_gradients_of_bfloat16_compute_are_float32_sums():
    """A gradient that passed through bfloat16 would have 8 significant bits only."""
    (_, gradient), _ = value_and_gradient(dataclasses.replace(TINY, dtype="bfloat16"))
    for leaf in jax.tree.leaves(gradient):
        assert leaf.dtype == jnp.float32
    kernel = gradient["layers"]["mlp"]["in"]["kernel"]
    assert (kernel.astype(jnp.bfloat16) != kernel).mean() > 0.9


@pytest.mark.parametrize(
    "change",
    [
        {"num_layers": 0},
        {"num_kv_heads": 3},
        {"rotary_dim": 10},
        {"rotary_dim": 3},
        {"mlp": "relu"},
        {"remat": "some"},
        {"dtype": "float8"},
        {"window_pattern": ()},
        {"window_pattern": (-1,)},
        {"norm_epsilon": -1e-5},
        {"rope_base": 0.0},
        {"rope_base": float("nan")},
        {"lora_alpha": 0.0},
        {"rope_scaling": RopeScaling(8.0), "position_encoding": "learned"},
    ],
)
def test_a_config_that_cannot_be_is_refused(change):
    with pytest.raises(UserError, match=f"TransformerConfig.*{next(iter(change))}"):
        dataclasses.replace(TINY, **change)


@pytest.mark.parametrize(
    ("scaling", "says"),
    [
        ({"factor": 0.5}, "factor must be 1 or more"),
        ({"factor": 8.0, "low_frequency_factor": 5.0}, "low frequency factor below the high one"),
        ({"factor": 8.0, "original_length": 0}, "original_length must be at least 1"),
        ({"factor": 8.0, "kind": "yarn"}, "RopeScaling.kind is 'yarn': choose one of llama3, linear"),
        ({"factor": 0.5, "kind": "linear"}, "factor must be 1 or more"),
        ({"factor": 8.0, "kind": "linear", "original_length": 4096}, "linear scaling has a factor alone"),
    ],
)
def test_a_stretch_that_cannot_be_is_refused(scaling, says):
    with pytest.raises(UserError, match=says):
        RopeScaling(**scaling)
