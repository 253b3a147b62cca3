"""Proves on a CPU that a recipe's training step compiles for hardware that is elsewhere and fits it; and what it costs.

The step is the one that training compiles, made by the same functions. Its arithmetic is that of rows of one document:
what kernels skip between the documents of a row is known only to a run.
"""

import dataclasses
import math
import time
from typing import Any

from jax.sharding import Mesh

from t5x_code.models.config import RematPolicy
from t5x_code.models.decoder import count_params
from t5x_code.models.modality import VocabularySplit
from t5x_code.parallel.ahead import CompiledStep, DeviceMemory, available_bytes, compile_step
from t5x_code.parallel.bounds import StepBounds, step_bounds
from t5x_code.parallel.chips import Chip
from t5x_code.parallel.collectives import Collective
from t5x_code.parallel.estimate import StepEstimate, estimate_step
from t5x_code.parallel.mesh import MESH_AXES, MeshShape, make_mesh
from t5x_code.parallel.rules import num_batch_shards
from t5x_code.parallel.topology import described_devices
from t5x_code.progress import progress_bar
from t5x_code.recipes.abstract_batch import abstract_batch
from t5x_code.recipes.attention_choice import settle_attention
from t5x_code.recipes.dry_run import refuse_uneven_batches
from t5x_code.recipes.memory import state_bytes, trained_bytes
from t5x_code.recipes.memory_choice import REMAT_POLICIES, Devices, settle_memory
from t5x_code.recipes.recipe import Recipe
from t5x_code.recipes.vocabulary import split_without_data
from t5x_code.training.assemble import jit_train_step, step_parts
from t5x_code.training.batch_size import batch_sizes_of
from t5x_code.training.flops import (
    attention_flops_per_token,
    eight_bit_flops_per_token,
    recomputed_flops_per_token,
    train_flops_per_token,
)
from t5x_code.training.state import abstract_state
from t5x_code.training.step import num_microbatches


