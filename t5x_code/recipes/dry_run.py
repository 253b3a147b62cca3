"""What a recipe would do, without touching anything: its configuration, size, memory per device and batch."""

import dataclasses
import functools
import math

import jax
from jax.sharding import AbstractMesh, Mesh

from t5x_code.errors import UserError
from t5x_code.models.decoder import count_params, init_params, logical_axes
from t5x_code.parallel.mesh import MESH_AXES, MeshShape, make_mesh, mesh_shape
from t5x_code.parallel.rules import param_shardings
from t5x_code.recipes.attention_choice import refuse_attention, refuse_uneven_rows, settle_attention
from t5x_code.recipes.memory import (
    GIB,
    MemoryEstimate,
    device_memory_bytes,
    estimate_memory,
    largest_fitting_microbatch,
)
from t5x_code.recipes.mixture import refuse_unknown_tasks
from t5x_code.recipes.recipe import Recipe
from t5x_code.recipes.vocabulary import NoTokenizer, describe_unused_rows, num_tokens_without_data, split_without_data
from t5x_code.training.batch_size import batch_size_at, batch_sizes_of
from t5x_code.training.step import num_microbatches


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
    if recipe.data.modality_separation == "none":
        unused = describe_unused_rows(recipe, num_tokens_without_data(recipe.data))
    _refuse_uneven(recipe, shape)
    estimate, microbatch = recipe_memory(recipe, shape)
    rows = batch_size_at(recipe.loop.batch_size, 0)
    parts = [
        resolved.rstrip(),
        "",
        f"parameters       {count_params(recipe.model):,}{vocabulary}",
        *([f"vocabulary       {unused}"] if unused else []),
        f"mesh             {' x '.join(f'{name} {size}' for name, size in shape._asdict().items())}",
        f"batch            {rows} rows x {recipe.data.length} = {rows * recipe.data.length:,} tokens a step; "
        f"{microbatch} rows per device at a time",
        f"steps            {recipe.loop.train_steps:,}",
        "memory per device, estimated:",
        *_memory_lines(estimate),
    ]
    return "\n".join(parts)


def _refuse_uneven(recipe: Recipe, shape: MeshShape) -> None:
    """Raises what training would: a UserError that names what the mesh does not divide."""
    mesh = AbstractMesh(shape, MESH_AXES)
    refuse_uneven_batches(recipe, mesh)
    refuse_uneven_rows(recipe.data.length, mesh)
    shapes = jax.eval_shape(functools.partial(init_params, recipe.model), jax.random.key(0))
    param_shardings(logical_axes(recipe.model), shapes, mesh)


def _refuse_attention(recipe: Recipe) -> None:
    """As `_refuse_uneven`, of the attention; what only devices can tell, where the recipe is planned for those here."""
    refuse_attention(recipe)
    if -1 in recipe.mesh.sizes:
        settle_attention(recipe, make_mesh(recipe.mesh))


def refuse_uneven_batches(recipe: Recipe, mesh: Mesh | AbstractMesh) -> None:
    """Raises a UserError where the mesh does not divide the rows of a batch, of training or of validation."""
    for rows in batch_sizes_of(recipe.loop.batch_size):
        num_microbatches(rows, recipe.loop.microbatch_size, mesh)
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


def recipe_memory(recipe: Recipe, mesh: MeshShape) -> tuple[MemoryEstimate, int]:
    """Memory per device on a mesh, and the rows per device at a time that it is for."""
    rows = _most_rows(recipe, mesh)
    microbatch = min(rows, recipe.loop.microbatch_size or rows)
    return estimate_memory(recipe.model, recipe.optimizer, mesh, rows, microbatch, recipe.data.length), microbatch


def _most_rows(recipe: Recipe, mesh: MeshShape) -> int:
    """Rows per device of the largest batch."""
    return -(-max(batch_sizes_of(recipe.loop.batch_size)) // (mesh.data * mesh.fsdp))


def check_memory(recipe: Recipe) -> None:
    """Refuses a recipe that cannot fit the attached devices, before anything is allocated, with what would fit.

    Raises:
        UserError: the estimate exceeds the memory of a device.
    """
    limit = device_memory_bytes()
    mesh = mesh_shape(recipe.mesh, jax.device_count())
    estimate, microbatch = recipe_memory(recipe, mesh)
    if limit is None or estimate.total <= limit:
        return
    rows = _most_rows(recipe, mesh)
    divided = math.gcd(*batch_sizes_of(recipe.loop.batch_size)) // (mesh.data * mesh.fsdp)  # so that every size is
    fitting = largest_fitting_microbatch(recipe.model, recipe.optimizer, mesh, rows, divided, recipe.data.length, limit)
    if fitting:
        advice = f"set MICROBATCH_SIZE={fitting}"
    else:
        state = (estimate.parameters + estimate.gradients + estimate.optimizer) * mesh.fsdp * mesh.tensor
        advice = (
            f"parameters, gradients and optimizer take {state / GIB:.1f} GiB in all, which {-(-state // limit) + 1} "
            "such devices hold; or shrink the model: --gin_file=gin/models/tiny.gin"
        )
    raise UserError(
        f"{count_params(recipe.model) / 1e9:.3f} B parameters with {microbatch} rows of {recipe.data.length} per "
        f"device need about {estimate.total / GIB:.1f} GiB but a device has {limit / GIB:.1f} GiB; {advice}"
    )


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
    estimate, _ = recipe_memory(recipe, MeshShape(**mesh.shape))
    state = estimate.parameters + estimate.optimizer
    device = f"{mesh.devices.flat[0].device_kind} device"
    return (
        f"{_count(mesh.size, device)}{slices} in {_count(jax.process_count(), 'process', 'processes')}; "
        f"mesh {' x '.join(axes) or 'of one device'}; per device {state / GIB:.3f} GiB of parameters and optimizer, "
        f"about {estimate.total / GIB:.3f} GiB in all"
    )


def _count(number: int, one: str, several: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def _memory_lines(estimate: MemoryEstimate) -> list[str]:
    named = {
        "parameters": estimate.parameters,
        "gradients": estimate.gradients,
        "optimizer": estimate.optimizer,
        "activations": estimate.activations,
        "loss head": estimate.loss_head,
        "total": estimate.total,
    }
    return [f"  {name:14} {size / GIB:9.3f} GiB" for name, size in named.items()]
