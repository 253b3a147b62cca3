"""Recipes with 8-bit products, compiled for hardware that multiplies them: they are 8-bit products there too."""

import importlib.util
import re

import pytest

from t5x_code.parallel.mesh import make_mesh
from t5x_code.parallel.rules import logical_axes_on
from t5x_code.parallel.topology import described_devices
from t5x_code.recipes.abstract_batch import abstract_batch
from t5x_code.recipes.attention_choice import settle_attention
from t5x_code.recipes.compile_ahead import compile_recipe
from t5x_code.recipes.gin_files import load_recipe
from t5x_code.training.assemble import jit_train_step, step_parts
from t5x_code.training.state import abstract_state

TINY = ["gin/codegen2_1b.gin", "gin/models/tiny.gin"]


@pytest.fixture(autouse=True)
def needs_qwix():
    pytest.importorskip("qwix", reason="the extra quantized is not installed")


def compiled_text(quantization: str, topology: str, compiler: str) -> str:
    """The step's program for four chips; its layers are wide enough for the kernels of 8-bit products."""
    if importlib.util.find_spec(compiler) is None:
        pytest.skip(f"the compiler {compiler} is not installed (extras tpu, gpu-aot)")
    sizes = ["model_dim=256", "head_dim=64", "mlp_dim=512", f"quantization='{quantization}'"]
    recipe, _ = load_recipe(TINY, ["DTYPE='bfloat16'", *(f"TransformerConfig.{size}" for size in sizes)])
    mesh = make_mesh(recipe.mesh, described_devices(topology)[0])
    model = settle_attention(recipe, mesh)
    parts = step_parts(model, recipe.optimizer, recipe.loss, None, mesh)
    state = abstract_state(model, parts.optimizer, False, mesh)
    with logical_axes_on(mesh):
        return jit_train_step(parts, state).lower(state, abstract_batch(recipe.data, 8, mesh)).compile().as_text()


def operand_types(text: str) -> dict[str, set[tuple[str, str]]]:
    """Types of both operands of the MLP's products, by pass: "jvp" forward and "transpose" backward."""
    found: dict[str, set[tuple[str, str]]] = {"jvp": set(), "transpose": set()}
    for computation in re.split(r"\n(?=\S)", text):
        types = dict(re.findall(r"(%[\w.-]+) = \(?(\w+)\[", computation))
        product = r"= [^=]* (?:dot|convolution)\((%[\w.-]+), (%[\w.-]+)\).*?op_name=\"([^\"]*)\""
        for x, y, name in re.findall(product, computation):
            if "/mlp/" in name and "rematted" not in name:
                found["transpose" if "transpose(" in name else "jvp"].add((types[x], types[y]))
    return found


@pytest.mark.slow
def test_a_hopper_multiplies_fp8():
    types = operand_types(compiled_text("fp8", "h100:1x4", "jax_cuda13_plugin"))
    assert types["jvp"] == {("f8e4m3fn", "f8e4m3fn")}
    assert types["transpose"] == {("f8e4m3fn", "f8e5m2"), ("f8e5m2", "f8e4m3fn")}


@pytest.mark.slow
def test_a_tpu_multiplies_int8():
    types = operand_types(compiled_text("int8", "v5e:2x2", "libtpu"))
    assert types["jvp"] == {("s8", "s8")}
    assert types["transpose"] == {("s8", "s8"), ("bf16", "bf16")}  # the kernels' gradients stay


@pytest.mark.slow
def test_the_bound_counts_8_bits_at_twice_the_rate():
    pytest.importorskip("libtpu", reason="the extra tpu is not installed")
    plain, rounded = (
        compile_recipe(load_recipe(TINY, [f"TransformerConfig.quantization='{kind}'"])[0], "v5e:2x2")
        for kind in ("none", "int8")
    )
    assert rounded.fits and plain.bounds.compute * 0.5 < rounded.bounds.compute < plain.bounds.compute
