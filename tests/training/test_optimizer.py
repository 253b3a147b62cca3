"""Which tensors decay, what Muon orthogonalises, and each optimizer against optax's own alias."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t5x_code.errors import UserError
from t5x_code.models.decoder import logical_axes
from t5x_code.training.optimizer import OptimizerConfig, decay_mask, make_optimizer
from t5x_code.training.schedules import ScheduleConfig

CONSTANT = ScheduleConfig("constant", peak=0.01)


def by_name(tree) -> dict:
    paths = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: isinstance(node, tuple))[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def random_like(params, seed):
    return jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(seed), leaf.shape), params)


def test_matrices_decay_and_vectors_do_not(tiny_model):
    axes = logical_axes(dataclasses.replace(tiny_model, qkv_bias=True, attention_out_bias=True))
    for name, decays in by_name(decay_mask(axes)).items():
        assert decays == name.endswith("kernel"), name


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "muon"])
def test_a_zero_gradient_leaves_only_decay(tiny_model, tiny_params, name):
    axes = logical_axes(tiny_model)
    params = jax.tree.map(lambda leaf: leaf + 1.0, tiny_params)
    optimizer = make_optimizer(OptimizerConfig(name=name, weight_decay=0.5, schedule=CONSTANT), axes)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    mask = decay_mask(axes)
    expected = jax.tree.map(lambda leaf, decays: -0.01 * 0.5 * leaf if decays else 0 * leaf, params, mask)
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-6), updates, expected)


@pytest.mark.parametrize("clip_norm", [0.5, 1e9, None])
@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_equal_to_optax(tiny_model, tiny_params, name, clip_norm):
    axes = logical_axes(tiny_model)
    params = tiny_params
    ours = make_optimizer(OptimizerConfig(name=name, clip_norm=clip_norm, schedule=CONSTANT), axes)
    alias = {
        "adamw": optax.adamw(0.01, 0.9, 0.999, 1e-8, weight_decay=0.1, mask=decay_mask(axes)),
        "lion": optax.lion(0.01, 0.9, 0.999, weight_decay=0.1, mask=decay_mask(axes)),
    }[name]
    alias = optax.chain(optax.clip_by_global_norm(clip_norm), alias) if clip_norm else alias
    states = [ours.init(params), alias.init(params)]
    for seed in range(3):
        keys = jax.random.split(jax.random.key(seed), 100)
        leaves, tree = jax.tree.flatten(params)
        grads = tree.unflatten([jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=False)])
        got, states[0] = ours.update(grads, states[0], params)
        want, states[1] = alias.update(grads, states[1], params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9), got, want)
        params = optax.apply_updates(params, got)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_first_moments_of_half_the_size(tiny_model, tiny_params, name):
    """They alone are bfloat16, and three updates are those of float32 moments to bfloat16's three digits."""
    axes = logical_axes(tiny_model)
    make = [OptimizerConfig(name=name, moment_dtype=dtype, schedule=CONSTANT) for dtype in ("float32", "bfloat16")]
    exact, small = (make_optimizer(config, axes) for config in make)
    states = [exact.init(tiny_params), small.init(tiny_params)]
    sizes = [sum(leaf.nbytes for leaf in jax.tree.leaves(state)) for state in states]
    kinds = {leaf.dtype for leaf in jax.tree.leaves(states[1]) if leaf.ndim}
    assert jnp.dtype("bfloat16") in kinds and (jnp.dtype("float32") in kinds) == (name == "adamw" or name == "muon")
    assert sizes[1] < 0.8 * sizes[0]
    for seed in range(3):
        grads = random_like(tiny_params, seed)
        want, states[0] = exact.update(grads, states[0], tiny_params)
        got, states[1] = small.update(grads, states[1], tiny_params)
    differences = jax.tree.map(lambda a, b: jnp.square(a - b).sum() / jnp.square(b).sum(), got, want)
    assert max(jax.tree.leaves(differences)) < (1e-2 if name == "lion" else 1e-4)  # lion's updates are signs


def test_muon_orthogonalises_each_layer_and_leaves_the_vocabulary_to_adam(tiny_model, tiny_params):
    params = tiny_params
    config = OptimizerConfig(name="muon", weight_decay=0.0, clip_norm=1e9, schedule=CONSTANT)
    optimizer = make_optimizer(config, logical_axes(tiny_model))
    grads = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape), params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    kernels = (np.asarray(tree["layers"]["mlp"]["in"]["kernel"]) for tree in (updates, grads))
    for matrix, grad in zip(*kernels, strict=True):  # [D, F] of each layer
        singular = np.linalg.svd(matrix, compute_uv=False)
        assert singular.max() / singular.min() < 2.5  # Newton-Schulz of five steps: between 0.7 and 1.2
        assert (matrix * grad).sum() < 0  # down the slope
    # Adam's size of an update, whatever the shape.
    sizes = [float(np.sqrt(np.square(updates["layers"]["mlp"][name]["kernel"]).mean())) for name in ("in", "out")]
    assert sizes == pytest.approx([0.2 * 0.01] * 2, rel=0.3) and sizes[0] == pytest.approx(sizes[1], rel=0.1)
    for matrix in np.asarray(updates["layers"]["attention"]["out"]["kernel"]).reshape(2, 32, 32):
        singular = np.linalg.svd(matrix, compute_uv=False)
        assert np.sort(singular)[3] > 0.5 * singular.max()
    # Adam's first update has one size in every entry.
    of_adam = updates["embedding"]["kernel"] / -np.sign(grads["embedding"]["kernel"])
    assert of_adam[0, 0] > 0
    np.testing.assert_allclose(of_adam, of_adam[0, 0], rtol=1e-3)


def test_no_update_of_adafactor_is_larger_than_the_learning_rate():
    """Where a gradient grows a thousandfold, its root mean square is behind."""
    config = OptimizerConfig(name="adafactor", weight_decay=0.0, clip_norm=None, schedule=CONSTANT)
    optimizer, params = make_optimizer(config, {"kernel": ("embed", "mlp")}), {"kernel": jnp.ones((4, 8))}
    state = optimizer.init(params)
    for scale in (1.0, 1000.0):
        updates, state = optimizer.update({"kernel": jnp.full((4, 8), scale)}, state, params)
    np.testing.assert_allclose(updates["kernel"], -0.01, rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "sgd"}, "choose one of adamw"),
        ({"clip_norm": 0.0}, "positive"),
        ({"beta1": 1.0}, "beta1 is 1.0: it must be 0 or more, and below 1"),
        ({"beta2": 2}, "beta2 is 2"),
        ({"momentum": -0.1}, "momentum is -0.1"),
        ({"epsilon": 0.0}, "epsilon is 0.0: it must be positive"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"ema_decay": 1.0}, "between 0 and 1"),
        ({"moment_dtype": "float16"}, "choose one of float32, bfloat16"),
        ({"moment_dtype": "bfloat16", "name": "adafactor"}, "keeps no first moment"),
    ],
)
def test_what_cannot_be_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        OptimizerConfig(**settings)
