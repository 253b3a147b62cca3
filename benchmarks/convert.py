"""Seconds and memory of loading, converting and exporting a checkpoint, beside transformers' load and save, A B A B.

    python benchmarks/convert.py --output=convert.json [--billions=1.0]

The checkpoint is a Llama of random float32 weights (16 layers, 2048 wide, vocabulary 51200, as many layers as
`--billions` asks for). Each turn is a fresh process. What is compared with what:

    load      the folder to parameters on the device, by `load_onto_mesh`: every weight is read, turned into our order
              and stacked; transformers: `from_pretrained`, then a pass over every weight
    (mapped)  `from_pretrained` alone, for the record: it maps its files and has read no weight when it returns
    export    a model directory to a folder; transformers: `save_pretrained` of the model that it has in memory. Below
              the table, beside `from_pretrained` and `save_pretrained` as well: both go from disk to disk then
    convert   the folder to a model directory with checksums, which reads and writes every weight; transformers:
              `from_pretrained` and `save_pretrained` together

Before each action, a file of the checkpoint's size is written and removed: a virtual machine whose host has to find the
memory for a new file takes two to three times as long to write it, whoever writes. Both write two copies a turn.

Memory is the peak of resident memory, sampled every 5 ms, and of its anonymous part, for which the system cannot fall
back on a file. The limit of our anonymous part in export and convert is a quarter of the model and one stacked tensor.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import turns
from absl import flags

from t5x_code.recipes import command_line
from t5x_code.terminal import say

WIDTH, HEADS, INNER, VOCAB_SIZE, LENGTH = 2048, 16, 8192, 51200, 2048
LAYER_PARAMETERS, OTHER_PARAMETERS = 4 * WIDTH**2 + 3 * WIDTH * INNER, 2 * VOCAB_SIZE * WIDTH
GIB = 2**30

_BILLIONS = flags.DEFINE_float("billions", 1.0, "Parameters of the checkpoint, in 10^9.")
_TURNS = flags.DEFINE_integer("turns", 2, "Fresh processes of each, alternating.")
_FOLDER = flags.DEFINE_string("folder", None, "Where to work; a temporary folder by default.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")
_TURN = flags.DEFINE_enum("turn", None, ["make", "ours", "transformers"], "Used by this script itself: run one turn.")


def main(argv: list[str]) -> None:
    """Runs the turns and prints the table."""
    del argv
    if _TURN.value:
        turn = {"make": make_checkpoint, "ours": time_ours, "transformers": time_transformers}[_TURN.value]
        print(json.dumps(turn(Path(_FOLDER.value))))
        return
    with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
        size = run_fresh("make", folder)["bytes"]
        taken: dict[str, list[dict[str, Any]]] = {"ours": [], "transformers": []}
        for turn in range(_TURNS.value):
            for name, of_name in taken.items():
                of_name.append(run_fresh(name, folder))
                said = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in of_name[-1]["seconds"].items())
                say(f"turn {turn + 1} {name}: {said}")
    rows = {name: summarise(of_name) for name, of_name in taken.items()}
    compared = {"load": "load", "export": "export", "convert": "convert", "mapped": "load"}
    heads = "".join(f"{head:>7}" for head in ("s", "min", "max", "speed"))
    print(f"{f'{size / GIB:.2f} GiB':<21}{heads}{'peak GiB':>10}{'ratio':>7}{'anonymous':>11}")
    for name, of_name in rows.items():
        for what, row in of_name.items():
            peer = rows["transformers"][compared[what]]
            speed, memory = peer["seconds"] / row["seconds"], row["peak_gib"] / peer["peak_gib"]
            times = f"{row['seconds']:>7.1f}{row['fastest']:>7.1f}{row['slowest']:>7.1f}{speed:>7.2f}"
            print(f"{name:<13}{what:<8}{times}{row['peak_gib']:>10.2f}{memory:>7.2f}{row['anonymous_gib']:>11.2f}")
    from_disk = rows["transformers"]["convert"]["seconds"] / rows["ours"]["export"]["seconds"]
    print(f"export beside transformers' load and save: {from_disk:.2f}")
    turns.write(_OUTPUT.value, rows, bytes=size, turns=taken)


def run_fresh(name: str, folder: str) -> dict[str, Any]:
    """One turn in a process of its own."""
    command = [sys.executable, __file__, f"--turn={name}", f"--folder={folder}", f"--billions={_BILLIONS.value}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def summarise(taken: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Median, extremes and peak memory over all turns, of each thing that was done."""
    rows = {}
    for what in taken[0]["seconds"]:
        seconds = [turn["seconds"][what] for turn in taken]
        rows[what] = {
            "seconds": statistics.median(seconds),
            "fastest": min(seconds),
            "slowest": max(seconds),
            "peak_gib": max(turn["peak_gib"][what] for turn in taken),
            "anonymous_gib": max(turn["anonymous_gib"][what] for turn in taken),
        }
    return rows


