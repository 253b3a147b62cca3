"""PanGu-alpha against logits of the authors' released code."""

import json

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from random_models import our_model

from t5x_code.huggingface.families import FAMILIES
from t5x_code.huggingface.family import read_config
from t5x_code.huggingface.parameters import their_shapes
from t5x_code.huggingface.weights_folder import WeightsFolder
from t5x_code.models.decoder import hidden_states, logits

# The files' tensors leave out the biases of queries, keys and values, which the authors' model had. A bias of the keys
# changes no softmax. The others are found from the logits of the causal pass, and what they are found for is checked
# on the logits of another pass, with its prefixes bidirectional, to which nothing was fitted.
MISSING = ("attn.c_attn.bias", "attn.q_attn.bias")
FITTED = ("query", "value")
ROUNDS = 30


def read_golden(folder):
    hf = json.loads((folder / "config.json").read_text())
    tensors = dict(WeightsFolder(folder))
    config = read_config(FAMILIES["pangu_alpha"], hf)
    absent = {name: shape for name, shape in their_shapes(FAMILIES["pangu_alpha"], config, hf) if name not in tensors}
    assert all(name.endswith(MISSING) for name in absent)
    tensors |= {name: np.zeros(shape, np.float32) for name, shape in absent.items()}
    return *our_model("pangu_alpha", hf, tensors), np.load(folder / "golden.npz")


def intervals(golden, bidirectional):
    """attend_from, attend_to of rows of packed pairs, the docstring leading in each; padding sees nothing."""
    segments, is_docstring = golden["segment_ids"], golden["docstring_mask"]
    length = segments.shape[1]
    slots = np.arange(length)
    first = np.array([[np.flatnonzero(row == segment)[0] for segment in row] for row in segments])
    upto = np.broadcast_to(slots + 1, segments.shape).copy()
    if bidirectional:
        for row, column in np.argwhere(is_docstring):
            same = (segments[row] == segments[row, column]) & is_docstring[row]
            upto[row, column] = np.flatnonzero(same)[-1] + 1
    return first, np.where(segments > 0, upto, first)


SOAK = [pytest.param(name, marks=pytest.mark.soak) for name in ("none", "partial")]


@pytest.mark.parametrize("separation", [pytest.param("full", marks=pytest.mark.slow), *SOAK])
def test_logits_equal_the_authors_code(shared_data, separation):
    config, params, golden = read_golden(shared_data / "golden_models" / f"pangu_{separation}_1")
    real = golden["segment_ids"] > 0
    inputs, positions = (jnp.asarray(golden[name], jnp.int32) for name in ("input_ids", "position_ids"))

    def with_biases(biases):
        changed = jax.tree.map(lambda leaf: leaf, params)
        for group in ("layers", "top_query"):
            for name in FITTED:
                changed[group]["attention"][name] = params[group]["attention"][name] | {"bias": biases[group][name]}
        return changed

    @jax.jit
    def read(biases, attend_from, attend_to):
        params = with_biases(biases)
        x = hidden_states(config, params, inputs, positions, attend_from, attend_to)
        return logits(config, params, x)[..., : config.vocab_size]

    attention = {group: params[group]["attention"] for group in ("layers", "top_query")}
    zero = {group: {name: parts[name]["bias"] for name in FITTED} for group, parts in attention.items()}
    flat, unflatten = jax.flatten_util.ravel_pytree(zero)
    causal = [jnp.asarray(array, jnp.int32) for array in intervals(golden, bidirectional=False)]

    some = np.random.default_rng(0).permutation(real.sum() * config.vocab_size)[: 10 * len(flat)]  # enough to fit to

    def difference(flat):
        return (read(unflatten(flat), *causal) - golden["logits_causal"])[real].ravel()[some]

    # Levenberg-Marquardt: least squares on the linearised difference, damped while a step does not help.
    value_and_slope = jax.jit(lambda flat: (difference(flat), jax.jacrev(difference)(flat)))
    damping = 1e-3
    error, slope = value_and_slope(flat)
    for _ in range(ROUNDS):
        A = np.asarray(slope, np.float64)
        step = np.linalg.solve(A.T @ A + damping * np.eye(len(flat)), A.T @ np.asarray(error, np.float64))
        tried = flat - step.astype(np.float32)
        new_error, new_slope = value_and_slope(tried)
        if np.linalg.norm(new_error) < np.linalg.norm(error):
            flat, error, slope, damping = tried, new_error, new_slope, max(damping / 5, 1e-7)
        else:
            damping *= 10
        if np.abs(error).max() < 1e-5:
            break
    got = np.asarray(read(unflatten(flat), *causal))
    np.testing.assert_allclose(got[real], golden["logits_causal"][real], atol=1e-4, rtol=0)
    prefix = [jnp.asarray(array, jnp.int32) for array in intervals(golden, bidirectional=True)]
    got = np.asarray(read(unflatten(flat), *prefix))
    np.testing.assert_allclose(got[real], golden["logits_prefix"][real], atol=1e-4, rtol=0)
    assert np.abs(golden["logits_prefix"] - golden["logits_causal"])[real].max() > 1e-2  # the passes differ
