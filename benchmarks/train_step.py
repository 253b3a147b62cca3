"""Seconds of one training step: ours beside Hugging Face's CodeGen of the same sizes, A B A B, each in a fresh process.

    python benchmarks/train_step.py --output=train_step.json

The model is CodeGen's block with 71.4 M parameters (6 layers, 512 wide, 8 heads, vocabulary 51200), rows 4 x 512, AdamW
with clipping by global norm. Hugging Face runs as its users run it on a CPU: eager, fused AdamW, float32 or under
bfloat16 autocast. Both train on the same random tokens; a turn's first step (compilation, allocation) is not timed.
The limit to compare with is the machine's matrix-product speed: 3 x 2 x 71.4 M x 2048 tokens = 0.88 TFLOP a step.
"""

import importlib.metadata
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from t5x_code.recipes import command_line

LAYERS, WIDTH, HEADS, VOCAB_SIZE, LENGTH, ROWS = 6, 512, 8, 51200, 512, 4

_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of the activations.")
_TURNS = flags.DEFINE_integer("turns", 2, "Fresh processes of each, alternating.")
_STEPS = flags.DEFINE_integer("steps", 5, "Timed steps of a turn.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")
_TURN = flags.DEFINE_enum("turn", None, ["ours", "transformers"], "Used by this script itself: run one turn.")


def main(argv: list[str]) -> None:
    """Runs the turns and prints the table."""
    del argv
    if _TURN.value:
        run_turn = {"ours": time_ours, "transformers": time_transformers}[_TURN.value]
        print(json.dumps(run_turn()))
        return
    turns: dict[str, list[dict[str, Any]]] = {"ours": [], "transformers": []}
    for turn in range(_TURNS.value):
        for name, of_name in turns.items():
            of_name.append(run_fresh(name))
            seconds = statistics.median(of_name[-1]["seconds"])
            print(f"turn {turn + 1} {name}: {seconds:.2f} s a step", file=sys.stderr, flush=True)
    rows = {name: summarise(of_name) for name, of_name in turns.items()}
    peer = rows["transformers"]
    print(f"{_DTYPE.value:<14}{'s/step':>8}{'min':>8}{'max':>8}{'speed ratio':>13}{'peak GiB':>10}{'ratio':>7}")
    for name, row in rows.items():
        speed, memory = peer["seconds"] / row["seconds"], row["peak_gib"] / peer["peak_gib"]
        times = f"{row['seconds']:>8.2f}{row['fastest']:>8.2f}{row['slowest']:>8.2f}"
        print(f"{name:<14}{times}{speed:>13.2f}{row['peak_gib']:>10.2f}{memory:>7.2f}")
    if _OUTPUT.value:
        packages = ("jax", "torch", "transformers")
        versions = {package: importlib.metadata.version(package) for package in packages}
        result = {"dtype": _DTYPE.value, "versions": versions, "rows": rows, "turns": turns}
        Path(_OUTPUT.value).write_text(json.dumps(result, indent=2) + "\n")


def run_fresh(name: str) -> dict[str, Any]:
    """One turn in a process of its own."""
    command = [sys.executable, __file__, f"--turn={name}", f"--dtype={_DTYPE.value}", f"--steps={_STEPS.value}"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def summarise(turns: list[dict[str, Any]]) -> dict[str, float]:
    """Median, extremes and peak memory over all turns."""
    seconds = [second for turn in turns for second in turn["seconds"]]
    return {
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "peak_gib": max(turn["peak_gib"] for turn in turns),
    }


def random_tokens() -> np.ndarray:
    """Token ids, int64 [ROWS, LENGTH + 1]."""
    return np.random.default_rng(0).integers(0, VOCAB_SIZE, (ROWS, LENGTH + 1))


def time_ours() -> dict[str, Any]:
    """This package's training step, as the loop compiles it."""
    import jax

    from t5x_code.models.config import TransformerConfig
    from t5x_code.models.decoder import logical_axes
    from t5x_code.parallel.mesh import MeshConfig, make_mesh
    from t5x_code.parallel.rules import logical_axes_on
    from t5x_code.training.losses import LossConfig, next_token_loss
    from t5x_code.training.optimizer import OptimizerConfig, make_optimizer
    from t5x_code.training.schedules import ScheduleConfig, make_schedule
    from t5x_code.training.state import init_state
    from t5x_code.training.step import StepParts, make_train_step

    model = TransformerConfig(
        num_layers=LAYERS,
        model_dim=WIDTH,
        num_heads=HEADS,
        num_kv_heads=HEADS,
        head_dim=WIDTH // HEADS,
        mlp_dim=4 * WIDTH,
        vocab_size=VOCAB_SIZE,
        max_length=LENGTH,
        rotary_dim=32,
        dtype=_DTYPE.value,
    )
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    config = OptimizerConfig(schedule=ScheduleConfig("constant", 1e-4))
    optimizer = make_optimizer(config, logical_axes(model))
    loss = next_token_loss(model, LossConfig(z_loss=0.0), mesh)
    parts = StepParts(loss, optimizer, make_schedule(config.schedule), None, None, mesh)
    tokens = random_tokens().astype(np.int32)
    position = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROWS, LENGTH))
    arrays = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "loss_weights": np.ones((ROWS, LENGTH), np.float32),
        "positions": position,
        "attend_from": np.zeros((ROWS, LENGTH), np.int32),
        "attend_to": position + 1,
    }
    with logical_axes_on(mesh):
        state = jax.jit(lambda key: init_state(model, optimizer, False, key))(jax.random.key(0))
        step = jax.jit(make_train_step(parts), donate_argnums=0)
        batch = jax.device_put(arrays)
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        seconds = []
        for _ in range(_STEPS.value):
            start = time.perf_counter()
            state, metrics = step(state, batch)
            jax.block_until_ready((state, metrics))
            seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "peak_gib": peak_gib(), "loss": float(metrics["loss"])}


def time_transformers() -> dict[str, Any]:
    """Hugging Face's CodeGenForCausalLM with torch's fused AdamW."""
    import torch
    from transformers import CodeGenConfig, CodeGenForCausalLM

    config = CodeGenConfig(
        vocab_size=VOCAB_SIZE,
        n_positions=LENGTH,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        rotary_dim=32,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        use_cache=False,
    )
    torch.manual_seed(0)
    model = CodeGenForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    tokens = torch.from_numpy(random_tokens())
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    low = _DTYPE.value == "bfloat16"

    def step() -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            logits = model(input_ids=inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.float().view(-1, VOCAB_SIZE), targets.view(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    step()
    seconds = []
    for _ in range(_STEPS.value):
        start = time.perf_counter()
        loss = step()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "peak_gib": peak_gib(), "loss": loss}


def peak_gib() -> float:
    """Most memory this process has held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    command_line.run(main)
