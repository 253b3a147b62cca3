"""How each size scales: what the compiler needs and moves per device, against the number of devices; and tokens/s here.

    python benchmarks/scaling.py --output=scaling.json [--plot=scaling.svg] [--recipes=codegen2_1b] [--devices=8,64,512]
    python benchmarks/scaling.py --processes=1,2 --output=here.json

The first compiles each recipe ahead of time for TPU v5p with --rows rows per device (weak scaling: the batch grows with
the devices), about a minute each, no accelerator needed (extra tpu). The lower bounds of a step's time are compared to
the compute bound, which alone is left when nothing else limits: their ratio is the best efficiency that a schedule
could reach if nothing overlapped less than perfectly. The second trains a small model here in one process and in two,
in turns, and shows tokens/s beside one process as a ratio; two processes share this machine's cores, so 1.0 is perfect.
"""

import dataclasses
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import turns
from absl import flags

from t5x_code.errors import UserError
from t5x_code.progress import progress_bar
from t5x_code.recipes import command_line

SIZES = ("codegen2_1b", "codegen2_3_7b", "codegen2_7b", "codegen2_16b")
TOPOLOGIES = {8: "v5p:2x2x2", 64: "v5p:4x4x4", 512: "v5p:8x8x8", 4096: "v5p:16x16x16"}
GIB, GB, MS = 2**30, 1e9, 1e3
ROUNDS, STEPS = 3, 40
# Rows of the plot: part of the report, its unit, how much of it is one, what is drawn.
PLOTTED = (
    ("bounds", "ms a step at least", 1 / MS, ("compute", "memory", "interconnect")),
    ("memory", "GiB a device", GIB, ("arguments", "temporary")),
)
COLOURS = ("#1f77b4", "#2ca02c", "#d62728")

ROOT = Path(__file__).resolve().parents[1]
_RECIPES = flags.DEFINE_list("recipes", list(SIZES), "Run files in gin/.")
_DEVICES = flags.DEFINE_list("devices", [str(count) for count in TOPOLOGIES], f"Of {', '.join(map(str, TOPOLOGIES))}.")
_ROWS = flags.DEFINE_integer("rows", 4, "Rows per device.", lower_bound=1)
_PROCESSES = flags.DEFINE_list("processes", [], "Measure training here in so many processes instead.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")
_PLOT = flags.DEFINE_string("plot", None, "SVG file for the plot.")


def main(argv: list[str]) -> None:
    """Compiles or measures, prints the table."""
    del argv
    if _PROCESSES.value:
        results = measure_here([int(count) for count in _PROCESSES.value])
        print(f"{'processes':<12}{'tokens/s':>12}{'(min':>12}{'max)':>12}{'ratio':>8}")
        for r in results:
            figures = f"{r['tokens_per_second']:>12,.0f}{r['slowest']:>12,.0f}{r['fastest']:>12,.0f}{r['ratio']:>8.2f}"
            print(f"{r['processes']:<12}{figures}")
    else:
        unknown = [count for count in _DEVICES.value if int(count) not in TOPOLOGIES]
        if unknown:
            raise UserError(f"--devices={unknown[0]}: choose of {', '.join(map(str, TOPOLOGIES))}")
        cases = [(recipe, int(count)) for recipe in _RECIPES.value for count in _DEVICES.value]
        results = [compile_case(*case) for case in progress_bar(cases, unit="case")]
        print(make_table(results))
        if _PLOT.value:
            Path(_PLOT.value).write_text(draw(results))
    turns.write(_OUTPUT.value, results)


