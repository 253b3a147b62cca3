"""Seconds from `python` to the first step: imports, and a whole small run with a cold and a warm compilation cache.

    python benchmarks/startup.py --output=startup.json

Imports, each in fresh processes in turns: what `launch/train.py` loads before it first asks JAX for anything, beside
what a Hugging Face training script loads (`transformers.Trainer` and the model class). Under 3 s is wanted. Then the
quickstart's model trains one step on the standard library (its token store is made beforehand): the program's own line
says when the first step ended. The limit of a warm start is the imports plus reading the compiled program.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import turns
from absl import flags

from t5x_code.errors import UserError
from t5x_code.recipes import command_line

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = {
    "ours": "import t5x_code.recipes.gin_files, t5x_code.recipes.run",
    "transformers": "from transformers import CodeGenForCausalLM, Trainer, TrainingArguments",
}
FIRST_STEP = re.compile(r"step 1 finished ([\d.]+) s after")

_ROUNDS = flags.DEFINE_integer("rounds", 4, "Fresh processes of each.")
_RUNS = flags.DEFINE_bool("runs", True, "Time whole runs too, not imports alone.")
_STORES = flags.DEFINE_string(
    "stores", str(Path(tempfile.gettempdir()) / "t5x_code_benchmark"), "Folder of token stores; a missing one is made."
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")


def main(argv: list[str]) -> None:
    """Times imports, then runs."""
    del argv
    imports = {name: lambda code=code: run_python("-c", code) for name, code in IMPORTS.items()}
    rows = {f"imports, {name}": turns.summarise(s) for name, s in turns.interleave(imports, _ROUNDS.value).items()}
    if _RUNS.value:
        rows |= time_first_steps()
    table = []
    for name, row in rows.items():
        peer = rows["imports, transformers" if name.startswith("imports") else "first step, cold cache"]
        row["ratio"] = row["seconds"] / peer["seconds"]
        table.append([name, *row.values()])
    turns.print_table(("start-up", "s", "min", "max", "ratio"), table)
    turns.write(_OUTPUT.value, rows)


def time_first_steps() -> dict[str, dict[str, float]]:
    """Runs without and with the programs that the run before compiled."""
    first_step("", "made")  # makes the store
    starts: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(max(1, _ROUNDS.value // 2)):
        with tempfile.TemporaryDirectory() as cache:
            for name, seconds in starts.items():
                seconds.append(first_step(cache, name))
    return {f"first step, {name} cache": turns.summarise(seconds) for name, seconds in starts.items()}


def first_step(cache: str, name: str) -> float:
    """Seconds from a program's start to the end of its first step.

    Args:
        cache: folder of compiled programs; empty: none.
        name: of the run, for errors.
    """
    with tempfile.TemporaryDirectory() as folder:
        printed = run_python(
            "launch/train.py",
            "--gin_file=gin/quickstart.gin",
            f"--gin.MODEL_DIR='{folder}/run'",
            "--gin.TRAIN_STEPS=1",
            environment={"JAX_COMPILATION_CACHE_DIR": cache or f"{folder}/cache", "T5X_CODE_CACHE": _STORES.value},
        )
    found = FIRST_STEP.search(printed)
    if not found:
        raise UserError(f"the {name} run said nothing of its first step: {printed[-300:]}")
    return float(found.group(1))


def run_python(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """Runs a fresh interpreter in the repository; returns what it says on stderr."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, "PYTHONPATH": path, **(environment or {})}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"python {arguments[0]} failed: {done.stderr[-300:]}")
    return done.stderr


if __name__ == "__main__":
    command_line.run(main)
