"""Lower bounds of a step's time: the work to compute, to move through memory and to send, over the chip's peak rates.

Bounds, not predictions: no chip reaches all its peaks, and no schedule hides everything. The step's bound is the
largest of them, as if all overlapped perfectly.
"""

import dataclasses

from t5x_code.parallel.chips import Chip


@dataclasses.dataclass(frozen=True)
class StepBounds:
    """Seconds, each a lower bound by itself."""

    compute: float
    memory: float
    interconnect: float  # within a slice or node
    network: float  # between slices or nodes

    @property
    def step(self) -> float:
        """The largest of the bounds: no step is shorter."""
        return max(dataclasses.astuple(self))

    @property
    def limit(self) -> str:
        """The name of the largest bound."""
        return max(dataclasses.asdict(self).items(), key=lambda item: item[1])[0]


def step_bounds(chip: Chip, flops: float, memory_bytes: float, bytes_inside: float, bytes_across: float) -> StepBounds:
    """All four, of one device's part of a step."""
    return StepBounds(
        compute=flops / chip.peak_flops,
        memory=memory_bytes / chip.memory_bandwidth,
        interconnect=bytes_inside / chip.interconnect,
        network=bytes_across / chip.network,
    )
