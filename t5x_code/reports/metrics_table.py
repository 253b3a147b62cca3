"""What an evaluation found, as text: a line for each figure, or of a selection one for each way to compare codes."""

from collections.abc import Mapping, Sequence

MODEL = "model"  # the way without a name: the evaluated model, pooled as trained


def metric_lines(metrics: Mapping[str, float], intervals: Mapping[str, Sequence[float]]) -> str:
    """Names and values, with the interval where there is one.

    Args:
        metrics: by name, one at least.
        intervals: by name, low and high.
    """
    width = max(30, *map(len, metrics)) + 2
    lines = []
    for name, value in metrics.items():
        low_high = f"   [{intervals[name][0]:.4f}, {intervals[name][1]:.4f}]" if name in intervals else ""
        lines.append(f"{name:<{width}}{value:.4f}{low_high}")
    return "\n".join(lines)


def selection_table(metrics: Mapping[str, float]) -> str:
    """Accuracy by way (the model, other poolings, baselines) and setting (`accepted|rejected`), and the mean of these.

    Args:
        metrics: by `way/setting`, the model's by `setting`; others are left out.
    """
    rows: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        way, _, setting = name.rpartition("/")
        if "|" in setting or setting == "mean":
            rows.setdefault(way or MODEL, {})[setting] = value
    settings = list(dict.fromkeys(setting for row in rows.values() for setting in row))
    width = max(map(len, rows), default=0) + 2
    lines = [" " * width + "".join(f"{setting:>9}" for setting in settings)]
    for way, row in rows.items():
        lines.append(f"{way:<{width}}" + "".join(f"{row[s]:>9.4f}" if s in row else f"{'':>9}" for s in settings))
    return "\n".join(lines)
