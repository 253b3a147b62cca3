"""Each step stands once in metrics.jsonl, whatever was killed; the progress line says what a person needs."""

import contextlib
import importlib.util
import json
import subprocess
import sys
import textwrap

import pytest

from t5x_code.errors import UserError
from t5x_code.training.metrics_writer import MetricsWriter, format_duration, progress_line


def steps_of(folder) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lines_after_the_restored_step_are_written_again(tmp_path):
    first = MetricsWriter(tmp_path, 0)
    for step in (1, 2, 3):
        first.write(step, {"loss": 1.0 * step})
    first.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')  # cut by a kill
    second = MetricsWriter(tmp_path, 2)
    assert steps_of(tmp_path) == [1, 2]
    second.write(3, {"loss": float("nan")})
    second.close()
    assert steps_of(tmp_path) == [1, 2, 3]
    assert '"loss": "nan"' in (tmp_path / "metrics.jsonl").read_text()  # a bare NaN is no JSON


def test_tensorboard_reads_the_curves(tmp_path):
    """Its records' checksums and protocol buffers by TensorFlow."""
    pytest.importorskip("tensorflow", reason="the extra data is not installed")
    writer = MetricsWriter(tmp_path, 4)
    writer.write(5, {"loss": 1.5, "validation/loss": 2.0})
    writer.write(6, {"loss": 1.25})
    writer.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    program = """
        import sys
        from tensorflow.python.summary.summary_iterator import summary_iterator
        for event in summary_iterator(sys.argv[1]):
            print(event.step, event.session_log.status, *((v.tag, v.simple_value) for v in event.summary.value))
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(file)]
    read = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert read == ["0 0", "5 1", "5 0 ('loss', 1.5) ('validation/loss', 2.0)", "6 0 ('loss', 1.25)"]


def test_a_full_disk_is_said_and_nothing_else(mount):
    """In a process of its own, as its end is where a buffer would speak up."""
    program = """
        import os, sys
        from pathlib import Path
        from t5x_code.errors import UserError
        from t5x_code.training.metrics_writer import MetricsWriter
        folder = Path(sys.argv[1])
        writer = MetricsWriter(folder, 0)
        room = os.statvfs(folder)
        (folder / "ballast").write_bytes(bytes(room.f_bavail * room.f_frsize))
        try:
            for step in range(1000):
                writer.write(step, {"loss": 1.0, "accuracy": 0.5})
        except UserError as error:
            print(error)
        writer.close()
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(mount("size=64k"))]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    (line,) = ended.stdout.splitlines()
    assert (
        "metrics.jsonl" in line
        and line.endswith(": No space left on device; make room and run again")
        and not ended.stderr
    )


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "metrics.jsonl.tmp").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*metrics.jsonl"):
        MetricsWriter(tmp_path, 0)


def test_numbers_are_written_where_weights_and_biases_cannot_be_reached(tmp_path, monkeypatch, capfd):
    (tmp_path / "wandb.py").write_text("def init(**settings):\n    raise RuntimeError('no API key\\nlog in')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    (tmp_path / "run").mkdir()
    with contextlib.closing(MetricsWriter(tmp_path / "run", 0)) as writer:
        writer.write(1, {"loss": 2.0})
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["loss"] == 2.0
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "Weights & Biases" in line]
    assert "cannot be used (no API key" in line


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_project_without_the_package_is_told_of(tmp_path, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "wandb", raising=False)  # of the test above
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    MetricsWriter(tmp_path, 0).close()
    assert "WANDB_PROJECT is set, but the package wandb is not installed" in capsys.readouterr().err


def test_progress_line():
    metrics = {"loss": 4.81249, "grad_norm": 0.5, "learning_rate": 2e-3, "skipped": 2.0}
    metrics |= {"tokens_per_second": 21345.6, "seconds_per_step": 1.7}
    line = progress_line(7, 120, metrics, 0.412)
    assert line == (
        "step   7/120  loss 4.8125  grad 0.50  lr 2.00e-03  21,346 tokens/s  MFU 41.2 % (6N + causal attention)  "
        "ETA 3:12  skipped 2"
    )
    assert "waiting for input 4 %" in progress_line(7, 120, metrics | {"input_wait_share": 0.04}, None)
    assert "waiting" not in progress_line(7, 120, metrics | {"input_wait_share": 0.001}, None)


@pytest.mark.parametrize(("seconds", "text"), [(7, "0:07"), (3599.6, "01:00:00"), (200000, "2d 07:33:20")])
def test_durations(seconds, text):
    assert format_duration(seconds) == text
