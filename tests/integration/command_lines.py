"""How command lines end, and what a run leaves on the disk, for the end-to-end tests."""

import dataclasses
import json
import socket
import subprocess
from pathlib import Path

import orbax.checkpoint as ocp

ROOT = Path(__file__).resolve().parents[2]
STEPS = 40  # of an undisturbed run
# Of several processes: a lost one is noticed within seconds, as a test should not take minutes.
QUICK = ("HostsConfig.heartbeat_seconds=10", "HostsConfig.barrier_seconds=60")
TIMINGS = {"tokens_per_second", "seconds_per_step", "input_wait_share"}


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command line ended."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


def leaves_of(run: Path, step: int) -> dict:
    """Every array of one checkpoint, as it lies on the disk."""
    folder = run / "checkpoints" / str(step)
    with ocp.StandardCheckpointer() as checkpointer:
        return {item: checkpointer.restore(folder / item) for item in ("params", "ema_params", "training")}


def metrics_of(run: Path) -> list[dict]:
    """Lines of metrics.jsonl without timings."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in TIMINGS} for record in records]


def files_under(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wait_for_line(process: subprocess.Popen, beginning: str) -> None:
    """Reads a process' messages up to the first that begins so."""
    if not any(line.startswith(beginning) for line in process.stderr):
        raise AssertionError(f"the process ended before it said {beginning!r}")


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def finish(process: subprocess.Popen) -> Ended:
    """Waits for the end of a process."""
    out, err = process.communicate(timeout=300)
    return Ended(process.returncode, out, err)
