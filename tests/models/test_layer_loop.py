"""Where the layers are compiled as one."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest

from t5x_code.models.config import TransformerConfig
from t5x_code.models.layer_loop import layers_in_loop

CONFIG = TransformerConfig()


@pytest.fixture
def on(monkeypatch):
    """Says what the devices of the mesh are."""

    def set_devices(platform: str, *sizes: int):
        device = SimpleNamespace(platform=platform)
        mesh = SimpleNamespace(empty=not sizes, axis_sizes=sizes, abstract_device=device)
        monkeypatch.setattr(jax.sharding, "get_abstract_mesh", lambda: mesh)

    return set_devices


def test_one_gpu_compiles_each_layer_where_much_is_kept_of_it(on):
    for platform, sizes, remat, in_loop in (
        ("gpu", (1, 1), "none", False),
        ("gpu", (), "dots", False),
        ("gpu", (1, 1), "full", True),
        ("gpu", (1, 8), "none", True),
        ("cpu", (1, 1), "none", True),
        ("tpu", (4, 1), "none", True),
    ):
        on(platform, *sizes)
        assert layers_in_loop(dataclasses.replace(CONFIG, remat=remat)) == in_loop, (platform, sizes, remat)


def test_the_config_may_say_it_or_how_it_attends(on):
    on("gpu", 1)
    assert layers_in_loop(dataclasses.replace(CONFIG, attention="chunked"))
    assert layers_in_loop(dataclasses.replace(CONFIG, scan_layers=True))
    on("cpu", 1)
    assert not layers_in_loop(dataclasses.replace(CONFIG, scan_layers=False))
