"""launch/compile_ahead.py from the command line: its report, its exit codes, and GPUs that are elsewhere."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--gin_file=gin/codegen2_1b.gin", "--gin_file=gin/models/tiny.gin"]


def compile_ahead(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "launch/compile_ahead.py", *arguments]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "compiler", "attention"),
    [("h100:2x4", "jax_cuda13_plugin", None), ("v5p:2x2x2", "libtpu", "splash")],
)
def test_the_report(tmp_path, topology, compiler, attention):
    if importlib.util.find_spec(compiler) is None:
        pytest.skip(f"the compiler {compiler} is not installed (extras tpu, gpu-aot)")
    ended = compile_ahead(*TINY, f"--topology={topology}", f"--output={tmp_path / 'report.json'}")
    assert ended.returncode == 0 and ended.stdout.splitlines()[-1] == "fits", ended.stderr[-2000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["fits"] and report["num_devices"] == 8 and report["attention"] == (attention or report["attention"])
    assert (report["estimate"] is not None) == (compiler == "libtpu")  # GPUs' compiler estimates nothing
    crossing = sum(row["bytes_across"] for row in report["collectives"])
    assert (crossing > 0) == topology.startswith("h100")  # two nodes against one slice


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (TINY, "--topology is needed"),
        ([*TINY, "--topology=v5x:2x2"], "write CHIP:SIZES"),
        ([*TINY, "--topology=v5e:2x2", "--output=/no/such/folder/x.json"], "cannot be written: No such file"),
    ],
)
def test_mistakes_get_one_line(arguments, says):
    ended = compile_ahead(*arguments)
    (line,) = ended.stderr.splitlines()
    assert ended.returncode == 2 and line.startswith("error: ") and says in line
