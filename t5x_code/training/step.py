"""One training step and one evaluation step, as pure functions to be jitted.

Legend: B batch, A accumulated microbatches.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_code.errors import UserError
from t5x_code.models.lora import join, split_trained
from t5x_code.parallel.rules import BATCH_AXES, batch_sharding, num_batch_shards
from t5x_code.training.losses import Batch, Loss, Sums, ratio
from t5x_code.training.state import TrainState, moved

Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class StepParts:
    """What a step is made of."""

    loss: Loss
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule  # the optimizer's own, for the log
    ema_decay: float | None
    microbatch_size: int | None  # rows per device at a time; None: all at once
    mesh: Mesh
    offload: bool = False  # the optimizer's arrays come from the host's memory and go back there


def num_microbatches(batch_size: int, microbatch_size: int | None, mesh: Mesh, name: str = "BATCH_SIZE") -> int:
    """A: in how many parts a batch is run.

    Args:
        batch_size: rows of the global batch.
        microbatch_size: rows per device at a time; None: all at once.
        mesh: the devices.
        name: of the setting that says how many rows a batch has, for errors.

    Raises:
        UserError: the devices, or devices and microbatch, do not divide the batch.
    """
    devices = num_batch_shards(mesh)
    over_devices = f"over {devices} device{'s' if devices > 1 else ''}"
    if batch_size < 1 or batch_size % devices:
        sizes = f"data {mesh.shape['data']} x fsdp {mesh.shape['fsdp']}"
        multiple = max(1, round(batch_size / devices)) * devices
        raise UserError(f"{name} {batch_size} does not divide {over_devices} ({sizes}); try {multiple}")
    per_device = batch_size // devices
    if microbatch_size is None:
        return 1
    if microbatch_size < 1 or per_device % microbatch_size:
        share = f"BATCH_SIZE {batch_size} {over_devices} is {per_device} row{'s' if per_device > 1 else ''} each"
        raise UserError(f"MICROBATCH_SIZE {microbatch_size} does not divide the batch: {share}; set a divisor of it")
    return per_device // microbatch_size


def make_train_step(parts: StepParts) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """Makes `train_step(state, batch) -> (state, metrics)`.

    A step whose loss or gradient norm is not finite changes nothing but the counts. Metrics: the loss's reported sums
    per count, `grad_norm` (before clipping), `param_norm`, `learning_rate`, `num_tokens` (weight of all targets),
    `skipped` and `skipped_in_a_row`.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        counts = parts.loss.counts(batch)
        sums, grads = accumulate(parts, state.params, batch, counts)
        grad_norm = optax.global_norm(grads)
        is_good = jnp.isfinite(parts.loss.total(sums, counts)) & jnp.isfinite(grad_norm)
        trained_params, other_params = split_trained(state.params)
        old_opt_state = moved(state.opt_state, jax.memory.Space.Device) if parts.offload else state.opt_state
        updates, new_opt_state = parts.optimizer.update(grads, old_opt_state, trained_params)
        params = join(optax.apply_updates(trained_params, updates), other_params)
        ema_params = state.ema_params
        if parts.ema_decay is not None:
            ema_params = optax.incremental_update(params, ema_params, 1 - parts.ema_decay)
        changed, kept = (params, ema_params), (state.params, state.ema_params)
        params, ema_params = jax.tree.map(lambda new, old: jnp.where(is_good, new, old), changed, kept)
        update = functools.partial(parts.optimizer.update, grads, params=trained_params)
        opt_state = _kept_unless(is_good, new_opt_state, old_opt_state, update, params)
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=moved(opt_state, jax.memory.Space.Host) if parts.offload else opt_state,
            ema_params=ema_params,
            skipped=state.skipped + ~is_good,
            skipped_in_a_row=jnp.where(is_good, 0, state.skipped_in_a_row + 1),
        )
        metrics = reported(parts.loss, sums, counts) | {
            "grad_norm": grad_norm,
            "param_norm": optax.global_norm(params),
            "learning_rate": jnp.asarray(parts.schedule(state.step - state.skipped), jnp.float32),
            "num_tokens": batch["loss_weights"].sum(),
            "skipped": new_state.skipped,
            "skipped_in_a_row": new_state.skipped_in_a_row,
        }
        return new_state, metrics

    return train_step


