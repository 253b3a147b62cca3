"""What logging costs the training loop: the same run logged at every step, and once at its end.

    python benchmarks/training_loop.py --output=training_loop.json

`train()` itself runs the quickstart's sizes on batches that a generator makes, with metrics.jsonl and TensorBoard, once
with LOG_PERIOD = 1 and once with one log at the end; runs alternate, and each figure is the run's own tokens per second
between its first and last step. Not logging is the limit: logging at every step should cost less than 1 %, and the
share of the time that the device waits for input be 0.
"""

import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import turns
from absl import flags

from t5x_code.checkpoints.model_directory import ModelDescription
from t5x_code.models.config import TransformerConfig
from t5x_code.parallel.cpu import run_programs_in_turn
from t5x_code.parallel.mesh import MeshConfig, make_mesh
from t5x_code.recipes import command_line
from t5x_code.training.loop import RunData, RunFiles, train
from t5x_code.training.loop_config import LoopConfig
from t5x_code.training.losses import LossConfig
from t5x_code.training.optimizer import OptimizerConfig

LENGTH, ROWS, VOCAB_SIZE = 512, 8, 8192
MODEL = TransformerConfig(
    num_layers=4,
    model_dim=256,
    num_heads=4,
    num_kv_heads=4,
    head_dim=64,
    mlp_dim=1024,
    rotary_dim=32,
    vocab_size=VOCAB_SIZE,
    max_length=LENGTH,
    dtype="float32",
)

_STEPS = flags.DEFINE_integer("steps", 12, "Steps of a run, after the first.")
_ROUNDS = flags.DEFINE_integer("rounds", 2, "Runs of each kind.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")


def main(argv: list[str]) -> None:
    """Runs in turns, prints the table."""
    del argv
    run_programs_in_turn()
    results: dict[str, list[dict[str, float]]] = {"log at every step": [], "log at the end": []}
    for _ in range(_ROUNDS.value):
        results["log at every step"].append(run(1))
        results["log at the end"].append(run(_STEPS.value + 1))
    rows = {}
    for name, runs in results.items():
        speeds = [figures["tokens_per_second"] for figures in runs]
        rows[name] = {
            "tokens_per_second": statistics.median(speeds),
            "slowest": min(speeds),
            "fastest": max(speeds),
            "input_wait_percent": 100 * max(figures["input_wait_share"] for figures in runs),
        }
    peer = rows["log at the end"]["tokens_per_second"]
    for row in rows.values():
        row["speed_ratio"] = row["tokens_per_second"] / peer
    turns.print_table(
        ("loop", "tokens/s", "min", "max", "waits %", "ratio"), [[name, *row.values()] for name, row in rows.items()]
    )
    turns.write(_OUTPUT.value, rows, steps=_STEPS.value)


def run(log_period: int) -> dict[str, float]:
    """One run in a folder that is thrown away; its speed after the first step."""
    with tempfile.TemporaryDirectory() as folder:
        steps = _STEPS.value + 1
        config = LoopConfig(folder, steps, ROWS, log_period=log_period, eval_period=steps, checkpoint_period=steps)
        data, files = RunData(batches, {}, {}), RunFiles(ModelDescription(MODEL), None, {})
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        train(config, MODEL, OptimizerConfig(), LossConfig(), mesh, data, files)
        lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    timed = [line for line in lines if "seconds_per_step" in line]
    per_step = statistics.mean(line["seconds_per_step"] for line in timed)
    return {
        "tokens_per_second": ROWS * LENGTH / per_step,
        "input_wait_share": statistics.mean(line["input_wait_share"] for line in timed),
    }


def batches(first: int, sizes: Iterator[int]) -> Iterator[dict[str, np.ndarray]]:
    """Causal rows of random tokens."""
    index = np.arange(LENGTH, dtype=np.int32)
    for size in sizes:
        tokens = np.random.default_rng(first).integers(0, VOCAB_SIZE, (size, LENGTH + 1), dtype=np.int32)
        positions = np.tile(index, (size, 1))
        yield {
            "inputs": tokens[:, :-1],
            "targets": tokens[:, 1:],
            "loss_weights": np.ones((size, LENGTH), np.float32),
            "positions": positions,
            "attend_from": 0 * positions,
            "attend_to": positions + 1,
        }
        first += size


if __name__ == "__main__":
    command_line.run(main)
