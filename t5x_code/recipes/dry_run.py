"""What a recipe would do, without touching anything: its configuration, size, memory per device and batch."""

import dataclasses
import math

import jax
from jax.sharding import AbstractMesh, Mesh

from t5x_code.models.config import AUTO
from t5x_code.models.decoder import count_params, logical_axes, param_shapes
from t5x_code.parallel.mesh import MESH_AXES, MeshShape, make_mesh, mesh_shape
from t5x_code.parallel.rules import param_shardings
from t5x_code.recipes.attention_choice import refuse_attention, refuse_uneven_rows, settle_attention
from t5x_code.recipes.memory import GIB
from t5x_code.recipes.memory_choice import (
    attached_devices,
    describe_choice,
    policies_to_choose_from,
    recipe_memory,
    settle_memory,
    sizes_to_choose_from,
    with_choice,
)
from t5x_code.recipes.mixture import refuse_unknown_tasks
from t5x_code.recipes.recipe import Recipe
from t5x_code.recipes.vocabulary import NoTokenizer, describe_unused_rows, num_tokens_without_data, split_without_data
from t5x_code.training.batch_size import batch_size_at, batch_sizes_of
from t5x_code.training.step import num_microbatches

ELSEWHERE = "tpu"  # the platform of devices that are not attached, as far as an estimate depends on it


def describe(recipe: Recipe, resolved: str) -> str:
    """The report of `--dry_run`.

    Where the recipe's mesh names its sizes, they are taken instead of the devices attached here.

    Raises:
        UserError: an unknown mixture, an attention that cannot compute the rows, or a mesh that does not divide the
            batches, the rows or the parameters.
    """
    refuse_unknown_tasks(recipe.data)
    shape = planned_mesh(recipe)
    _refuse_attention(recipe)
    recipe, vocabulary = _with_split_model(recipe)
    unused = None
    if recipe.data.modality_separation == "none" and recipe.initialize_from is None:
        unused = describe_unused_rows(recipe, num_tokens_without_data(recipe.data))
    _refuse_uneven(recipe, shape)
    rows = batch_size_at(recipe.loop.batch_size, 0)
    parts = [
        resolved.rstrip(),
        "",
        f"parameters       {count_params(recipe.model):,}{vocabulary}",
        *([f"vocabulary       {unused}"] if unused else []),
        f"mesh             {' x '.join(f'{name} {size}' for name, size in shape._asdict().items())}",
        f"batch            {rows} rows x {recipe.data.length} = {rows * recipe.data.length:,} tokens a step",
        f"steps            {recipe.loop.train_steps:,}",
        *_memory_lines(recipe, shape),
    ]
    return "\n".join(parts)


def _refuse_uneven(recipe: Recipe, shape: MeshShape) -> None:
    """Raises what training would: a UserError that names what the mesh does not divide."""
    mesh = AbstractMesh(shape, MESH_AXES)
    refuse_uneven_batches(recipe, mesh)
    refuse_uneven_rows(recipe.data.length, mesh)
    param_shardings(logical_axes(recipe.model), param_shapes(recipe.model), mesh)


def _refuse_attention(recipe: Recipe) -> None:
    """As `_refuse_uneven`, of the attention; what only devices can tell, where the recipe is planned for those here."""
    refuse_attention(recipe)
    if -1 in recipe.mesh.sizes:
        settle_attention(recipe, make_mesh(recipe.mesh))


def refuse_uneven_batches(recipe: Recipe, mesh: Mesh | AbstractMesh) -> None:
    """Raises a UserError where the mesh does not divide the rows of a batch, of training or of validation."""
    microbatch = None if recipe.loop.microbatch_size == AUTO else recipe.loop.microbatch_size
    for rows in batch_sizes_of(recipe.loop.batch_size):
        num_microbatches(rows, microbatch, mesh)
    num_microbatches(recipe.eval_batch_size, None, mesh, "DataConfig.eval_batch_size")


def _with_split_model(recipe: Recipe) -> tuple[Recipe, str]:
    """The recipe with the model that it trains, and what is to be said of a vocabulary that is split by modality."""
    try:
        model, split = split_without_data(recipe.data, recipe.model, trains_on="nothing")
    except NoTokenizer as unknown:
        return recipe, f", without the rows that MODALITY_SEPARATION adds: {unknown}"
    added = "" if split is None else f", {len(split.sources):,} of the vocabulary's rows doubled for code"
    return dataclasses.replace(recipe, model=model), added


def planned_mesh(recipe: Recipe) -> MeshShape:
    """The mesh's sizes: the recipe's own where it names them all, else what the attached devices give."""
    sizes = recipe.mesh.sizes
    return mesh_shape(recipe.mesh, jax.device_count() if -1 in sizes else math.prod(sizes))


def describe_mesh(recipe: Recipe, mesh: Mesh) -> str:
    """The line at a run's start: devices, what each axis does, bytes per device."""
    work = {
        "data": "copies, each with its rows",
        "fsdp": "shares of the parameters, each with its rows",
        "sequence": "shares of each row's tokens",
        "tensor": "shares of heads, MLP and vocabulary",
    }
    axes = [f"{name} {size} ({work[name]})" for name, size in mesh.shape.items() if size > 1]
    slices = f" of {recipe.mesh.num_slices} slices" if recipe.mesh.num_slices > 1 else ""
    estimate = recipe_memory(recipe, MeshShape(**mesh.shape), mesh.devices.flat[0].platform)
    state = estimate.parameters + estimate.optimizer
    device = f"{mesh.devices.flat[0].device_kind} device"
    return (
        f"{_count(mesh.size, device)}{slices} in {_count(jax.process_count(), 'process', 'processes')}; "
        f"mesh {' x '.join(axes) or 'of one device'}; per device {state / GIB:.3f} GiB of parameters and optimizer, "
        f"about {estimate.total / GIB:.3f} GiB in all"
    )


def _count(number: int, one: str, several: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def _memory_lines(recipe: Recipe, shape: MeshShape) -> list[str]:
    """What a device holds. Where REMAT or MICROBATCH_SIZE is settled by devices that are elsewhere: each choice."""
    is_here = math.prod(shape) == jax.device_count()
    if not is_here and AUTO in (recipe.model.remat, recipe.loop.microbatch_size):
        return [
            "memory per device, estimated in GiB; REMAT and MICROBATCH_SIZE are settled by what the devices have:",
            *_memory_table(recipe, shape),
        ]
    settled = settle_memory(recipe, shape, attached_devices())
    estimate = recipe_memory(settled, shape, jax.default_backend() if is_here else ELSEWHERE)
    sizes = dataclasses.asdict(estimate) | {"total": estimate.total}
    lines = [f"  {name.replace('_', ' '):14} {size / GIB:9.3f} GiB" for name, size in sizes.items()]
    return [
        f"remat            {describe_choice(settled, shape)}",
        "memory per device, estimated:",
        *lines,
    ]


def _memory_table(recipe: Recipe, shape: MeshShape) -> list[str]:
    """Estimates by what may be kept, down, and how many rows are taken at a time, across."""
    sizes = sizes_to_choose_from(recipe, shape)
    lines = [f"  {'':14}" + "".join(f"{_count(size, 'row'):>10}" for size in sizes)]
    for policy in policies_to_choose_from(recipe, ELSEWHERE):
        totals = [recipe_memory(with_choice(recipe, policy, size), shape, ELSEWHERE).total for size in sizes]
        lines.append(f"  {policy:14}" + "".join(f"{total / GIB:>10.1f}" for total in totals))
    return lines
