"""Every mesh computes what one device does, with its share of the state and without gathering the head per chunk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# data, fsdp, sequence, tensor
FEW = [[1, 2, 2, 2], [2, 2, 1, 2], [1, 1, 8, 1]]
REST = [[1, 8, 1, 1], [8, 1, 1, 1], [1, 1, 1, 8], [2, 1, 4, 1], [1, 4, 1, 2], [2, 2, 2, 1], [1, 1, 2, 4]]


def compare(meshes, steps) -> list[dict]:
    script = Path(__file__).with_name("mesh_grid.py")
    command = [sys.executable, str(script), json.dumps(meshes), json.dumps(steps)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "Involuntary full rematerialization" not in ended.stderr, ended.stderr[-4000:]
    return [json.loads(line) for line in ended.stdout.splitlines()]


def check(figures: list[dict]) -> None:
    for mesh in figures:
        assert mesh["loss"] < 1e-5 and mesh["gradient"] < 1e-5, mesh
        if "arguments" not in mesh:
            continue
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


def test_all_axes_sequence_alone_and_two_kinds_of_copies():
    check(compare(FEW, FEW[:1]))


@pytest.mark.slow
def test_the_rest_of_the_grid():
    check(compare(REST, REST))
