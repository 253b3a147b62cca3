"""What a step keeps for its backward pass, and how many rows it takes at a time: as much as the devices' memory holds.

"auto" of REMAT and MICROBATCH_SIZE is settled here, before anything is allocated and by the estimate of
`recipes/memory.py`. The same recipe makes the same choice on the same devices, so that a run that goes on goes on bit
for bit.
"""

import dataclasses
import math
from typing import get_args

import jax
from jax.sharding import Mesh

from t5x_code.errors import UserError
from t5x_code.models.config import AUTO, RematPolicy
from t5x_code.models.decoder import count_params
from t5x_code.parallel.mesh import MeshShape
from t5x_code.recipes.memory import (
    GIB,
    MemoryEstimate,
    device_memory_bytes,
    estimate_memory,
    machine_memory_bytes,
)
from t5x_code.recipes.recipe import Recipe
from t5x_code.training.batch_size import batch_sizes_of

REMAT_POLICIES: tuple[RematPolicy, ...] = get_args(RematPolicy)  # the least work first
CPU_POLICIES: tuple[RematPolicy, ...] = ("dots", "full")  # a CPU's step is as fast under "dots" as under "none"
# Of what a device has. The estimate knows no fragmentation; a CPU's memory serves others as well.
CPU_SHARE, SHARE = 0.5, 0.92
# Tokens of a device at a time. With fewer than the first number, parameters are gathered and gradients added up so
# often that it may take as long as to recompute all. More than the second save nothing; the memory is better left free.
FEWEST_TOKENS, ENOUGH_TOKENS = 1 << 13, 1 << 15


@dataclasses.dataclass(frozen=True)
class Devices:
    """What the choice depends on."""

    platform: str  # cpu, gpu or tpu
    memory: int | None  # bytes of one; None: not known


def attached_devices() -> Devices:
    """Those of this process."""
    platform = jax.local_devices()[0].platform
    return Devices(platform, machine_memory_bytes() if platform == "cpu" else device_memory_bytes())


def fit_memory(recipe: Recipe, mesh: Mesh) -> Recipe:
    """The recipe as `settle_memory` has it for the attached devices, of which `mesh` is made.

    Raises:
        UserError: it cannot fit them; says what would.
    """
    settled = settle_memory(recipe, MeshShape(**mesh.shape), attached_devices())
    check_memory(settled, MeshShape(**mesh.shape))
    return settled


