"""Where the layers of a training step are compiled as one."""

import dataclasses
from types import SimpleNamespace

import pytest

from t5x_code.models.config import TransformerConfig
from t5x_code.training import assemble
from t5x_code.training.layer_loop import settle_layer_loop
from t5x_code.training.losses import LossConfig
from t5x_code.training.optimizer import OptimizerConfig


def mesh_of(platform: str, size: int):
    return SimpleNamespace(size=size, devices=SimpleNamespace(flat=[SimpleNamespace(platform=platform)] * size))


@pytest.mark.parametrize(
    ("platform", "size", "fields", "in_loop"),
    [
        ("gpu", 1, {"remat": "none"}, False),
        ("gpu", 1, {"remat": "dots", "attention": "tokamax_causal"}, False),
        ("gpu", 1, {"remat": "full"}, True),
        ("gpu", 1, {"attention": "chunked"}, True),
        ("gpu", 1, {"scan_layers": True}, True),
        ("gpu", 8, {"remat": "none"}, True),
        ("cpu", 1, {}, True),
        ("cpu", 1, {"scan_layers": False}, False),
        ("tpu", 1, {}, True),
    ],
)
def test_one_gpu_compiles_each_layer_where_much_is_kept_of_it(platform, size, fields, in_loop):
    model = dataclasses.replace(TransformerConfig(), **fields)
    settled = settle_layer_loop(model, mesh_of(platform, size))
    assert settled.layers_in_loop == in_loop
    assert dataclasses.replace(settled, scan_layers=model.scan_layers) == model


def test_a_step_is_made_of_the_settled_model(monkeypatch):
    models = []
    monkeypatch.setattr(assemble, "make_loss", lambda model, *rest: models.append(model))
    for platform in ("gpu", "cpu"):
        assemble.step_parts(TransformerConfig(), OptimizerConfig(), LossConfig(), None, mesh_of(platform, 1))
    assert [model.layers_in_loop for model in models] == [False, True]
