"""A run's losses as text: the training curve drawn with characters, and the validation table."""

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from t5x_code.errors import UserError


def read_metrics(path: epath.PathLike) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, whose NaN and infinities are texts; broken lines are left out.

    Raises:
        UserError: a folder is in its place.
    """
    try:
        lines = epath.Path(path).read_bytes().decode(errors="replace").splitlines()
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not the metrics of a run; remove it or restore the file") from None
    records = []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError, OverflowError):
            records.append(_numbers(json.loads(line)))
    return records


def _numbers(record: dict[str, Any]) -> dict[str, Any]:
    """What a line says, by name; raises where it says no step, or something that is no number."""
    step = record["step"]
    if not isinstance(step, int):
        raise TypeError("a step is a whole number")
    return {name: float(value) for name, value in record.items()} | {"step": step}


def unigram_shares(tokens_N: np.ndarray, vocab_size: int) -> np.ndarray:
    """How often each token occurs, float64 [V], summing to 1."""
    return np.bincount(tokens_N, minlength=vocab_size) / len(tokens_N)


def entropy(shares_V: np.ndarray) -> float:
    """Entropy in nats: as loss per token, that of the best guess that knows frequencies and ignores context."""
    present = shares_V[shares_V > 0]
    return float(-(present * np.log(present)).sum())


def draw_curve(steps: Sequence[int], values: Sequence[float], width: int = 72, height: int = 12) -> str:
    """A line plot of values over steps, drawn with characters; around a value that is not finite it has a gap.

    Args:
        steps: ascending.
        values: at least one of them finite.
        width: characters.
        height: lines.
    """
    steps_array, values_array = np.asarray(steps, float), np.asarray(values, float)
    values_array = np.where(np.isfinite(values_array), values_array, np.nan)
    columns = np.linspace(steps_array[0], steps_array[-1], width)
    heights = np.interp(columns, steps_array, values_array)
    low, high = np.nanmin(values_array), np.nanmax(values_array)
    rows = np.round((heights - low) / max(high - low, 1e-9) * (height - 1))
    lines = []
    for row in range(height - 1, -1, -1):
        label = low + (high - low) * row / (height - 1)
        lines.append(f"{label:8.3f} |" + "".join("*" if r == row else " " for r in rows))
    axis = f"{'':8} +" + "-" * width
    ticks = f"{'':8}  {int(steps_array[0])}" + f"{int(steps_array[-1])}".rjust(width - len(str(int(steps_array[0]))))
    return "\n".join([*lines, axis, ticks + "  step"]).replace(" \n", "\n")


def validation_table(
    records: Sequence[dict[str, Any]], unigrams: dict[str, np.ndarray], shares: dict[str, float]
) -> str:
    """The last validation losses, each beside the unigram entropy of its task's held-out text, and all in one.

    Args:
        records: lines of metrics.jsonl; validation losses are keyed `validation/TASK/OBJECTIVE/loss`.
        unigrams: `unigram_shares` of the held-out text, by task.
        shares: of TASK/OBJECTIVE among the rows trained on; the last line is weighted by them.
    """
    last = next((r for r in reversed(records) if any(k.startswith("validation/") for k in r)), {})
    losses = {name: last[f"validation/{name}/loss"] for name in shares if f"validation/{name}/loss" in last}
    lines = [f"{'validation at step ' + str(last.get('step', '-')):44}{'loss':>9}{'unigram':>9}{'below by':>10}"]
    lines += [_row(name, loss, entropy(unigrams[name.split("/")[0]])) for name, loss in losses.items()]
    total = sum(shares[name] for name in losses)
    if len(losses) > 1:
        loss = sum(shares[name] * loss for name, loss in losses.items()) / total
        mixed = sum(shares[name] * unigrams[name.split("/")[0]] for name in losses) / total
        lines.append(_row("all, in the proportions of training", loss, entropy(mixed)))
    return "\n".join(lines)


def _row(name: str, loss: float, unigram: float) -> str:
    return f"  {name:42}{loss:9.3f}{unigram:9.3f}{unigram - loss:10.3f}"
