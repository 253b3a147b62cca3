"""Every mesh computes what one device does, with its share of the state and without gathering the head per chunk."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

IN_DEFAULT_RUN = ("2x2x1x2",)  # with one case; all axes at once: test_sharded_step.py
IN_SLOW_RUN = ("1x2x2x2", "1x8x1x1")
IN_SOAK = (("1x1x1x8", "2x1x4x1", "2x2x1x2", "1x1x8x1"), ("8x1x1x1", "1x4x1x2", "2x2x2x1", "1x1x2x4"))
BY_CASE = [
    {"causal_lm", "span_corruption", "prefix_lm", "infill", "ul2", "equivalence_text"},
    {"ntp_plus"},
    {"text_code_clm"},
    {"code_clm", "corrupt_code_clm", "prefix_code_clm"},
]


def compare(meshes: Sequence[str], num_cases: int) -> list[dict]:
    """`meshes` in the order data, fsdp, sequence, tensor; in each the first so many of `BY_CASE`."""
    script = Path(__file__).with_name("mesh_grid.py")
    sizes = [[int(size) for size in mesh.split("x")] for mesh in meshes]
    command = [sys.executable, str(script), json.dumps(sizes), str(num_cases)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "Involuntary full rematerialization" not in ended.stderr, ended.stderr[-4000:]
    return [json.loads(line) for line in ended.stdout.splitlines()]


def check(figures: list[dict], num_cases: int) -> None:
    for mesh in figures:
        assert mesh["off"].keys() == set.union(*BY_CASE[:num_cases])
        for objective, (loss, gradients) in mesh["off"].items():
            assert loss < 1e-5 and gradients < 1e-5, (mesh["mesh"], objective, loss, gradients)
        assert mesh["arguments"] == mesh["shares"], mesh
        # Of the embedding and the head, 2048 x 32 over tensor, nothing is gathered in a loop.
        share = 2048 // mesh["mesh"][3]
        repeated = [
            (shapes, source)
            for times, shapes, source in mesh["gathers"]
            if times > 1 and any(size >= share for shape in shapes for size in shape)
        ]
        assert not repeated, mesh
        of_loss = [gather for gather in mesh["gathers"] if "shard_map/all_gather" in gather[2]]
        assert len(of_loss) == (mesh["mesh"][1] > 1), mesh  # once a step, where fsdp splits it


@pytest.mark.slow
def test_two_kinds_of_copies():
    check(compare(IN_DEFAULT_RUN, 1), 1)


@pytest.mark.parametrize(
    "meshes",
    [
        pytest.param(IN_SLOW_RUN, marks=pytest.mark.slow),
        *(pytest.param(meshes, marks=pytest.mark.soak) for meshes in IN_SOAK),
    ],
    ids=lambda meshes: meshes[0],
)
def test_a_grid(meshes):
    check(compare(meshes, len(BY_CASE)), len(BY_CASE))
