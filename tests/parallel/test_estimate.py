"""The TPU compiler's own estimate of a step."""

from pathlib import Path

import pytest

from t5x_code.parallel.chips import chip_of
from t5x_code.parallel.collectives import Collective
from t5x_code.parallel.estimate import count_cycles, estimate_step

PROGRAM = Path(__file__).with_name("known_program.hlo")


def test_cycles_count_as_often_as_they_run_and_not_within_fusions():
    assert count_cycles(PROGRAM.read_text()) == 8 * 100 + 50


def test_the_parts_of_an_estimate():
    chip = chip_of("TPU v5e")
    waited_for = (Collective("all-gather", "fsdp", 3, bytes_inside=10**9, bytes_across=10**8),)
    estimate = estimate_step(chip, 15 * 10**8, 197e12 / 4, waited_for)
    assert (estimate.operations, estimate.kernels) == (1.0, 0.25)
    assert estimate.waiting == pytest.approx(1 / 200 + 0.1 / 3.125)
    assert estimate.step == estimate.operations + estimate.kernels + estimate.waiting
    assert estimate_step(chip, 0, 0.0, waited_for) is None  # a program that says nothing
    assert estimate_step(chip_of("NVIDIA H100"), 10, 0.0, waited_for) is None
