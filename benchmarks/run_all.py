"""Runs the benchmarks and makes the README's table: one line for each claim, ours beside the peer.

    python benchmarks/run_all.py --folder=results [--only=train_step,attention] [--readme=README.md]
    python benchmarks/run_all.py --folder=results --table_only --readme=README.md

Each script runs by itself, with sizes for two CPU cores, and leaves its JSON in the folder. The table is of all files
that lie there, and of nothing else: what was not measured has no line. Files from several machines give a table each.
With --readme it takes the place of what stands between the markers there.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import turns
from absl import flags
from headlines import HEADLINES, Lines

from t5x_code.errors import UserError
from t5x_code.recipes import command_line
from t5x_code.terminal import say

HERE = Path(__file__).resolve().parent

# Output's name, script and arguments.
RUNS: dict[str, list[str]] = {
    "train_step_float32": ["train_step.py"],
    "train_step_bfloat16": ["train_step.py", "--dtype=bfloat16"],
    "train_step_350m": ["train_step.py", "--size=350m"],
    "train_step_350m_bfloat16": ["train_step.py", "--size=350m", "--dtype=bfloat16"],
    "attention": ["attention.py", "--lengths=512,1024,2048"],
    "caching": ["caching.py", "--text_bytes=12000000"],
    **{
        name: [f"{name}.py"]
        for name in (
            "loss_head",
            "input_pipeline",
            "objectives",
            "checkpoint",
            "startup",
            "training_loop",
            "generate",
            "convert",
            "sandbox",
            "modality_cost",
            "scaling",
        )
    },
}

_FOLDER = flags.DEFINE_string("folder", None, "Folder of the JSON files.")
_ONLY = flags.DEFINE_list("only", [], "Scripts or JSON files to run, without .py or .json; all by default.")
_TABLE_ONLY = flags.DEFINE_bool("table_only", False, "Run nothing.")
_README = flags.DEFINE_string("readme", None, "File whose marked table is replaced.")


def main(argv: list[str]) -> None:
    """Runs, then prints Markdown."""
    del argv
    if not _FOLDER.value:
        raise UserError("--folder is needed: where the JSON files are written, and read from for the table")
    folder = Path(_FOLDER.value)
    folder.mkdir(parents=True, exist_ok=True)
    runs = {} if _TABLE_ONLY.value else chosen(_ONLY.value)
    failed = [name for name, command in runs.items() if not run(command, folder / f"{name}.json")]
    text = tables(folder)
    print(text)
    if _README.value:
        turns.replace_table(Path(_README.value), "run_all", text)
    if failed:
        raise UserError(f"these failed, and have no new figures: {', '.join(failed)}")


def chosen(only: list[str]) -> dict[str, list[str]]:
    """The runs whose script or output is named; all where none is.

    Raises:
        UserError: there is none of that name.
    """
    for name in only:
        if not any(name in (output, Path(command[0]).stem) for output, command in RUNS.items()):
            raise UserError(f"--only={name}: there is no such benchmark; choose of {', '.join(RUNS)}")
    return {name: command for name, command in RUNS.items() if not only or {name, Path(command[0]).stem} & {*only}}


def run(command: list[str], output: Path) -> bool:
    """One script; what it prints is seen as it goes. Says whether it ended well."""
    say(f"== {' '.join(command)}")
    done = subprocess.run([sys.executable, str(HERE / command[0]), *command[1:], f"--output={output}"])
    return done.returncode == 0


def tables(folder: Path) -> str:
    """Markdown of every file that lines are known for, the machine above each table."""
    lines_of: dict[str, Lines] = {}
    for name, read in HEADLINES.items():
        file = folder / f"{name}.json"
        if file.exists():
            record = json.loads(file.read_text())
            lines_of.setdefault(machine(record), []).extend(read(record["results"]))
    return "\n\n".join(f"{where}:\n\n{table(lines)}" for where, lines in lines_of.items())


def machine(record: dict[str, Any]) -> str:
    """What it was measured on."""
    hardware = record["hardware"]
    devices = [device for device in hardware["devices"] if device != "cpu"]
    where = f"{len(devices)} x {devices[0]}" if devices else hardware["processor"]
    return f"{where}, jax {record['versions']['jax']}"


def table(lines: Lines) -> str:
    """In Markdown."""
    rows = [("what", "ours", "beside"), ("---", "---", "---"), *lines]
    return "\n".join(f"| {what} | {ours} | {beside} |" for what, ours, beside in rows)


if __name__ == "__main__":
    command_line.run(main)
