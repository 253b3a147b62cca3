"""Seconds of one training step: ours beside Hugging Face's CodeGen of the same sizes, A B A B, each in a fresh process.

    python benchmarks/train_step.py --size=71m --dtype=float32 --output=train_step.json

CodeGen's block with 71.4 M parameters (rows 4 x 512), 355 M (1 x 1024) or, for one large GPU, 1,015 M (16 x 2048) or
6.9 B (1 x 2048), AdamW with clipping by global norm. Ours runs under remat `dots`, 6.9 B under `full`, unless `--remat`
names another; Hugging Face as its users run it: on a CPU eager, on a GPU under `torch.compile` with the fastest
attention its model class takes, checkpointed where ours is under `full`, with fused AdamW, in float32 (as TF32 on a
GPU, like ours) or under bfloat16 autocast. Both train on the same random tokens; a turn's first steps (compilation,
allocation) are not timed. The limit to compare with is the machine's matrix-product speed: 6 N per token and causal
attention; where the device's peak is known, MFU says which share of it is reached. Peak memory is the process's on a
CPU, the device's on a GPU. A side that fails is left out, the other one is written all the same, and the script ends
with 2.
"""

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import turns
from absl import flags
from step_run import SIZES, VOCAB_SIZE, Size, StepRun, random_tokens

from t5x_code.errors import UserError
from t5x_code.recipes import command_line
from t5x_code.terminal import say

WARM_UP_STEPS = 2


_SIZE = flags.DEFINE_enum("size", "71m", list(SIZES), "Which model.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of the activations.")
_ROWS = flags.DEFINE_integer("rows", None, "Rows of a batch, where not the size's own.")
_REMAT = flags.DEFINE_enum("remat", None, ["none", "dots", "full"], "What ours computes twice, if not the size's own.")
_ATTENTION = flags.DEFINE_string("attention", "auto", "Our way to compute attention; see models/attention/choice.py.")
_QUANTIZATION = flags.DEFINE_enum("quantization", "none", ["none", "int8", "fp8"], "Of our products; needs qwix.")
_TURNS = flags.DEFINE_integer("turns", 2, "Fresh processes of each, alternating.")
_STEPS = flags.DEFINE_integer("steps", None, "Timed steps of a turn, where not the size's own.")
_TURN_SECONDS = flags.DEFINE_integer("turn_seconds", None, "A turn that takes longer has failed.")
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
    failed: dict[str, str] = {}
    for turn in range(_TURNS.value):
        for name in [name for name in results if name not in failed]:
            try:
                results[name].append(run_fresh(name))
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                is_late = isinstance(error, subprocess.TimeoutExpired)
                how = f"took over {error.timeout} s" if is_late else f"ended with {error.returncode}"
                failed[name] = f"{name}: its turn {turn + 1} {how}; its own words are above"
                continue
            seconds = statistics.median(results[name][-1]["seconds"])
            say(f"turn {turn + 1} {name}: {seconds:.3f} s a step")
    rows = {name: summarise(of_name, size) for name, of_name in results.items() if of_name}
    for row in rows.values():
        peer = rows.get("transformers")
        row["speed_ratio"] = peer["seconds"] / row["seconds"] if peer else None
        row["memory_ratio"] = row["peak_gib"] / peer["peak_gib"] if peer else None
    table = [[f"{_SIZE.value} {_DTYPE.value} {name}", *row.values()] for name, row in rows.items()]
    columns = ("step", "s", "min", "max", "tokens/s", "MFU %", "peak GiB", "speed ratio", "memory ratio")
    turns.print_table(columns, table)
    turns.write(_OUTPUT.value, rows, size=dataclasses.asdict(size), dtype=_DTYPE.value, turns=results)
    if failed:
        raise UserError(", ".join(failed.values()))


def run_fresh(name: str) -> dict[str, Any]:
    """One turn in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], f"--turn={name}"]
    limit = _TURN_SECONDS.value
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=limit)
    return json.loads(done.stdout.splitlines()[-1])


def summarise(turns_of_one: list[dict[str, Any]], size: Size) -> dict[str, float | None]:
    """Median, extremes, throughput and peak memory over all turns."""
    row: dict[str, float | None] = turns.summarise([second for turn in turns_of_one for second in turn["seconds"]])
    row["tokens_per_second"] = size.rows * size.length / row["seconds"]
    peak = turns_of_one[0]["flops_per_second"]
    flops = turns_of_one[0]["flops_per_token"] * row["tokens_per_second"]
    row["mfu_percent"] = 100 * flops / peak if peak else None
    row["peak_gib"] = max(turn["peak_gib"] for turn in turns_of_one)
    return row


def time_ours(size: Size, dtype: str) -> dict[str, Any]:
    """This package's training step."""
    import jax

    from t5x_code.training.flops import peak_flops, train_flops_per_token

    run = StepRun(size, dtype, _ATTENTION.value, _QUANTIZATION.value)
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
    torch.backends.cuda.matmul.allow_tf32 = True  # as JAX multiplies float32 on a GPU
    if size.remat == "full" and device == "cuda":
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
        "checkpointing": model.is_gradient_checkpointing,
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