def _kept_unless(is_good: jax.Array, new: Any, old: Any, update: Callable[[Any], tuple[Any, Any]], params: Any) -> Any:
    """The optimizer's new state, or after a bad step the old one.

    XLA for CPUs has one kernel for each array, and the one that writes the parameters also reads the moments. By itself
    it therefore copies the old moments first, or writes the new ones elsewhere and copies them back: up to twice the
    parameters' memory, and 3 % of the time. So on CPUs the moments are computed a second time, when the parameters are
    written, each in its place.

    Args:
        is_good: whether the step is.
        new: the state computed together with the parameters' updates.
        old: the state before.
        update: from the old state to the updates and the new state.
        params: the new parameters.
    """

    def choose(is_good: jax.Array, new: Any, old: Any, first_entries: list[jax.Array]) -> Any:
        del first_entries
        return jax.tree.map(lambda new, old: jnp.where(is_good, new, old), new, old)

    def compute_again(is_good: jax.Array, new: Any, old: Any, first_entries: list[jax.Array]) -> Any:
        del new
        # True of any parameter, NaN aside: what depends on it is computed when the parameters are there.
        is_good &= jnp.stack([entry == entry for entry in first_entries]).all()
        later = jax.tree.map(lambda leaf: jnp.where(is_good, leaf, jnp.zeros_like(leaf)), old)
        return choose(is_good, update(later)[1], old, first_entries)

    first_entries = [leaf[(0,) * leaf.ndim] for leaf in jax.tree.leaves(params)]
    return jax.lax.platform_dependent(is_good, new, old, first_entries, cpu=compute_again, default=choose)


def make_eval_step(
    loss: Loss, mesh: Mesh, microbatch_size: int | None = None
) -> Callable[[Any, Batch], tuple[Sums, Sums]]:
    """Makes `eval_step(params, batch) -> (sums, counts)`, to be added up over batches; rows of weight 0 are padding.

    Args:
        loss: whose sums are wanted.
        mesh: the devices.
        microbatch_size: rows per device at a time, or what divides them and the batch; None: all at once. As in
            training, pooled codes are compared with all of the batch.
    """

    def eval_step(params: Any, batch: Batch) -> tuple[Sums, Sums]:
        per_device = batch["inputs"].shape[0] // num_batch_shards(mesh)
        A = 1 if microbatch_size is None else per_device // math.gcd(per_device, microbatch_size)
        if A == 1:
            return loss.sums(params, batch), loss.counts(batch)
        microbatches = split_batch(batch, A, mesh)
        if loss.pooled is None:
            of_parts = jax.lax.map(lambda part: loss.sums(params, part), microbatches)
            pooled_sums = {}
        else:
            of_parts, codes_AxBxCxD = jax.lax.map(lambda part: loss.pooled.read(params, part), microbatches)
            pooled_sums = loss.pooled.sums(join_batch(codes_AxBxCxD, mesh), batch)
        return jax.tree.map(lambda sums_A: sums_A.sum(0), of_parts) | pooled_sums, loss.counts(batch)

    return eval_step


def reported(loss: Loss, sums: Sums, counts: Sums) -> Metrics:
    """Each sum per its count; a single trained term that only repeats the total is left out."""
    names = [name for name in sums if len(loss.weights) > 1 or name not in loss.weights]
    return {name: ratio(sums[name], counts[name]) for name in names}


