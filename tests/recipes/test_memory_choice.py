"""REMAT and MICROBATCH_SIZE follow from the devices' memory, by an estimate that covers what compilers say."""

import dataclasses

import jax
import pytest

from t5x_code.errors import UserError
from t5x_code.parallel.mesh import MeshShape, make_mesh
from t5x_code.recipes import memory_choice
from t5x_code.recipes.gin_files import load_recipe
from t5x_code.recipes.memory import estimate_memory
from t5x_code.recipes.memory_choice import Devices, check_memory, fit_memory, recipe_memory, settle_memory

GIB = 1 << 30
ONE, ON_16 = MeshShape(1, 1, 1, 1), MeshShape(1, 16, 1, 1)
CODEGEN2_1B = ["gin/codegen2_1b.gin"]


def settle(gib, shape=ON_16, platform="tpu", bindings=(), files=CODEGEN2_1B) -> tuple:
    """What is chosen on devices of so much memory, and whether the estimate stays below it."""
    recipe, _ = load_recipe(files, bindings)
    settled = settle_memory(recipe, shape, Devices(platform, int(gib * GIB)))
    total = recipe_memory(settled, shape, platform).total
    return settled.model.remat, settled.loop.microbatch_size, total < gib * GIB


@pytest.mark.parametrize(
    ("gib", "chosen"),
    [
        (95, ("none", 16, True)),  # all of the device's rows
        (32, ("none", 8, True)),
        (16, ("none", 4, True)),
        (10, ("dots", 4, True)),
        (8, ("full", 8, True)),  # rather than "none" with few tokens at a time
        (3, ("full", 1, True)),
        (2, ("full", 1, False)),  # nothing fits
    ],
)
def test_the_least_work_that_memory_allows(gib, chosen):
    assert settle(gib) == chosen


def test_no_more_rows_at_a_time_than_save_anything():
    assert settle(1000, ONE) == ("none", 16, True)
    assert settle(1000, ONE, bindings=["SEQUENCE_LENGTH=1024"])[:2] == ("none", 32)
    assert settle(1000, MeshShape(1, 1, 4, 1))[:2] == ("none", 64)  # of a row a device has a fourth


def test_what_a_recipe_says_stays():
    assert settle(16, bindings=["REMAT='full'"])[:2] == ("full", 16)
    assert settle(20, bindings=["MICROBATCH_SIZE=8"])[:2] == ("dots", 8)
    assert settle(1, bindings=["REMAT='none'", "MICROBATCH_SIZE=16"]) == ("none", 16, False)
    assert settle(1000, bindings=["MICROBATCH_SIZE=None", "BATCH_SIZE=((0, 16), (9, 32))"])[:2] == ("none", None)


def test_what_takes_least_where_nothing_fits_and_all_rows_at_once_need_no_sum_of_gradients():
    one_row, eight = (settle(110, ONE, "gpu", [f"BATCH_SIZE={rows}"], ["gin/codegen2_7b.gin"]) for rows in (1, 8))
    assert one_row[1:] == (1, True) and eight == ("full", 8, False)


def test_rows_divide_every_batch_of_a_ramp():
    assert settle(1000, ONE, bindings=["BATCH_SIZE=((0, 12), (9, 32))"])[:2] == ("none", 4)


def test_a_cpu_keeps_products_alone_whatever_memory_is_free(monkeypatch):
    assert settle(1000, ONE, "cpu", files=["gin/quickstart.gin"], bindings=["REMAT='auto'"])[:2] == ("dots", 8)
    assert settle(24, ONE, "cpu")[:2] == ("full", 1)
    recipe, _ = load_recipe(["gin/quickstart.gin"])
    settled = []
    for free in (2 * GIB, 8 * GIB):
        monkeypatch.setattr(memory_choice, "device_memory_bytes", lambda free=free: free)
        settled.append(fit_memory(recipe, make_mesh(recipe.mesh, jax.devices()[:1])))
    assert settled[0] == settled[1]


def test_devices_of_unknown_memory_recompute_all():
    recipe, _ = load_recipe(CODEGEN2_1B)
    settled = settle_memory(recipe, ON_16, Devices("tpu", None))
    assert (settled.model.remat, settled.loop.microbatch_size) == ("full", 16)


