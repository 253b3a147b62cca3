"""Sharding is a table: what each logical axis of the model is split over, and what follows from it.

Parameters and activations carry logical axis names; this is the only place that knows mesh axes.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_code.errors import UserError

BATCH_AXES = ("data", "fsdp")  # rows are split over both

LOGICAL_AXIS_RULES: tuple[tuple[str, str | tuple[str, ...] | None], ...] = (
    # parameters
    ("layers", None),
    ("vocab", "tensor"),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("head_dim", None),
    ("mlp", "tensor"),
    ("norm", None),
    ("lora", None),
    # activations
    ("batch", BATCH_AXES),
    ("lookup_batch", "data"),
    ("length", "sequence"),
    ("activation_embed", None),
    ("activation_heads", "tensor"),
    ("activation_mlp", "tensor"),
    ("activation_vocab", "tensor"),
)

# Multi-query attention has fewer key/value heads than a tensor axis has devices: then each device holds them all.
WHOLE_WHERE_UNEVEN = ("kv_heads",)

LogicalAxes = tuple[str | None, ...]


def partition_spec(names: LogicalAxes, shape: tuple[int, ...], mesh: Mesh, where: str = "array") -> PartitionSpec:
    """The mesh axes of one array.

    Args:
        names: logical axis per dimension; None is never split.
        shape: the array's.
        mesh: gives the sizes.
        where: the array's name for the error.

    Raises:
        UserError: a dimension does not divide evenly.
    """
    table = dict(LOGICAL_AXIS_RULES)
    spec = []
    for name, size in zip(names, shape, strict=True):
        axis = table[name] if name is not None else None
        if axis is not None and size % _num_shares(mesh, axis):
            if name not in WHOLE_WHERE_UNEVEN:
                uneven = f"its {name} axis of {size} does not divide over {axis} {_num_shares(mesh, axis)}"
                raise UserError(f"parameter {where}: {uneven}; set MeshConfig.{axis} to a divisor of {size}")
            axis = None
        spec.append(axis)
    return PartitionSpec(*spec)


def param_shardings(axes: Any, shapes: Any, mesh: Mesh) -> Any:
    """NamedShardings of parameters.

    Args:
        axes: tree of tuples of logical axis names, one per parameter.
        shapes: tree of the parameters, or of what `jax.eval_shape` gives.
        mesh: the devices.

    Raises:
        UserError: a parameter does not divide evenly; names it.
    """

    def of_one(path: tuple, names: LogicalAxes, leaf: Any) -> NamedSharding:
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, partition_spec(names, leaf.shape, mesh, where))

    return jax.tree_util.tree_map_with_path(of_one, axes, shapes, is_leaf=lambda node: isinstance(node, tuple))


def optimizer_shardings(opt_state: Any, shapes: Any, shardings: Any, mesh: Mesh) -> Any:
    """NamedShardings of an optimizer's state: what has a parameter's path and shape is split like it.

    Args:
        opt_state: an optimizer's state, or what `jax.eval_shape` gives.
        shapes: tree of the parameters, or of their shapes.
        shardings: what `param_shardings` gave.
        mesh: the devices.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    shape_of, sharding_of = _by_path(shapes), _by_path(shardings)

    def of_one(path: tuple, leaf: Any) -> NamedSharding:
        keys = tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
        name = next((keys[n:] for n in range(len(keys)) if keys[n:] in shape_of), None)
        return sharding_of[name] if name and shape_of[name].shape == leaf.shape else whole

    return jax.tree_util.tree_map_with_path(of_one, opt_state)


def _by_path(params: Any) -> dict[tuple[str, ...], Any]:
    return {tuple(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Of a batch's arrays, [B, ...]: rows over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def num_batch_shards(mesh: Mesh) -> int:
    """Devices that rows are split over."""
    return _num_shares(mesh, BATCH_AXES)


@contextlib.contextmanager
def logical_axes_on(mesh: Mesh | None) -> Iterator[None]:
    """In this context a model's activation constraints mean the axes of `mesh`; without one, on one device, nothing."""
    if mesh is None:
        yield
        return
    with jax.set_mesh(mesh), nn.logical_axis_rules(LOGICAL_AXIS_RULES):
        yield


def _num_shares(mesh: Mesh, axis: str | tuple[str, ...]) -> int:
    return math.prod(mesh.shape[name] for name in ((axis,) if isinstance(axis, str) else axis))
