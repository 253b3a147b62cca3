"""The device mesh: four named axes, whose sizes are all that a recipe says about hardware."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from t5x_code.errors import UserError


class MeshShape(NamedTuple):
    """Devices along each axis of a mesh."""

    data: int
    fsdp: int
    sequence: int
    tensor: int


MESH_AXES = MeshShape._fields


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis. One axis may be -1: all devices that remain."""

    data: int = 1  # copies of the parameters; each takes its share of the rows
    fsdp: int = -1  # shares of the parameters; each takes its share of the rows too
    sequence: int = 1  # shares of a row's length
    tensor: int = 1  # shares of heads, MLP and vocabulary
    num_slices: int = 1  # TPU slices joined by a slower network; `data` must be a multiple of it

    @property
    def sizes(self) -> MeshShape:
        """Devices along each axis, -1 as it stands."""
        return MeshShape(self.data, self.fsdp, self.sequence, self.tensor)


def mesh_shape(config: MeshConfig, num_devices: int) -> MeshShape:
    """The shape of a config's mesh, of `num_devices` in all.

    Raises:
        UserError: the sizes do not fit that many devices, or the slices.
    """
    sizes = config.sizes
    if any(size == 0 or size < -1 for size in sizes) or sizes.count(-1) > 1 or config.num_slices < 1:
        raise UserError(
            f"mesh sizes must be positive, one of them may be -1 (the rest), but they are {_describe(sizes)}"
        )
    known = math.prod(size for size in sizes if size != -1)
    shape = MeshShape(*(num_devices // known if size == -1 else size for size in sizes))
    if math.prod(shape) != num_devices:
        needed = f"{known} device{'s' if known > 1 else ''}" if -1 not in sizes else f"a multiple of {known} devices"
        attached = f"{num_devices} {'is' if num_devices == 1 else 'are'} attached"
        raise UserError(f"mesh needs {needed} ({_describe(sizes)}) but {attached}; {_advice(sizes, num_devices)}")
    if shape.data % config.num_slices:
        raise UserError(
            f"mesh of {config.num_slices} slices: set MeshConfig.data to a multiple of it, it is {shape.data}"
        )
    return shape


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Lays the devices out so that neighbours on the fastest axes are neighbours in hardware.

    Args:
        config: sizes of the axes.
        devices: default: all that are attached, of every process.

    Raises:
        UserError: the sizes do not fit the devices.
    """
    devices = list(devices) if devices is not None else jax.devices()
    shape = mesh_shape(config, len(devices))
    slices = len({device.slice_index for device in devices if hasattr(device, "slice_index")}) or 1
    # GPUs name as slices what NVLink joins, which a mesh need not know.
    if slices != config.num_slices and (devices[0].platform == "tpu" or config.num_slices > 1):
        needed = f"set MeshConfig.num_slices={slices} and MeshConfig.data to a multiple of it"
        raise UserError(f"mesh of {config.num_slices} slices, but the devices are of {slices}; {needed}")
    if config.num_slices > 1:
        per_slice = shape._replace(data=shape.data // config.num_slices)
        over_slices = MeshShape(config.num_slices, 1, 1, 1)
        grid = mesh_utils.create_hybrid_device_mesh(per_slice, over_slices, devices, allow_split_physical_axes=True)
    elif devices[0].platform == "tpu":
        grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    else:
        grid = np.array(devices).reshape(shape)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def _describe(sizes: Sequence[int]) -> str:
    named = zip(MESH_AXES, sizes, strict=True)
    return " x ".join(f"{name} {size}" for name, size in named if name == "data" or size != 1)


def _advice(sizes: Sequence[int], num_devices: int) -> str:
    """A setting of fsdp that fits, where there is one."""
    others = math.prod(size for name, size in zip(MESH_AXES, sizes, strict=True) if name != "fsdp")
    if others > 0 and num_devices % others == 0:
        return f"choose another gin/meshes/*.gin or set MeshConfig.fsdp={num_devices // others}"
    return "choose another gin/meshes/*.gin"
