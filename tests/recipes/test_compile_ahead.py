"""Training steps compiled for hardware that is not here: they fit, and hold their share of the state and no more."""

import json
import math
from types import SimpleNamespace

import jax
import pytest

from t5x_code.errors import UserError
from t5x_code.parallel.mesh import make_mesh
from t5x_code.parallel.topology import described_devices
from t5x_code.recipes import compile_ahead
from t5x_code.recipes.ahead_text import describe_search
from t5x_code.recipes.compile_ahead import compile_recipe, search
from t5x_code.recipes.gin_files import load_recipe
from t5x_code.training.assemble import step_parts
from t5x_code.training.state import abstract_state

TINY = ["gin/codegen2_1b.gin", "gin/models/tiny.gin"]


@pytest.fixture(autouse=True)
def needs_the_compiler():
    pytest.importorskip("libtpu", reason="the extra tpu is not installed")


def bytes_of_a_share(recipe, topology) -> int:
    """The state's bytes on one device, from shapes and shardings alone."""
    mesh = make_mesh(recipe.mesh, described_devices(topology)[0])
    parts = step_parts(recipe.model, recipe.optimizer, recipe.loss, None, mesh)
    leaves = jax.tree.leaves(abstract_state(recipe.model, parts.optimizer, False, mesh))
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


@pytest.mark.parametrize(
    ("topology", "mesh"),
    [
        ("v5e:2x2", ["MeshConfig.fsdp=2", "MeshConfig.tensor=2"]),
        pytest.param("v4:2x2x1", [], marks=pytest.mark.slow),
    ],
)
def test_a_tiny_step_for_four_chips(topology, mesh):
    recipe, _ = load_recipe(TINY, mesh)
    report = compile_recipe(recipe, topology)
    assert report.fits and report.num_devices == 4
    assert report.remat == "none" and report.microbatch_size * report.mesh["fsdp"] == 8  # by a chip's memory
    # A TPU pads the small arrays; the embedding, the head and their moments are nearly all of it.
    assert report.memory.arguments == pytest.approx(bytes_of_a_share(recipe, topology), rel=0.05)
    assert {("all-gather", "fsdp"), ("reduce-scatter", "fsdp")} <= {(row.kind, row.axes) for row in report.collectives}
    assert all(row.bytes_across == 0 for row in report.collectives)
    assert report.bounds.step >= report.flops_per_token * 8 * 128 / 4 / 459e12 > 0
    assert report.estimate.step > report.bounds.compute and report.mfu_estimated < report.mfu_at_most
    written = json.loads(json.dumps(report.to_json()))
    assert written["fits"] and written["memory"]["headroom"] == report.memory.headroom > 0
    assert written["estimate"]["step"] == report.estimate.step


def test_what_does_not_fit_says_so():
    recipe, _ = load_recipe(["gin/codegen2_7b.gin"], ["MICROBATCH_SIZE=4"])
    report = compile_recipe(recipe, "v5e:2x2")
    assert not report.fits and report.memory is None and "exceeds available HBM" in report.refusal
    assert json.loads(json.dumps(report.to_json()))["fits"] is False


@pytest.mark.parametrize(
    ("batch_size", "message"),
    [("2", "BATCH_SIZE 2 does not divide over 4 devices"), ("((0, 6), (9, 8))", "BATCH_SIZE 6 does not divide")],
)
@pytest.mark.parametrize("find", [compile_recipe, search])
def test_a_batch_that_does_not_divide_is_no_lack_of_memory(find, batch_size, message):
    recipe, _ = load_recipe(TINY, [f"BATCH_SIZE={batch_size}"])
    with pytest.raises(UserError, match=message):
        find(recipe, "v5e:2x2")


@pytest.mark.slow
def test_slices_are_joined_by_the_network():
    recipe, _ = load_recipe(TINY, ["MeshConfig.data=2", "MeshConfig.fsdp=4"])
    report = compile_recipe(recipe, "v5e:2x2", num_slices=2)
    assert report.fits and report.num_devices == 8
    crossing = [row for row in report.collectives if row.bytes_across]
    assert crossing and all("data" in row.axes for row in crossing)
    assert report.bounds.network > 0


def test_the_search_halves_the_sizes_that_are_left(monkeypatch):
    recipe, _ = load_recipe(TINY, ["BATCH_SIZE=96", "MeshConfig.fsdp=4"])
    largest, tried = {"none": 0, "dots": 4, "full": 24}, []

    def compile_recipe_of_sizes(recipe, split, topology, num_slices):
        size, remat = recipe.loop.microbatch_size, recipe.model.remat
        tried.append((remat, size))
        fits = size <= largest[remat]
        return SimpleNamespace(remat=remat, microbatch_size=size, fits=fits, expected=1 / size)

    monkeypatch.setattr(compile_ahead, "_compile_recipe", compile_recipe_of_sizes)
    found = [(report.remat, report.microbatch_size) for report in search(recipe, "v5e:2x2")]
    assert found == [("full", 24), ("dots", 4)]  # of the divisors of 24 rows a device; the shortest step first
    assert len(tried) == len(set(tried)) <= 3 * 4


@pytest.mark.slow
def test_the_search_finds_what_fits():
    recipe, _ = load_recipe(TINY, ["MeshConfig.fsdp=4"])
    reports = search(recipe, "v5e:2x2")
    assert {report.remat for report in reports} == {"none", "dots", "full"}
    assert all(report.fits and report.microbatch_size == 2 for report in reports)  # all rows of a device at once
    first, *_ = (line.split()[0] for line in describe_search(reports).splitlines()[1:])
    assert first == reports[0].remat
    assert [report.estimate.step for report in reports] == sorted(report.estimate.step for report in reports)
