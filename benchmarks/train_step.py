"""Seconds of one training step: ours beside Hugging Face's CodeGen of the same sizes, A B A B, each in a fresh process.

    python benchmarks/train_step.py --size=71m --dtype=float32 --output=train_step.json

CodeGen's block with 71.4 M (rows 4 x 512), 355 M (1 x 1024) or 1,015 M parameters (16 x 2048, for one large GPU), AdamW
with clipping by global norm. Hugging Face runs as its users run it: on a CPU eager, on a GPU under `torch.compile` with
the fastest attention its model class takes, with fused AdamW, in float32 or under bfloat16 autocast. Both train on the
same random tokens; a turn's first steps (compilation, allocation) are not timed. The limit to compare with is the
machine's matrix-product speed: 6 N per token and causal attention; where the device's peak is known, MFU says which
share of it is reached. Peak memory is the process's on a CPU, the device's on a GPU.
"""

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
import turns
from absl import flags

from t5x_code.recipes import command_line

VOCAB_SIZE, WARM_UP_STEPS = 51200, 2


@dataclasses.dataclass(frozen=True)
class Size:
    """A model and its batch."""

    layers: int
    width: int
    heads: int
    rotary: int
    length: int
    rows: int
    remat: str = "none"
    steps: int = 5  # of a turn


SIZES = {
    "71m": Size(6, 512, 8, 32, 512, 4),
    "350m": Size(20, 1024, 16, 32, 1024, 1, steps=3),
    "1b": Size(16, 2048, 16, 64, 2048, 16, remat="dots", steps=20),
}

_SIZE = flags.DEFINE_enum("size", "71m", list(SIZES), "Which model.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of the activations.")
_ROWS = flags.DEFINE_integer("rows", None, "Rows of a batch, where not the size's own.")
_REMAT = flags.DEFINE_enum("remat", None, ["none", "dots", "full"], "What ours computes twice, if not the size's own.")
_ATTENTION = flags.DEFINE_string("attention", "auto", "Our way to compute attention; see models/attention/choice.py.")
_TURNS = flags.DEFINE_integer("turns", 2, "Fresh processes of each, alternating.")
_STEPS = flags.DEFINE_integer("steps", None, "Timed steps of a turn, where not the size's own.")
_PROFILE = flags.DEFINE_string("profile", None, "Folder for a trace of our last timed step.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")
_TURN = flags.DEFINE_enum("turn", None, ["ours", "transformers"], "Used by this script itself: run one turn.")


def main(argv: list[str]) -> None:
    """Runs the turns and prints the table."""
    del argv
    size = SIZES[_SIZE.value]
    changes = {"rows": _ROWS.value, "remat": _REMAT.value, "steps": _STEPS.value}
    size = dataclasses.replace(size, **{name: value for name, value in changes.items() if value is not None})
    if _TURN.value:
        run_turn = {"ours": time_ours, "transformers": time_transformers}[_TURN.value]
        print(json.dumps(run_turn(size, _DTYPE.value)))
        return
    results: dict[str, list[dict[str, Any]]] = {"ours": [], "transformers": []}
    for turn in range(_TURNS.value):
        for name, of_name in results.items():
            of_name.append(run_fresh(name))
            seconds = statistics.median(of_name[-1]["seconds"])
            print(f"turn {turn + 1} {name}: {seconds:.3f} s a step", file=sys.stderr, flush=True)
    rows = {name: summarise(of_name, size) for name, of_name in results.items()}
    for row in rows.values():
        row["speed_ratio"] = rows["transformers"]["seconds"] / row["seconds"]
        row["memory_ratio"] = row["peak_gib"] / rows["transformers"]["peak_gib"]
    table = [[f"{_SIZE.value} {_DTYPE.value} {name}", *row.values()] for name, row in rows.items()]
    columns = ("step", "s", "min", "max", "tokens/s", "MFU %", "peak GiB", "speed ratio", "memory ratio")
    turns.print_table(columns, table)
    turns.write(_OUTPUT.value, rows, size=dataclasses.asdict(size), dtype=_DTYPE.value, turns=results)


