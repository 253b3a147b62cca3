"""A step's time as the TPU compiler itself estimates it, from its program's text.

Beside each instruction the text has the cycles that the compiler expects of it, by which it chooses layouts and tiles.
It has none for kernels of Pallas, attention's, which count here by their work at the chip's peak, and none for
collectives: those that nothing runs beside count by what they send at the peak of the chip's links.

Neither a bound nor a measurement: it serves to compare programs, and shows what takes the time. Large products are
expected to run at 61 (v6e) to 93 % (v4) of the peak, but what memory bounds at a fourth to 40 % of the memory's rate,
which is less than chips are known to reach. So a step is most likely shorter.
"""

import dataclasses
import re

from t5x_code.parallel.chips import Chip
from t5x_code.parallel.collectives import Collective
from t5x_code.parallel.program_text import INSTRUCTION, count_runs, split_computations

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_FUSED = re.compile(r"\bcalls=%?([\w.-]+)")


@dataclasses.dataclass(frozen=True)
class StepEstimate:
    """Seconds of one device's step."""

    operations: float
    kernels: float
    waiting: float  # for collectives

    @property
    def step(self) -> float:
        """All three, one after the other."""
        return self.operations + self.kernels + self.waiting


def estimate_step(
    chip: Chip, cycles: int, kernel_flops: float, waited_for: tuple[Collective, ...]
) -> StepEstimate | None:
    """None where the compiler estimates nothing, as for GPUs.

    Args:
        chip: that it is compiled for.
        cycles: of `count_cycles`.
        kernel_flops: what a device's kernels compute in a step.
        waited_for: the collectives that nothing runs beside.
    """
    if not cycles or chip.clock is None:
        return None
    waiting = sum(row.bytes_inside / chip.interconnect + row.bytes_across / chip.network for row in waited_for)
    return StepEstimate(cycles / chip.clock, kernel_flops / chip.peak_flops, waiting)


def count_cycles(text: str) -> int:
    """The sum of what a program's instructions are expected to take, as often as each runs; 0 where it says nothing."""
    computations, entry = split_computations(text)
    runs = count_runs(computations, entry)
    instructions = [(name, line) for name, lines in computations.items() for line in lines]
    # What is fused into one instruction is estimated there.
    fused = {callee for _, line in instructions if " fusion(" in line for callee in _FUSED.findall(line)}
    return sum(
        int(found.group(1)) * runs[name]
        for name, line in instructions
        if name not in fused and INSTRUCTION.match(line) and (found := _CYCLES.search(line))
    )