@dataclasses.dataclass(frozen=True)
class AheadReport:
    """One recipe on one topology. Bytes and seconds are per device and step."""

    topology: str
    num_slices: int
    chip: str
    num_devices: int
    mesh: dict[str, int]
    parameters: int
    batch_size: int
    microbatch_size: int  # rows per device at a time
    length: int
    remat: str
    attention: str  # implementation
    fits: bool
    refusal: str | None  # why it does not compile
    memory: DeviceMemory | None
    collectives: tuple[Collective, ...]
    flops_per_token: float  # of the model: forward and backward pass
    recomputed_flops_per_token: float
    bounds: StepBounds | None
    mfu_at_most: float | None  # the model's FLOPs over bfloat16's peak, at the step's lower bound
    estimate: StepEstimate | None  # by a TPU's compiler
    mfu_estimated: float | None
    compile_seconds: float

    @property
    def expected(self) -> float:
        """Seconds of a step: the estimate, or the bound where there is none."""
        return self.estimate.step if self.estimate is not None else self.bounds.step

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, the derived figures included."""
        fields = dataclasses.asdict(self)
        if self.memory is not None and self.bounds is not None:
            fields["memory"] |= {"needed": self.memory.needed, "headroom": self.memory.headroom}
            fields["bounds"] |= {"step": self.bounds.step, "limit": self.bounds.limit}
        if self.estimate is not None:
            fields["estimate"] |= {"step": self.estimate.step}
        return fields


def compile_recipe(recipe: Recipe, topology: str, num_slices: int = 1) -> AheadReport:
    """Compiles a recipe's step for a topology.

    Args:
        recipe: its mesh must fit the topology's devices.
        topology: as `described_devices` takes it.
        num_slices: TPU slices, over which the mesh's data axis is split first.

    Raises:
        UserError: no such topology, no compiler for it, or a mesh or batch that does not fit.
        NoTokenizer: the vocabulary is split by modality, and nothing says into how many rows.
    """
    return _compile_recipe(*_with_split_model(recipe), topology, num_slices)


def _with_split_model(recipe: Recipe) -> tuple[Recipe, VocabularySplit | None]:
    """The recipe with the model that it trains, whose vocabulary may be split by modality, and how."""
    model, split = split_without_data(recipe.data, recipe.model, trains_on="embedded")
    return dataclasses.replace(recipe, model=model), split


def _compile_recipe(recipe: Recipe, split: VocabularySplit | None, topology: str, num_slices: int) -> AheadReport:
    devices, chip = described_devices(topology, num_slices)
    mesh = make_mesh(dataclasses.replace(recipe.mesh, num_slices=num_slices), devices)
    recipe = dataclasses.replace(recipe, model=settle_attention(recipe, mesh))
    refuse_uneven_batches(recipe, mesh)
    platform = mesh.devices.flat[0].platform
    recipe = settle_memory(recipe, MeshShape(**mesh.shape), Devices(platform, available_bytes(chip)))
    rows = max(batch_sizes_of(recipe.loop.batch_size))
    microbatches = num_microbatches(rows, recipe.loop.microbatch_size, mesh)
    began = time.perf_counter()
    compiled = _compile(recipe, split, rows, mesh, chip)
    length = recipe.data.length
    flops = train_flops_per_token(recipe.model, split, length)
    recomputed_flops = recomputed_flops_per_token(recipe.model, length)
    bounds = estimate = None
    if compiled.memory is not None:
        bounds = _bounds(recipe, compiled, chip, mesh, rows, microbatches, flops + recomputed_flops)
        estimate = _estimate(recipe, compiled, chip, mesh, rows)
    flops_at_peak = flops * rows * length / mesh.size / chip.peak_flops  # the model's work, in seconds
    return AheadReport(
        topology=topology,
        num_slices=num_slices,
        chip=chip.name,
        num_devices=mesh.size,
        mesh=dict(zip(MESH_AXES, mesh.devices.shape, strict=True)),
        parameters=count_params(recipe.model),
        batch_size=rows,
        microbatch_size=rows // microbatches // num_batch_shards(mesh),
        length=length,
        remat=recipe.model.remat,
        attention=recipe.model.attention,
        fits=compiled.fits,
        refusal=compiled.refusal,
        memory=compiled.memory,
        collectives=compiled.collectives,
        flops_per_token=flops,
        recomputed_flops_per_token=recomputed_flops,
        bounds=bounds,
        mfu_at_most=flops_at_peak / bounds.step if bounds else None,
        estimate=estimate,
        mfu_estimated=flops_at_peak / estimate.step if estimate else None,
        compile_seconds=time.perf_counter() - began,
    )


def search(recipe: Recipe, topology: str, num_slices: int = 1) -> list[AheadReport]:
    """The largest microbatch that fits under each remat policy, the shortest step first.

    Every policy's work and every microbatch's gathering of parameters is in the estimate and in the bound, so that
    they weigh the one against the other. Policies under which nothing fits are left out.

    Raises:
        UserError: as `compile_recipe`.
    """
    devices, _ = described_devices(topology, num_slices)
    mesh = make_mesh(dataclasses.replace(recipe.mesh, num_slices=num_slices), devices)
    refuse_uneven_batches(_with_microbatch(recipe, None), mesh)
    rows = math.gcd(*batch_sizes_of(recipe.loop.batch_size)) // num_batch_shards(mesh)  # each size is divided
    sizes = [size for size in range(1, rows + 1) if rows % size == 0]
    recipe, split = _with_split_model(recipe)
    found = []
    with progress_bar(total=len(REMAT_POLICIES), unit="remat policy") as bar:
        for remat in REMAT_POLICIES:
            report = _largest_fitting(recipe, split, topology, num_slices, remat, sizes)
            found += [report] if report else []
            bar.update()
    return sorted(found, key=lambda report: report.expected)


def _largest_fitting(
    recipe: Recipe,
    split: VocabularySplit | None,
    topology: str,
    num_slices: int,
    remat: RematPolicy,
    sizes: list[int],
) -> AheadReport | None:
    """By bisection over ascending microbatch sizes: what does not fit is found in seconds."""
    best = None
    low, high = 0, len(sizes)
    while low < high:
        middle = (low + high) // 2
        model = dataclasses.replace(recipe.model, remat=remat)
        of_size = _with_microbatch(dataclasses.replace(recipe, model=model), sizes[middle])
        report = _compile_recipe(of_size, split, topology, num_slices)
        if report.fits:
            best, low = report, middle + 1
        else:
            high = middle
    return best


def _with_microbatch(recipe: Recipe, microbatch_size: int | None) -> Recipe:
    return dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, microbatch_size=microbatch_size))


def _compile(recipe: Recipe, split: VocabularySplit | None, rows: int, mesh: Mesh, chip: Chip) -> CompiledStep:
    parts = step_parts(recipe.model, recipe.optimizer, recipe.loss, recipe.loop.microbatch_size, mesh, split)
    state = abstract_state(recipe.model, parts.optimizer, recipe.optimizer.ema_decay is not None, mesh, parts.offload)
    batch = abstract_batch(recipe.data, rows, mesh)
    return compile_step(jit_train_step(parts, state), state, batch, mesh, chip)


def _bounds(
    recipe: Recipe, compiled: CompiledStep, chip: Chip, mesh: Mesh, rows: int, microbatches: int, flops: float
) -> StepBounds:
    model = recipe.model
    parameters, beside = state_bytes(model, recipe.optimizer)
    shards = mesh.shape["fsdp"] * mesh.shape["tensor"]
    # What is trained is read and written once; every microbatch reads all, in the compute type, forward and back.
    state = 2 * (trained_bytes(model) + beside) / shards
    itemsize = 2 if model.dtype == "bfloat16" else 4
    looked_up = 0 if model.tie_embeddings else model.vocab_size * model.model_dim  # a row for each token, not all
    weights = 2 * microbatches * (parameters / 4 - looked_up) * itemsize / mesh.shape["tensor"]
    # No chip multiplies 8 bits at more than twice bfloat16's rate.
    flops -= eight_bit_flops_per_token(model) / 2
    return step_bounds(
        chip,
        flops=flops * rows * recipe.data.length / mesh.size,
        memory_bytes=state + weights,
        bytes_inside=sum(collective.bytes_inside for collective in compiled.collectives),
        bytes_across=sum(collective.bytes_across for collective in compiled.collectives),
    )


def _estimate(recipe: Recipe, compiled: CompiledStep, chip: Chip, mesh: Mesh, rows: int) -> StepEstimate | None:
    products = 0
    if recipe.model.attention == "splash":
        products = 9 + 2 * (recipe.model.remat == "full")  # forward 2, queries' gradient 3, keys' and values' 4
    tokens = rows * recipe.data.length / mesh.size
    per_product = attention_flops_per_token(recipe.model, recipe.data.length) / 6
    return estimate_step(chip, compiled.cycles, products * per_product * tokens, compiled.waited_for)