def run_fresh(name: str) -> dict[str, Any]:
    """One turn in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], f"--turn={name}"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def summarise(turns_of_one: list[dict[str, Any]], size: Size) -> dict[str, float | None]:
    """Median, extremes, throughput and peak memory over all turns."""
    row: dict[str, float | None] = turns.summarise([second for turn in turns_of_one for second in turn["seconds"]])
    row["tokens_per_second"] = size.rows * size.length / row["seconds"]
    peak = turns_of_one[0]["flops_per_second"]
    flops = turns_of_one[0]["flops_per_token"] * row["tokens_per_second"]
    row["mfu_percent"] = 100 * flops / peak if peak else None
    row["peak_gib"] = max(turn["peak_gib"] for turn in turns_of_one)
    return row


def random_tokens(size: Size) -> np.ndarray:
    """Token ids, int64 [rows, length + 1]."""
    return np.random.default_rng(0).integers(0, VOCAB_SIZE, (size.rows, size.length + 1))


class StepRun:
    """This package's training step as the loop compiles it, on one device, with its state and one batch."""

    def __init__(self, size: Size, dtype: str, attention: str = "auto"):
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

        self.model = TransformerConfig(
            num_layers=size.layers,
            model_dim=size.width,
            num_heads=size.heads,
            num_kv_heads=size.heads,
            head_dim=size.width // size.heads,
            mlp_dim=4 * size.width,
            vocab_size=VOCAB_SIZE,
            max_length=size.length,
            rotary_dim=size.rotary,
            dtype=dtype,
            remat=size.remat,
            attention=attention,
        )
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        config = OptimizerConfig(schedule=ScheduleConfig("constant", 1e-4))
        optimizer = make_optimizer(config, logical_axes(self.model))
        loss = next_token_loss(self.model, LossConfig(z_loss=0.0), mesh)
        parts = StepParts(loss, optimizer, make_schedule(config.schedule), None, None, mesh)
        tokens = random_tokens(size).astype(np.int32)
        position = np.broadcast_to(np.arange(size.length, dtype=np.int32), (size.rows, size.length))
        arrays = {
            "inputs": tokens[:, :-1],
            "targets": tokens[:, 1:],
            "loss_weights": np.ones((size.rows, size.length), np.float32),
            "positions": position,
            "attend_from": np.zeros((size.rows, size.length), np.int32),
            "attend_to": position + 1,
        }
        with logical_axes_on(mesh):
            self.state = jax.jit(lambda key: init_state(self.model, optimizer, False, key))(jax.random.key(0))
            self.batch = jax.device_put(arrays)
            step = jax.jit(make_train_step(parts), donate_argnums=0)
            self._step = step.lower(self.state, self.batch).compile()

    def steps(self, count: int) -> float:
        """Takes steps and waits for the last; returns its loss."""
        import jax

        for _ in range(count):
            self.state, metrics = self._step(self.state, self.batch)
        jax.block_until_ready((self.state, metrics))
        return float(metrics["loss"])


def time_ours(size: Size, dtype: str) -> dict[str, Any]:
    """This package's training step."""
    import jax

    from t5x_code.training.flops import peak_flops, train_flops_per_token

    run = StepRun(size, dtype, _ATTENTION.value)
    run.steps(WARM_UP_STEPS)
    seconds = []
    for _ in range(size.steps):
        start = time.perf_counter()
        loss = run.steps(1)
        seconds.append(time.perf_counter() - start)
    if _PROFILE.value:
        with jax.profiler.trace(_PROFILE.value):
            run.steps(2)
    device = jax.devices()[0]
    memory = device.memory_stats() if device.platform == "gpu" else None
    return {
        "seconds": seconds,
        "loss": loss,
        "peak_gib": memory["peak_bytes_in_use"] / 2**30 if memory else peak_gib(),
        "flops_per_token": train_flops_per_token(run.model),
        "flops_per_second": peak_flops(device),
    }


def time_transformers(size: Size, dtype: str) -> dict[str, Any]:
    """Hugging Face's CodeGenForCausalLM with torch's fused AdamW."""
    import torch
    from transformers import CodeGenConfig, CodeGenForCausalLM

    config = CodeGenConfig(
        vocab_size=VOCAB_SIZE,
        n_positions=size.length,
        n_embd=size.width,
        n_layer=size.layers,
        n_head=size.heads,
        rotary_dim=size.rotary,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        use_cache=False,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model, attention = fastest(CodeGenForCausalLM, config)
    model = model.to(device).train()
    if size.remat != "none" and device == "cuda":
        model.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    tokens = torch.from_numpy(random_tokens(size)).to(device)
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def forward(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            logits = model(input_ids=inputs).logits
        return torch.nn.functional.cross_entropy(logits.float().view(-1, VOCAB_SIZE), targets.view(-1))

    compute = torch.compile(forward) if device == "cuda" else forward

    def step() -> float:
        loss = compute(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    for _ in range(WARM_UP_STEPS):
        step()
    seconds = []
    for _ in range(size.steps):
        start = time.perf_counter()
        loss = step()
        seconds.append(time.perf_counter() - start)
    parameters = sum(parameter.numel() for parameter in model.parameters()) - VOCAB_SIZE * size.width
    return {
        "seconds": seconds,
        "loss": loss,
        "attention": attention,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else peak_gib(),
        "flops_per_token": 6 * parameters + 6 * size.layers * size.width * size.length,
        "flops_per_second": 989e12 if device == "cuda" and "H" in torch.cuda.get_device_name() else None,
    }


def fastest(model_class: Any, config: Any) -> tuple[Any, str]:
    """A model with the best attention that its class takes."""
    for attention in ("sdpa", "eager"):
        try:
            return model_class._from_config(config, attn_implementation=attention), attention
        except ValueError:
            continue
    raise ValueError(f"{model_class.__name__} takes neither sdpa nor eager attention")


def peak_gib() -> float:
    """Most memory this process has held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    command_line.run(main)
