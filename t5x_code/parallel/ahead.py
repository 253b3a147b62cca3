"""Compiles a step for devices that are not attached, and reads from the result what it needs of each device."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from t5x_code.errors import one_line
from t5x_code.parallel.chips import Chip
from t5x_code.parallel.collectives import Collective, read_operations, summarise
from t5x_code.parallel.estimate import count_cycles
from t5x_code.parallel.rules import logical_axes_on

OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
GPU_SHARE = 0.75  # of a GPU's memory that JAX takes, unless one of these variables names another
GPU_SHARE_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


@dataclasses.dataclass(frozen=True)
class DeviceMemory:
    """Bytes of one device's memory."""

    arguments: int  # state and batch
    outputs: int  # those that do not take an argument's place
    temporary: int  # everything else while the step runs
    peak: int  # the compiler's figure for the fullest moment
    available: int  # to JAX; see `available_bytes`

    @property
    def needed(self) -> int:
        """What has to be there: the larger of the peak and the sum of the buffers."""
        return max(self.peak, self.arguments + self.outputs + self.temporary)

    @property
    def headroom(self) -> int:
        """What is left of the available bytes; below 0 the step does not fit."""
        return self.available - self.needed


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """What the compiler said of a step: either it fits, or why not."""

    refusal: str | None  # the compiler's own words where it ran out of memory
    memory: DeviceMemory | None
    collectives: tuple[Collective, ...] = ()
    waited_for: tuple[Collective, ...] = ()  # those of them that nothing runs beside
    cycles: int = 0  # that a TPU's compiler expects; see `estimate.py`

    @property
    def fits(self) -> bool:
        """Whether it compiles and its memory suffices."""
        return self.memory is not None and self.memory.headroom >= 0


def compile_step(step: Callable[..., Any], state: Any, batch: Any, mesh: Mesh, chip: Chip) -> CompiledStep:
    """Lowers and compiles a step, without running it.

    Args:
        step: jitted function of state and batch.
        state: its first argument, `jax.ShapeDtypeStruct`s with shardings.
        batch: its second argument, likewise.
        mesh: of the devices of `topology.described_devices`.
        chip: what these devices are.

    Returns:
        Its memory, collectives and expected cycles, or the compiler's message where it ran out of memory.
    """
    with logical_axes_on(mesh):
        lowered = step.lower(state, batch)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if OUT_OF_MEMORY not in str(error):
            raise
        return CompiledStep(one_line(error)[:300], None)
    stats = compiled.memory_analysis()
    memory = DeviceMemory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes - stats.alias_size_in_bytes,
        temporary=stats.temp_size_in_bytes + stats.generated_code_size_in_bytes,
        peak=stats.peak_memory_in_bytes,
        available=available_bytes(chip),
    )
    text, islands = compiled.as_text(), islands_of(mesh)
    operations = read_operations(text, mesh.size)
    waited_for = [operation for operation in operations if operation.is_waited_for]
    return CompiledStep(
        refusal=None,
        memory=memory,
        collectives=tuple(summarise(operations, mesh, islands)),
        waited_for=tuple(summarise(waited_for, mesh, islands)),
        cycles=count_cycles(text),
    )


def available_bytes(chip: Chip) -> int:
    """Bytes of a device that a run gets: of a GPU the share that JAX takes, by the environment as a run reads it."""
    if chip.is_tpu:
        return chip.memory_bytes
    shares = [os.environ[name] for name in GPU_SHARE_VARIABLES if os.environ.get(name)]
    return int(chip.memory_bytes * float(shares[0] if shares else GPU_SHARE))


def islands_of(mesh: Mesh) -> list[int]:
    """For each device, in the mesh's order, the number of its slice (TPU) or node (GPU): its fast interconnect."""
    devices = mesh.devices.flat
    if mesh.devices.flat[0].platform != "tpu":
        return [device.process_index for device in devices]
    is_multi_slice = hasattr(mesh.devices.flat[0], "slice_index")
    return [device.slice_index if is_multi_slice else 0 for device in devices]
