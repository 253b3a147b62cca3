"""A run's losses as text: the training curve drawn with characters, and the validation table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line cut by a kill is left out."""
    records = []
    for line in Path(path).read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def unigram_entropy(tokens_N: np.ndarray) -> float:
    """Entropy, in nats per token, of the tokens' own frequencies: the loss of the best guess that ignores context."""
    counts = np.bincount(tokens_N)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def draw_curve(steps: Sequence[int], values: Sequence[float], width: int = 72, height: int = 12) -> str:
    """A line plot of values over steps, drawn with characters."""
    steps_array, values_array = np.asarray(steps, float), np.asarray(values, float)
    columns = np.linspace(steps_array[0], steps_array[-1], width)
    heights = np.interp(columns, steps_array, values_array)
    low, high = values_array.min(), values_array.max()
    rows = np.round((heights - low) / max(high - low, 1e-9) * (height - 1)).astype(int)
    lines = []
    for row in range(height - 1, -1, -1):
        label = low + (high - low) * row / (height - 1)
        lines.append(f"{label:8.3f} |" + "".join("*" if r == row else " " for r in rows))
    axis = f"{'':8} +" + "-" * width
    ticks = f"{'':8}  {int(steps_array[0])}" + f"{int(steps_array[-1])}".rjust(width - len(str(int(steps_array[0]))))
    return "\n".join([*lines, axis, ticks + "  step"]).replace(" \n", "\n")


def validation_table(records: Sequence[dict[str, Any]], unigrams: dict[str, float]) -> str:
    """The last validation losses, each beside the unigram entropy of its task's held-out text.

    Args:
        records: lines of metrics.jsonl; validation losses are keyed `validation/TASK/OBJECTIVE/loss`.
        unigrams: nats per token by task.
    """
    last = next((r for r in reversed(records) if any(k.startswith("validation/") for k in r)), {})
    lines = [f"{'validation at step ' + str(last.get('step', '-')):44}{'loss':>9}{'unigram':>9}{'below by':>10}"]
    for key, value in last.items():
        parts = key.split("/")
        if parts[0] != "validation" or parts[-1] != "loss":
            continue
        entropy = unigrams.get(parts[1])
        beside = f"{entropy:9.3f}{entropy - value:10.3f}" if entropy is not None else ""
        lines.append(f"  {'/'.join(parts[1:-1]):42}{value:9.3f}{beside}")
    return "\n".join(lines)