def settle_memory(recipe: Recipe, shape: MeshShape, devices: Devices) -> Recipe:
    """The recipe with a policy and a number of rows where REMAT and MICROBATCH_SIZE are "auto".

    The policy that recomputes least of those under which `FEWEST_TOKENS` fit at a time, or all of the device's. Where
    none does: the one that recomputes most, with as many rows as fit, or those that take least.

    Args:
        recipe: whose batches the mesh divides.
        shape: of the mesh.
        devices: it is made of; where their memory is not known, all is recomputed, and all rows are taken at once.
    """
    policies = policies_to_choose_from(recipe, devices.platform)
    sizes = sizes_to_choose_from(recipe, shape)
    if devices.memory is None:
        return with_choice(recipe, policies[-1], sizes[0])
    limit = (CPU_SHARE if devices.platform == "cpu" else SHARE) * devices.memory

    def total(choice: Recipe) -> int:
        return recipe_memory(choice, shape, devices.platform).total

    fewest = min(sizes[0], -(-FEWEST_TOKENS // _tokens_of_a_row(recipe, shape)))
    choices = [with_choice(recipe, policy, size) for policy in policies for size in sizes if size >= fewest]
    last_resort = [with_choice(recipe, policies[-1], size) for size in sizes]
    fitting = (choice for choice in [*choices, *last_resort] if total(choice) <= limit)
    return next(fitting, min(last_resort, key=total))


def policies_to_choose_from(recipe: Recipe, platform: str) -> tuple[RematPolicy, ...]:
    """What may be kept, the least work first."""
    if recipe.model.remat != AUTO:
        return (recipe.model.remat,)
    return CPU_POLICIES if platform == "cpu" else REMAT_POLICIES


def sizes_to_choose_from(recipe: Recipe, shape: MeshShape) -> list[int]:
    """Rows per device at a time that may be chosen, the best first."""
    if recipe.loop.microbatch_size == AUTO:
        sizes = _divisors(recipe, shape)
        enough = [size for size in sizes if size * _tokens_of_a_row(recipe, shape) >= ENOUGH_TOKENS]
        return sizes[max(0, len(enough) - 1) :]
    return [recipe.loop.microbatch_size or most_rows(recipe, shape)]


def _divisors(recipe: Recipe, shape: MeshShape) -> list[int]:
    """Rows per device at a time that divide every batch, the most first."""
    divided = math.gcd(*batch_sizes_of(recipe.loop.batch_size)) // (shape.data * shape.fsdp)
    return [size for size in range(divided, 0, -1) if divided % size == 0]


def _tokens_of_a_row(recipe: Recipe, shape: MeshShape) -> int:
    return recipe.data.length // shape.sequence


def with_choice(recipe: Recipe, policy: RematPolicy, rows: int) -> Recipe:
    """The recipe with this policy and, unless it says how many itself, as many rows per device at a time."""
    model, loop = dataclasses.replace(recipe.model, remat=policy), recipe.loop
    if loop.microbatch_size == AUTO:
        loop = dataclasses.replace(loop, microbatch_size=rows)
    return dataclasses.replace(recipe, model=model, loop=loop)


def describe_choice(recipe: Recipe, shape: MeshShape) -> str:
    """What was settled."""
    rows = most_rows(recipe, shape)
    return f"{recipe.model.remat}, {recipe.loop.microbatch_size or rows} of {rows} rows per device at a time"


def recipe_memory(recipe: Recipe, shape: MeshShape, platform: str) -> MemoryEstimate:
    """Memory per device, of a recipe whose policy and rows are settled."""
    rows = most_rows(recipe, shape)
    microbatch = min(rows, recipe.loop.microbatch_size or rows)
    return estimate_memory(recipe.model, recipe.optimizer, shape, rows, microbatch, recipe.data.length, platform)


def most_rows(recipe: Recipe, shape: MeshShape) -> int:
    """Rows per device of the largest batch."""
    return -(-max(batch_sizes_of(recipe.loop.batch_size)) // (shape.data * shape.fsdp))


def check_memory(recipe: Recipe, shape: MeshShape) -> None:
    """Refuses a settled recipe that cannot fit the attached devices, before anything is allocated, with what would fit.

    Raises:
        UserError: the estimate exceeds the memory of a device.
    """
    limit, platform = device_memory_bytes(), jax.local_devices()[0].platform
    estimate = recipe_memory(recipe, shape, platform)
    if limit is None or estimate.total <= limit:
        return
    of_any_size = dataclasses.replace(recipe, loop=dataclasses.replace(recipe.loop, microbatch_size=AUTO))

    def fitting(policy: RematPolicy) -> int | None:
        sizes = _divisors(recipe, shape)
        needs = (recipe_memory(with_choice(of_any_size, policy, size), shape, platform).total for size in sizes)
        return next((size for size, needed in zip(sizes, needs, strict=True) if needed <= limit), None)

    if most := fitting(recipe.model.remat):
        advice = f"set MICROBATCH_SIZE={most}"
    elif fitting(REMAT_POLICIES[-1]):
        advice = f"set REMAT={AUTO!r} and MICROBATCH_SIZE={AUTO!r}"
    else:
        state = (estimate.parameters + estimate.gradients + estimate.optimizer) * shape.fsdp * shape.tensor
        advice = (
            f"parameters, gradients and optimizer take {state / GIB:.1f} GiB in all, which {-(-state // limit) + 1} "
            "such devices hold; or shrink the model: --gin_file=gin/models/tiny.gin"
        )
    microbatch = recipe.loop.microbatch_size or most_rows(recipe, shape)
    raise UserError(
        f"{count_params(recipe.model) / 1e9:.3f} B parameters with {microbatch} rows of {recipe.data.length} per "
        f"device need about {estimate.total / GIB:.1f} GiB but a device has {limit / GIB:.1f} GiB; {advice}"
    )
