"""Runs the benchmarks and prints the README's table: one line for each claim, ours beside the peer.

    python benchmarks/run_all.py --folder=results [--only=train_step,attention] [--table_only]

Each script runs by itself, with sizes for two CPU cores, and leaves its JSON in the folder; scripts that are not here
are left out. With --table_only the table is made of the files that are there already.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags

from t5x_code.errors import UserError
from t5x_code.recipes import command_line

HERE = Path(__file__).resolve().parent

# Output's name, script and arguments.
RUNS: dict[str, list[str]] = {
    "train_step_float32": ["train_step.py"],
    "train_step_bfloat16": ["train_step.py", "--dtype=bfloat16"],
    "train_step_350m": ["train_step.py", "--size=350m"],
    "train_step_350m_bfloat16": ["train_step.py", "--size=350m", "--dtype=bfloat16"],
    "attention": ["attention.py"],
    "loss_head": ["loss_head.py"],
    "input_pipeline": ["input_pipeline.py"],
    "caching": ["caching.py"],
    "checkpoint": ["checkpoint.py"],
    "startup": ["startup.py"],
    "training_loop": ["training_loop.py"],
    "generate": ["generate.py"],
    "scaling": ["scaling.py"],
    "convert": ["convert.py"],
    "sandbox": ["sandbox.py"],
    "objectives": ["objectives.py"],
}

Lines = list[tuple[str, str, str]]  # what, figure, beside what

_FOLDER = flags.DEFINE_string("folder", None, "Folder of the JSON files.")
_ONLY = flags.DEFINE_list("only", [], "Scripts to run, without .py; all by default.")
_TABLE_ONLY = flags.DEFINE_bool("table_only", False, "Run nothing.")


def main(argv: list[str]) -> None:
    """Runs, then prints Markdown."""
    del argv
    if not _FOLDER.value:
        raise UserError("--folder is needed: where the JSON files are written, and read from for the table")
    folder = Path(_FOLDER.value)
    folder.mkdir(parents=True, exist_ok=True)
    if not _TABLE_ONLY.value:
        for name, command in RUNS.items():
            script = Path(command[0]).stem
            if (HERE / command[0]).exists() and (not _ONLY.value or script in _ONLY.value):
                run(command, folder / f"{name}.json")
    print(table(folder))


def run(command: list[str], output: Path) -> None:
    """One script; what it prints is seen as it goes."""
    print(f"== {' '.join(command)}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, str(HERE / command[0]), *command[1:], f"--output={output}"])
    if done.returncode:
        print(f"warning: {command[0]} failed with {done.returncode}", file=sys.stderr, flush=True)


def table(folder: Path) -> str:
    """Markdown of every file that a line is known for."""
    lines: Lines = []
    for name, read in HEADLINES.items():
        file = folder / f"{name}.json"
        if file.exists():
            lines += read(json.loads(file.read_text())["results"])
    header = [("what", "ours", "beside"), ("---", "---", "---")]
    return "\n".join(f"| {what} | {figure} | {beside} |" for what, figure, beside in [*header, *lines])


def of_train_step(what: str) -> Callable[[Any], Lines]:
    """Speed and memory of a step."""

    def read(rows: dict[str, Any]) -> Lines:
        ours = rows["ours"]
        figure = f"{ours['speed_ratio']:.2f}x the speed, {ours['memory_ratio']:.2f}x the memory"
        return [(f"training step, {what}", figure, "Hugging Face CodeGen")]

    return read


def of_attention(rows: list[dict[str, Any]]) -> Lines:
    """The longest timed row."""
    timed = [row for row in rows if "seconds" in row and row["variant"].startswith("ours")]
    packed = timed[-1]
    figure = f"{packed['speed_ratio']:.1f}x the speed; {packed['to_causal']:.2f}x the cost of causal"
    return [(f"attention, packed prefixes, {packed['length']:,} tokens", figure, "jax.nn with a mask")]


def of_loss_head(rows: list[dict[str, Any]]) -> Lines:
    """The chunk that is fastest in float32."""
    chunked = [row for row in rows if row["variant"].startswith("float32 chunked")]
    best = min(chunked, key=lambda row: row["temp_ratio"])
    figure = f"{1 / best['seconds_ratio']:.2f}x the speed, {best['temp_ratio']:.2f}x the memory"
    return [(f"loss head, {best['variant']}", figure, "all logits at once")]


def of_input_pipeline(rows: list[dict[str, Any]]) -> Lines:
    """Each objective."""
    ours = [row for row in rows if not row["pipeline"].startswith("SeqIO")]
    return [(f"input, {row['pipeline']}", f"{row['ratio']:.1f}x the speed", "SeqIO on TFRecords") for row in ours]


def of_checkpoint(rows: dict[str, Any]) -> Lines:
    """What the loop stands still for, and all of it."""
    figure = f"{rows['loop with']['share_percent']:.2f} % of the time"
    beside = f"torch.save: {rows['torch.save']['share_percent']:.2f} %"
    return [("a checkpoint every 1,000 steps", figure, beside)]


def of_startup(rows: dict[str, Any]) -> Lines:
    """Imports and the first step."""
    imports = f"{rows['imports, ours']['seconds']:.1f} s"
    peer = f"transformers.Trainer: {rows['imports, transformers']['seconds']:.1f} s"
    warm, cold = (f"{rows[f'first step, {kind} cache']['seconds']:.1f} s" for kind in ("warm", "cold"))
    return [("imports", imports, peer), ("first step of the quickstart", warm, f"cold compilation cache: {cold}")]


def of_training_loop(rows: dict[str, Any]) -> Lines:
    """The price of a log line."""
    figure = f"{100 * rows['log at every step']['speed_ratio']:.1f} % of the speed"
    return [("logging every step", figure, "one log at the end")]


HEADLINES: dict[str, Callable[[Any], Lines]] = {
    "train_step_float32": of_train_step("71 M, float32"),
    "train_step_bfloat16": of_train_step("71 M, bfloat16"),
    "train_step_350m": of_train_step("355 M, float32"),
    "train_step_350m_bfloat16": of_train_step("355 M, bfloat16"),
    "attention": of_attention,
    "loss_head": of_loss_head,
    "input_pipeline": of_input_pipeline,
    "checkpoint": of_checkpoint,
    "startup": of_startup,
    "training_loop": of_training_loop,
}


if __name__ == "__main__":
    command_line.run(main)