def test_a_weight_average_stays_on_the_device_when_moments_do_not():
    recipe, _ = load_recipe(["gin/codegen2_1b.gin"], ["OptimizerConfig.offload=True"])
    averaged = dataclasses.replace(recipe.optimizer, ema_decay=0.999)
    model = dataclasses.replace(recipe.model, remat="full")
    of = [estimate_memory(model, optimizer, ONE, 1, 1, 128, "gpu") for optimizer in (recipe.optimizer, averaged)]
    assert of[0].optimizer == 0 and of[1].optimizer == of[1].parameters


@pytest.mark.parametrize(
    ("recipe", "model", "platform", "mesh", "remat", "rows", "compiled_gib"),
    [
        ("codegen2_1b", None, "tpu", (1, 16, 1, 1), "none", 4, 10.79),  # v5e:4x4
        ("codegen2_1b", None, "tpu", (1, 16, 1, 1), "dots", 4, 7.90),
        ("codegen2_1b", None, "tpu", (1, 16, 1, 1), "full", 16, 7.21),
        ("codegen2_1b", None, "gpu", (1, 1, 1, 1), "none", 16, 50.43),  # h100:1x1
        ("codegen2_1b", None, "gpu", (1, 1, 1, 1), "dots", 16, 38.77),
        ("codegen2_1b", None, "gpu", (1, 1, 1, 1), "full", 32, 27.60),
        ("codegen2_1b", None, "gpu", (1, 8, 1, 1), "none", 16, 34.99),  # h100:1x8
        ("codegen2_3_7b", None, "tpu", (1, 64, 1, 1), "none", 4, 20.57),  # v6e:8x8
        ("codegen2_7b", None, "tpu", (1, 64, 1, 1), "none", 8, 67.37),  # v5p:4x4x4
        ("codegen2_7b", None, "tpu", (1, 64, 1, 1), "dots", 8, 43.61),
        ("codegen2_7b", None, "gpu", (1, 8, 1, 1), "none", 4, 49.40),
        ("codegen2_7b", None, "gpu", (1, 8, 1, 1), "dots", 4, 38.42),
        ("codegen2_7b", "codellama_7b", "tpu", (1, 64, 1, 1), "none", 8, 75.97),
        ("codegen2_7b", "codellama_7b", "tpu", (1, 64, 1, 1), "none", 2, 22.83),
        ("codegen2_16b", None, "tpu", (1, 128, 1, 4), "none", 4, 19.29),  # v4:8x8x8
        ("codegen2_16b", None, "tpu", (1, 512, 1, 1), "none", 1, 18.62),  # v5p:8x8x8
        ("codegen2_16b", "starcoderbase_15_5b", "tpu", (1, 128, 1, 4), "none", 4, 27.93),
        ("codegen2_16b", "starcoderbase_15_5b", "tpu", (1, 512, 1, 1), "none", 1, 20.57),
        ("codegen2_16b", "starcoderbase_15_5b", "tpu", (2, 256, 1, 1), "full", 1, 8.32),  # 2 x v5e:16x16
        ("ntp_plus_starcoder_1b", None, "tpu", (1, 8, 1, 1), "dots", 4, 11.28),  # v5e:2x4
        ("ntp_plus_codellama_7b", None, "tpu", (1, 8, 1, 1), "full", 8, 15.23),
        ("modality_prefix_code_clm_full", None, "tpu", (1, 1, 1, 1), "none", 32, 15.09),  # v5e:1x1
    ],
)
def test_the_estimate_is_what_compilers_say(recipe, model, platform, mesh, remat, rows, compiled_gib):
    """What launch/compile_ahead.py says that the step needs, by REMAT, MICROBATCH_SIZE and the topology."""
    files = [f"gin/{recipe}.gin", *([f"gin/models/{model}.gin"] if model else [])]
    recipe, _ = load_recipe(files, [f"REMAT='{remat}'", f"MICROBATCH_SIZE={rows}"])
    total = recipe_memory(recipe, MeshShape(*mesh), platform).total / GIB
    assert 0.95 * compiled_gib < total < 1.2 * compiled_gib