def compile_case(name: str, devices: int) -> dict[str, Any]:
    """One recipe on so many chips, its parameters sharded over all of them up to 512, copies of that beyond."""
    from t5x_code.parallel.mesh import MeshConfig
    from t5x_code.recipes.compile_ahead import compile_recipe
    from t5x_code.recipes.gin_files import load_recipe

    recipe, _ = load_recipe([f"{ROOT}/gin/{name}.gin"], [f"BATCH_SIZE={_ROWS.value * devices}"])
    fsdp = min(devices, 512)
    report = compile_recipe(dataclasses.replace(recipe, mesh=MeshConfig(devices // fsdp, fsdp)), TOPOLOGIES[devices])
    return {"recipe": name} | report.to_json()


def make_table(results: list[dict[str, Any]]) -> str:
    """One line per recipe and number of devices."""
    columns = ("arguments", "temporary", "collectives", "GB sent", "compute", "memory", "interconnect", "efficiency")
    lines = [f"{'recipe':<15}{'devices':>8}" + "".join(f"{column:>14}" for column in columns)]
    for r in results:
        head = f"{r['recipe']:<15}{r['num_devices']:>8}"
        if not r["fits"]:
            lines.append(f"{head}  does not fit")
            continue
        memory, bounds = r["memory"], r["bounds"]
        count = sum(row["count"] for row in r["collectives"])
        sent = sum(row["bytes_inside"] + row["bytes_across"] for row in r["collectives"])
        cells = [f"{memory['arguments'] / GIB:.2f} GiB", f"{memory['temporary'] / GIB:.2f} GiB", f"{count:,}"]
        cells += [
            f"{sent / GB:.1f}",
            *(f"{bounds[name] * MS:.1f} ms" for name in ("compute", "memory", "interconnect")),
        ]
        lines.append(head + "".join(f"{cell:>14}" for cell in [*cells, f"{bounds['compute'] / bounds['step']:.0%}"]))
    return "\n".join(lines)


def draw(results: list[dict[str, Any]]) -> str:
    """Over the number of devices, a column per recipe: lower bounds of the step's time above, memory below."""
    fitting = [r for r in results if r["fits"]]
    recipes = list(dict.fromkeys(r["recipe"] for r in fitting))
    counts = sorted({r["num_devices"] for r in fitting})
    wide, tall, legend = 270, 200, 24
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{wide * len(recipes)}" height="{2 * (tall + legend)}" '
             'font-family="sans-serif" font-size="11">', '<rect width="100%" height="100%" fill="white"/>']  # fmt: skip
    for row, (group, unit, scale, names) in enumerate(PLOTTED):
        for column, recipe in enumerate(recipes):
            of_one = {r["num_devices"]: r[group] for r in fitting if r["recipe"] == recipe}
            lines = {name: {count: figures[name] / scale for count, figures in of_one.items()} for name in names}
            shift = f"translate({column * wide},{row * (tall + legend)})"
            parts += [f'<g transform="{shift}">', *_panel(f"{recipe}, {unit}", lines, counts, wide, tall), "</g>"]
        for index, name in enumerate(names):
            place = f'x="{45 + 110 * index}" y="{(row + 1) * (tall + legend) - 10}"'
            parts.append(f'<text {place} font-weight="bold" fill="{COLOURS[index]}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(title: str, lines: dict[str, dict[int, float]], counts: list[int], wide: int, tall: int) -> list[str]:
    """One pair of axes, from zero, with a line for each name: its values by number of devices."""
    left, right, top, bottom = 45, wide - 15, 30, tall - 25
    highest = max(value for line in lines.values() for value in line.values()) or 1.0
    x = {count: left + (right - left) * (0.5 + index) / len(counts) for index, count in enumerate(counts)}

    def y(value: float) -> float:
        return bottom - (bottom - top) * value / highest

    parts = [f'<text x="{left}" y="18" font-weight="bold">{title}</text>']
    for share in (0.0, 0.5, 1.0):
        at, value = y(share * highest), share * highest
        parts.append(f'<path d="M{left} {at:.1f}H{right}" stroke="#ddd"/>')
        label = f"{value:,.0f}" if highest >= 10 or not value else f"{value:.1f}"
        parts.append(f'<text x="{left - 5}" y="{at + 4:.1f}" text-anchor="end">{label}</text>')
    parts += [f'<text x="{at:.1f}" y="{bottom + 16}" text-anchor="middle">{count:,}</text>' for count, at in x.items()]
    for colour, line in zip(COLOURS, lines.values(), strict=False):
        points = [(x[count], y(value)) for count, value in sorted(line.items())]
        path = " ".join(f"{across:.1f},{up:.1f}" for across, up in points)
        parts.append(f'<polyline points="{path}" stroke="{colour}" stroke-width="2" fill="none"/>')
        parts += [f'<circle cx="{across:.1f}" cy="{up:.1f}" r="3" fill="{colour}"/>' for across, up in points]
    return parts


def measure_here(counts: list[int]) -> list[dict[str, Any]]:
    """Tokens/s of a small recipe in so many processes, in turns."""
    speeds: dict[int, list[float]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as folder, progress_bar(total=ROUNDS * len(counts), unit="run") as bar:
        for turn in range(ROUNDS):
            for count in counts:
                speeds[count].append(train_here(count, Path(folder) / f"{turn}.{count}"))
                bar.update()
    first = statistics.median(speeds[counts[0]])
    return [
        {
            "processes": count,
            "tokens_per_second": statistics.median(found),
            "slowest": min(found),
            "fastest": max(found),
            "ratio": statistics.median(found) / first,
        }
        for count, found in speeds.items()
    ]


def train_here(count: int, model_dir: Path) -> float:
    """Tokens/s of the later half of a short run; each process has one CPU device."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    bindings = [f"MODEL_DIR='{model_dir}'", f"TRAIN_STEPS={STEPS}", "EVAL_PERIOD=1000", f"LOG_PERIOD={STEPS // 2}"]
    command = [sys.executable, f"{ROOT}/launch/train.py", f"--gin_file={ROOT}/gin/quickstart.gin"]
    command += [f"--gin.{binding}" for binding in bindings]
    processes = []
    for index in range(count):
        own = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(index)}
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", **(own if count > 1 else {})}
        processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    ended = [process.communicate()[1] for process in processes]
    if any(process.returncode for process in processes):
        raise UserError(f"training in {count} processes failed: {ended[0].strip().splitlines()[-1]}")
    records = [json.loads(line) for line in (model_dir / "metrics.jsonl").read_text().splitlines()]
    return next(record["tokens_per_second"] for record in reversed(records) if "tokens_per_second" in record)


if __name__ == "__main__":
    command_line.run(main)
