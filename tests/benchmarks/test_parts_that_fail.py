"""What a benchmark has measured stays where its peer fails, or does not fit into the device's memory.

Each script is run in a process of its own: their flags have the same names.
"""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from headlines import HEADLINES  # noqa: E402


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess:
    """Runs code beside the benchmarks."""
    path = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("CalledProcessError(1, 'python')", "its turn 1 ended with 1"),
        pytest.param("TimeoutExpired('python', 95)", "its turn 1 took over 95 s", marks=pytest.mark.slow),
    ],
)
def test_our_step_is_written_where_the_peer_fails(tmp_path, error, says):
    code = f"""
        import subprocess, train_step
        def run_fresh(name):
            if name == "transformers":
                raise subprocess.{error}
            return {{"seconds": [0.5], "peak_gib": 1.0, "flops_per_token": 1e9, "flops_per_second": None}}
        train_step.run_fresh = run_fresh
        train_step.command_line.run(train_step.main)
    """
    ended = run_python(code, f"--output={tmp_path}/step.json")
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.splitlines()[-1] == f"error: transformers: {says}; its own words are above"
    record = json.loads((tmp_path / "step.json").read_text())
    assert [len(of_name) for of_name in record["turns"].values()] == [2, 0]
    assert record["results"].keys() == {"ours"} and record["results"]["ours"]["speed_ratio"] is None
    assert HEADLINES["train_step_float32"](record["results"]) == []


@pytest.mark.slow
def test_a_peer_that_is_too_large_has_no_times(tmp_path):
    code = """
        import attention, jax
        def too_large(*arrays):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")
        attention.masked = too_large
        attention.command_line.run(attention.main)
    """
    sizes = ("--num_heads=1", "--head_dim=8", "--rounds=1", "--lengths=32", "--memory_lengths=32")
    ended = run_python(code, *sizes, f"--output={tmp_path}/attention.json")
    assert ended.returncode == 0 and "jax.nn, mask, causal, 32 tokens: too large" in ended.stderr, ended.stderr
    rows = json.loads((tmp_path / "attention.json").read_text())["results"]
    causal, packed, *peers, compiled = rows
    assert causal["seconds"] > 0 and causal["speed_ratio"] is None
    assert packed["to_causal"] == pytest.approx(packed["seconds"] / causal["seconds"])
    assert len(peers) == 2 and all("seconds" not in row for row in peers) and compiled["temp_mib"] > 0
    assert HEADLINES["attention"](rows) == []