def test_the_estimate_is_not_short_where_a_compiler_needs_less_than_for_a_smaller_model():
    """2 x v5e:16x16 again: layers of 453 M parameters in 6.92 GiB, those of StarCoder's, of 378 M, in 8.32."""
    recipe, _ = load_recipe(["gin/codegen2_16b.gin"], ["REMAT='full'", "MICROBATCH_SIZE=1"])
    total = recipe_memory(recipe, MeshShape(2, 256, 1, 1), "tpu").total / GIB
    assert 6.92 < total < 1.3 * 6.92


def test_memory_is_that_of_the_rows_not_of_the_longest_that_the_model_reads():
    recipe, _ = load_recipe(["gin/ntp_plus_starcoder_1b.gin"], ["REMAT='full'", "MICROBATCH_SIZE=4"])
    assert recipe.model.max_length > recipe.data.length
    short = recipe_memory(recipe, MeshShape(1, 8, 1, 1), "tpu")
    longest = dataclasses.replace(recipe.data, length=recipe.model.max_length)
    long = recipe_memory(dataclasses.replace(recipe, data=longest), MeshShape(1, 8, 1, 1), "tpu")
    assert short.activations < long.activations / 3


@pytest.mark.parametrize(("remat", "compiled_gib"), [("none", (7.1, 8.4)), ("dots", (5.9, 7.2)), ("full", (4.9, 6.0))])
def test_a_share_of_heads_and_mlp_is_all_that_a_device_keeps(remat, compiled_gib):
    """Peak, and what has to be free, by the compiler: launch/compile_ahead.py --topology=v5p:2x2x1, tensor 4."""
    recipe, _ = load_recipe(CODEGEN2_1B, [f"REMAT='{remat}'", "BATCH_SIZE=4", "MICROBATCH_SIZE=4"])
    peak, needed = compiled_gib
    total = recipe_memory(recipe, MeshShape(1, 1, 1, 4), "tpu").total / GIB
    assert 0.9 * peak < total < 1.05 * needed


@pytest.mark.parametrize(("rows", "compiled_gib"), [(1, 15.1), (4, 19.2)])
def test_a_microbatchs_gradients_lie_beside_their_sum(rows, compiled_gib):
    """Peak by the compiler: launch/compile_ahead.py --topology=h100:1x1."""
    recipe, _ = load_recipe(CODEGEN2_1B, [f"BATCH_SIZE={rows}", "MICROBATCH_SIZE=1", "REMAT='full'"])
    assert compiled_gib < recipe_memory(recipe, ONE, "gpu").total / GIB < 1.1 * compiled_gib


def test_the_microbatch_that_is_advised_divides_every_batch(monkeypatch):
    recipe, _ = load_recipe(CODEGEN2_1B, ["BATCH_SIZE=((0, 12), (9, 24))", "REMAT='full'", "MICROBATCH_SIZE=None"])
    needs = {rows: recipe_memory(microbatch_of(recipe, rows), ONE, "cpu").total for rows in (6, 12)}
    monkeypatch.setattr(memory_choice, "device_memory_bytes", lambda: (needs[6] + needs[12]) // 2)
    with pytest.raises(UserError, match=r"set MICROBATCH_SIZE=6$"):
        check_memory(recipe, ONE)
    check_memory(microbatch_of(recipe, 6), ONE)


def test_to_recompute_is_advised_where_that_fits(monkeypatch):
    recipe, _ = load_recipe(CODEGEN2_1B, ["REMAT='none'", "MICROBATCH_SIZE=1", "BATCH_SIZE=1"])
    needed = recipe_memory(recipe, ONE, "cpu").total
    monkeypatch.setattr(memory_choice, "device_memory_bytes", lambda: needed - GIB // 4)
    with pytest.raises(UserError, match=r"; set REMAT='auto' and MICROBATCH_SIZE='auto'$"):
        check_memory(recipe, ONE)


def microbatch_of(recipe, rows):
    return dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, microbatch_size=rows))
