"""What a run's attention is settled to before it starts."""

import dataclasses
from types import SimpleNamespace

import jax
import pytest

from t5x_code.errors import UserError
from t5x_code.models.attention import choice
from t5x_code.objectives.prefix_lm import PrefixLM
from t5x_code.parallel.mesh import make_mesh
from t5x_code.recipes.attention_choice import settle_attention
from t5x_code.recipes.gin_files import load_recipe


@pytest.fixture(scope="module")
def recipes():
    """CodeGen2's mixture, and causal language modelling that sees across documents."""
    mixed, _ = load_recipe(["gin/codegen2_1b.gin"])
    causal, _ = load_recipe(["gin/codegen2_1b.gin", "gin/objectives/causal_lm.gin"], ["ISOLATE_DOCUMENTS=False"])
    return mixed, causal


@pytest.fixture
def one_h100(monkeypatch):
    """A mesh of one device that says it is an H100; nothing runs on it."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: object())
    device = SimpleNamespace(platform="gpu", device_kind="NVIDIA H100 80GB HBM3")
    devices = SimpleNamespace(flat=[device])
    return SimpleNamespace(devices=devices, shape={"sequence": 1})


def with_attention(recipe, name):
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, attention=name))


def with_long_rows(recipe):
    model, data = recipe.model, recipe.data
    longer = {"model": dataclasses.replace(model, max_length=8192), "data": dataclasses.replace(data, length=8192)}
    return dataclasses.replace(recipe, **longer)


def test_a_run_names_what_its_devices_can(recipes):
    assert settle_attention(recipes[0], make_mesh(recipes[0].mesh)).attention == "by_head"
    with pytest.raises(UserError, match="'splash', which is a kernel for TPUs"):
        settle_attention(with_attention(recipes[0], "splash"), make_mesh(recipes[0].mesh))


def test_rows_that_the_mesh_does_not_divide_are_refused(recipes, one_h100):
    one_h100.shape["sequence"] = 3
    with pytest.raises(UserError, match=r"SEQUENCE_LENGTH 2048 does not divide over MeshConfig.sequence=3; try 2049"):
        settle_attention(recipes[0], one_h100)


def test_kernels_are_told_of_a_causal_mask_and_of_no_other(recipes, one_h100):
    mixed, causal = recipes
    assert settle_attention(mixed, one_h100).attention == "tokamax_causal"
    assert settle_attention(causal, one_h100).attention == "cudnn_causal"
    with pytest.raises(UserError, match="lets every token see all tokens before it"):
        settle_attention(with_attention(mixed, "cudnn_causal"), one_h100)
    of_one_task = (("python_docs", ((PrefixLM(), 1.0),)),)
    in_part = dataclasses.replace(causal, data=dataclasses.replace(causal.data, task_objectives=of_one_task))
    assert settle_attention(in_part, one_h100).attention == "tokamax"
    with pytest.raises(UserError, match="lets no token see a later one, but in rows of prefix_lm some do"):
        settle_attention(with_attention(in_part, "tokamax_causal"), one_h100)
    one_h100.shape["sequence"] = 2
    assert settle_attention(causal, one_h100).attention == "tokamax"
    for name in ("cudnn_causal", "tokamax_causal"):
        with pytest.raises(UserError, match="takes whole rows, not 1024 queries of 2048"):
            settle_attention(with_attention(causal, name), one_h100)


def test_long_causal_rows_take_the_kernel_that_needs_no_mask(recipes, one_h100):
    """Masks of more than 4,096 tokens are too large for cuDNN, which makes its own of causal rows."""
    mixed, causal = map(with_long_rows, recipes)
    one_h100.devices.flat[0].device_kind = "NVIDIA A100-SXM4-80GB"
    assert settle_attention(causal, one_h100).attention == "cudnn_causal"
    assert settle_attention(mixed, one_h100).attention == "chunked"
