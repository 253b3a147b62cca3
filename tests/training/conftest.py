"""The smallest run: a model of two layers, random rows, one device."""

import functools

import jax
import numpy as np
import pytest

from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import init_params
from t5x_code.parallel.mesh import MeshConfig, make_mesh

LENGTH = 16


@pytest.fixture(scope="session")
def tiny_model() -> TransformerConfig:
    return TransformerConfig(
        num_layers=2,
        model_dim=32,
        num_heads=2,
        num_kv_heads=2,
        head_dim=16,
        mlp_dim=64,
        vocab_size=64,
        vocab_multiple=64,
        max_length=LENGTH,
        rotary_dim=8,
        dtype="float32",
        loss_chunk=64,
    )


@pytest.fixture(scope="session")
def tiny_params(tiny_model):
    return jax.jit(functools.partial(init_params, tiny_model))(jax.random.key(0))


@pytest.fixture(scope="session")
def one_device():
    return make_mesh(MeshConfig(fsdp=1))


@pytest.fixture(scope="session")
def make_rows():
    """A function (first row, number of rows) -> batch, each row a pure function of its index, with ragged weights."""

    def one_row(index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(index)
        tokens = rng.integers(0, 64, LENGTH + 1, dtype=np.int32)
        positions = np.arange(LENGTH, dtype=np.int32)
        weights = (positions < rng.integers(1, LENGTH + 1)).astype(np.float32)
        return {
            "inputs": tokens[:-1],
            "targets": tokens[1:],
            "loss_weights": weights,
            "positions": positions,
            "segment_ids": np.ones(LENGTH, np.int32),
            "attend_from": np.zeros(LENGTH, np.int32),
            "attend_to": positions + 1,
        }

    def rows(first: int, count: int) -> dict[str, np.ndarray]:
        made = [one_row(index) for index in range(first, first + count)]
        return {name: np.stack([row[name] for row in made]) for name in made[0]}

    return rows