def accumulate(parts: StepParts, params: Any, batch: Batch, counts: Sums) -> tuple[Sums, Any]:
    """Runs a batch in A parts, one after the other.

    Since every part is divided by the counts of the whole batch, the parts' gradients simply add up. Terms of pooled
    codes see all codes of the batch all the same.

    Returns:
        Sums over the batch, and the float32 gradient of the loss's total for the parameters that are trained.
    """
    trained_params, other_params = split_trained(params)
    A = num_microbatches(batch["inputs"].shape[0], parts.microbatch_size, parts.mesh)
    if A > 1 and parts.loss.pooled is not None:
        return _accumulate_pooled(parts, trained_params, other_params, batch, counts, A)

    def total_of_part(trained_params: Any, part: Batch) -> tuple[jax.Array, Sums]:
        sums = parts.loss.sums(join(trained_params, other_params), part)
        return parts.loss.total(sums, counts), sums

    grad_of_part = jax.grad(total_of_part, has_aux=True)
    if A == 1:
        grads, sums = grad_of_part(trained_params, batch)
        return sums, grads
    return _add_up(lambda part: grad_of_part(trained_params, part), split_batch(batch, A, parts.mesh))


def _accumulate_pooled(
    parts: StepParts, trained_params: Any, other_params: Any, batch: Batch, counts: Sums, A: int
) -> tuple[Sums, Any]:
    """Gradient caching (arXiv 2101.06983): first all codes are read, part by part, with nothing kept for a backward
    pass; the pooled terms give the gradient for each code; then each part is read again, and its share is sent back.

    Equal to the whole batch at once, for the memory of a part and one more forward pass.
    """
    pooled = parts.loss.pooled
    microbatches = split_batch(batch, A, parts.mesh)

    def read(trained_params: Any, part: Batch) -> tuple[Sums, jax.Array]:
        return pooled.read(join(trained_params, other_params), part)

    codes_AxBxCxD = jax.lax.map(lambda part: read(trained_params, part)[1], microbatches)

    def pooled_total(codes_BxCxD: jax.Array) -> tuple[jax.Array, Sums]:
        sums = pooled.sums(codes_BxCxD, batch)
        return parts.loss.total(sums, counts), sums

    code_grads_BxCxD, pooled_sums = jax.grad(pooled_total, has_aux=True)(join_batch(codes_AxBxCxD, parts.mesh))

    def total_of_part(trained_params: Any, part: tuple[Batch, jax.Array]) -> tuple[jax.Array, Sums]:
        rows, code_grads = part
        sums, codes = read(trained_params, rows)
        return parts.loss.total(sums, counts) + (codes * code_grads).sum(), sums

    grad_of_part = jax.grad(total_of_part, has_aux=True)
    with_grads = (microbatches, split_batch(code_grads_BxCxD, A, parts.mesh))
    sums, grads = _add_up(lambda part: grad_of_part(trained_params, part), with_grads)
    return sums | pooled_sums, grads


def _add_up(grad_of_part: Callable[[Any], tuple[Any, Sums]], microbatches: Any) -> tuple[Sums, Any]:
    """Gradients and sums of all parts, [A, ...], added up one after the other."""

    def add_part(carry: tuple[Any, Sums], part: Any) -> tuple[tuple[Any, Sums], None]:
        return jax.tree.map(jnp.add, carry, grad_of_part(part)), None

    first = jax.tree.map(lambda array: array[0], microbatches)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(grad_of_part, first))
    (grads, sums), _ = jax.lax.scan(add_part, zeros, microbatches)
    return sums, grads


def split_batch(batch: Any, A: int, mesh: Mesh) -> Any:
    """[B, ...] -> [A, B / A, ...]. Each part takes rows of every device, so that no row moves."""
    sharding = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))

    def split(array: jax.Array) -> jax.Array:
        parts = array.reshape(array.shape[0] // A, A, *array.shape[1:]).swapaxes(0, 1)
        return jax.lax.with_sharding_constraint(parts, sharding)

    return jax.tree.map(split, batch)


def join_batch(parts: Any, mesh: Mesh) -> Any:
    """Inverse of `split_batch`."""

    def join_one(array: jax.Array) -> jax.Array:
        rows = array.swapaxes(0, 1).reshape(-1, *array.shape[2:])
        return jax.lax.with_sharding_constraint(rows, batch_sharding(mesh))

    return jax.tree.map(join_one, parts)