def make_checkpoint(folder: Path) -> dict[str, Any]:
    """Saves the random checkpoint."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    layers = max(1, round((_BILLIONS.value * 1e9 - OTHER_PARAMETERS) / LAYER_PARAMETERS))
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "checkpoint")
    return {"bytes": sum(path.stat().st_size for path in (folder / "checkpoint").glob("*.safetensors"))}


def time_ours(folder: Path) -> dict[str, Any]:
    """Converts, exports, and last loads: what it holds then is no part of the others' memory."""
    import jax

    from t5x_code.huggingface.conversion import export_model, import_model, load_onto_mesh

    source, model_dir, target = (str(folder / name) for name in ("checkpoint", "model", "back"))
    result = measure(
        folder,
        {
            "convert": lambda: import_model(source, model_dir),
            "export": lambda: export_model(model_dir, target),
            "load": lambda: jax.block_until_ready(load_onto_mesh(source, None)[1]),
        },
    )
    shutil.rmtree(model_dir)
    shutil.rmtree(target)
    return result


def time_transformers(folder: Path) -> dict[str, Any]:
    """Loads, with and without a pass over the weights, and saves twice: as much is written as by ours."""
    from transformers import LlamaForCausalLM

    models, saved = [], [folder / "saved", folder / "saved_again"]

    def touch() -> None:
        for parameter in models[0].parameters():
            parameter.sum()

    result = measure(
        folder,
        {
            "mapped": lambda: models.append(LlamaForCausalLM.from_pretrained(folder / "checkpoint")),
            "convert": lambda: models[0].save_pretrained(saved[0]),
            "export": lambda: models[0].save_pretrained(saved[1]),
            "load": touch,
        },
    )
    for path in saved:
        shutil.rmtree(path)
    for both in ("convert", "load"):
        result["seconds"][both] += result["seconds"]["mapped"]
    return result


def measure(folder: Path, actions: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Seconds and peak memory of each of some actions, one after the other."""
    result: dict[str, Any] = {"seconds": {}, "peak_gib": {}, "anonymous_gib": {}}
    for name, action in actions.items():
        peak, done = [0, 0], threading.Event()
        sampler = threading.Thread(target=keep_peak, args=(peak, done))
        ready_memory(folder)
        sampler.start()
        start = time.perf_counter()
        try:
            action()
        finally:
            result["seconds"][name] = time.perf_counter() - start
            done.set()
            sampler.join()
        result["peak_gib"][name], result["anonymous_gib"][name] = (value / GIB for value in peak)
    return result


def keep_peak(peak: list[int], done: threading.Event) -> None:
    """Raises `peak` to what `resident_bytes` finds, every 5 ms until `done`."""
    while not done.wait(0.005):
        peak[:] = map(max, peak, resident_bytes())


def ready_memory(folder: Path) -> None:
    """Leaves nothing to be written to the disk, and as much free memory that the system has as a checkpoint takes."""
    os.sync()
    size = sum(path.stat().st_size for path in (folder / "checkpoint").glob("*.safetensors"))
    block, file = bytes(16 << 20), folder / "memory"
    with file.open("wb") as handle:
        for _ in range(0, size, len(block)):
            handle.write(block)
    file.unlink()


def resident_bytes() -> tuple[int, int]:
    """Memory of this process: all that is resident, and the part that no file stands behind."""
    with open("/proc/self/status") as status:
        found = dict(line.split(":", 1) for line in status if line.startswith(("VmRSS", "RssAnon")))
    return int(found["VmRSS"].split()[0]) * 1024, int(found["RssAnon"].split()[0]) * 1024


if __name__ == "__main__":
    command_line.run(main)
