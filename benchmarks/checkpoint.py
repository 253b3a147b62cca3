"""What saving costs a run: the step loop with a checkpoint in the background, beside one without and beside torch.save.

    python benchmarks/checkpoint.py --output=checkpoint.json

A model with AdamW (0.8 GiB of state at 71.4 M parameters) takes steps. `loop without` is their time; `loop with` the
same number of steps with one save at its start, until the save is whole on disk: the difference is what the save costs
in all, on a machine whose cores it shares with the steps. `save blocks` is the part for which the loop stands still.
`torch.save` writes the same state as a Hugging Face run does, and blocks for all of it. `share` is the cost at one save
per 1,000 steps: under 3 % is wanted.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import turns
from absl import flags
from step_run import SIZES, StepRun

from t5x_code.checkpoints.manager import Checkpoint, CheckpointWriter
from t5x_code.recipes import command_line

_SIZE = flags.DEFINE_enum("size", "71m", list(SIZES), "Which model.")
_STEPS = flags.DEFINE_integer("steps", 4, "Steps of a turn; a save has to fit into them.")
_ROUNDS = flags.DEFINE_integer("rounds", 2, "Turns of each.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")

SAVE_PERIOD = 1000  # steps


def main(argv: list[str]) -> None:
    """Takes turns, prints the table."""
    del argv
    run = StepRun(SIZES[_SIZE.value], "float32")
    blocked: list[float] = []
    written: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        numbers = iter(range(1, 100))

        def with_save() -> None:
            with CheckpointWriter(Path(folder) / "ours", keep_last=1) as writer:
                start = time.perf_counter()
                state = run.state
                writer.save(next(numbers), Checkpoint(state.params, None, {"opt_state": state.opt_state}))
                blocked.append(time.perf_counter() - start)
                run.steps(_STEPS.value)

        def torch_save() -> None:
            start = time.perf_counter()
            save_with_torch(run.state, Path(folder) / "torch.pt")
            written.append(time.perf_counter() - start)

        variants = {"loop without": lambda: run.steps(_STEPS.value), "loop with": with_save, "torch.save": torch_save}
        seconds = turns.interleave(variants, _ROUNDS.value)
    rows = {name: turns.summarise(values) for name, values in seconds.items()}
    rows["save blocks"] = turns.summarise(blocked[1:])
    step = rows["loop without"]["seconds"] / _STEPS.value
    costs = {
        "loop with": rows["loop with"]["seconds"] - rows["loop without"]["seconds"],
        "save blocks": rows["save blocks"]["seconds"],
        "torch.save": rows["torch.save"]["seconds"],
    }
    for name, cost in costs.items():
        rows[name] |= {"cost": cost, "share_percent": 100 * cost / (SAVE_PERIOD * step)}
    names = ("seconds", "fastest", "slowest", "cost", "share_percent")
    table = [[name, *(row.get(column) for column in names)] for name, row in rows.items()]
    turns.print_table((f"{_STEPS.value} steps", "s", "min", "max", "costs s", "share %"), table)
    turns.write(_OUTPUT.value, rows, size=_SIZE.value, steps=_STEPS.value, save_period=SAVE_PERIOD)


def save_with_torch(state: Any, path: Path) -> None:
    """The same arrays, as torch writes them."""
    import torch

    leaves = jax.tree.leaves((state.params, state.opt_state))
    torch.save([torch.from_dlpack(leaf) for leaf in leaves], path)


if __name__ == "__main__":
    command_line.run(main)
