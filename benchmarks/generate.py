"""New tokens per second: ours beside Hugging Face's `generate` with the same weights, A B A B, each in a fresh process.

    python benchmarks/generate.py --output=generate.json
    python benchmarks/generate.py --dtype=bfloat16 --bandwidth=4800 --output=generate.json      # on an H200

Greedy, prompts of 64 tokens, 128 new ones, at batch 1, 8 and 32. The models are CodeGens with random weights:
`quickstart` (4 layers, 256 wide, vocabulary 16384) and `71m` (6 layers, 512 wide, vocabulary 51200). What is generated
must be the same, up to near-ties: where the two best logits are within 1e-4 of each other, either may be taken (float32
only).

The limit to compare with, where `--bandwidth` is given in GB/s: a step reads every weight that it multiplies with once.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
import turns
from absl import flags

from t5x_code.recipes import command_line
from t5x_code.terminal import say

PROMPT, NEW = 64, 128
MODELS = {
    "quickstart": {"n_layer": 4, "n_embd": 256, "n_head": 4, "vocab_size": 16384},
    "71m": {"n_layer": 6, "n_embd": 512, "n_head": 8, "vocab_size": 51200},
    "1b": {"n_layer": 16, "n_embd": 2048, "n_head": 16, "vocab_size": 51200},
}
NEAR_TIE = 1e-4

_MODELS = flags.DEFINE_list("models", ["quickstart", "71m"], f"Of {', '.join(MODELS)}.")
_BATCHES = flags.DEFINE_list("batches", ["1", "8", "32"], "Rows decoded together.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type of the weights and activations.")
_TURNS = flags.DEFINE_integer("turns", 2, "Fresh processes of each, alternating.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed generations of each batch in a turn, after one that is not.")
_BANDWIDTH = flags.DEFINE_float(
    "bandwidth", None, "Memory bandwidth in GB/s, to give the figures as shares of its limit."
)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")
_TURN = flags.DEFINE_enum("turn", None, ["ours", "transformers"], "Used by this script itself: run one turn.")
_TOKENS = flags.DEFINE_string("tokens", None, "Used by this script itself: file for what a turn generated.")


def main(argv: list[str]) -> None:
    """Runs the turns, compares what they generated, prints the table."""
    del argv
    if _TURN.value:
        run_turn = {"ours": time_ours, "transformers": time_transformers}[_TURN.value]
        seconds, tokens = run_turn(_MODELS.value[0])
        np.savez(_TOKENS.value, **tokens)
        print(json.dumps(seconds))
        return
    rows = [row for model in _MODELS.value for row in compare(model)]
    head = f"{'model':<12}{'batch':>6}{'ours tok/s':>12}{'min':>8}{'max':>8}{'peer tok/s':>12}"
    print(f"{head}{'ratio':>7}{'same':>7}{'limit':>8}")
    for row in rows:
        ours, peer = row["ours"], row["transformers"]
        limit = f"{row['share_of_limit']:>8.0%}" if "share_of_limit" in row else f"{'-':>8}"
        speeds = f"{ours['median']:>12.0f}{ours['min']:>8.0f}{ours['max']:>8.0f}{peer['median']:>12.0f}"
        print(f"{row['model']:<12}{row['batch']:>6}{speeds}{row['ratio']:>7.2f}{row['same']:>7}{limit}")
    turns.write(_OUTPUT.value, rows, dtype=_DTYPE.value)


def compare(model: str) -> list[dict[str, Any]]:
    """Both, turn by turn; a row for each batch."""
    seconds: dict[str, dict[str, list[float]]] = {"ours": {}, "transformers": {}}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(_TURNS.value):
            for name in seconds:
                for batch, values in run_fresh(name, model, f"{folder}/{name}.npz").items():
                    seconds[name].setdefault(batch, []).extend(values)
                say(f"{model}, turn {turn + 1} {name}: done")
        tokens = {name: dict(np.load(f"{folder}/{name}.npz")) for name in seconds}
    rows = []
    for batch in _BATCHES.value:
        row: dict[str, Any] = {"model": model, "batch": int(batch)}
        for name in seconds:
            speeds = [int(batch) * NEW / second for second in seconds[name][batch]]
            row[name] = {"median": statistics.median(speeds), "min": min(speeds), "max": max(speeds)}
        row["ratio"] = row["ours"]["median"] / row["transformers"]["median"]
        row["same"] = same_up_to_near_ties(tokens["ours"], tokens["transformers"], batch)
        if _BANDWIDTH.value:
            size = 4 if _DTYPE.value == "float32" else 2
            steps = _BANDWIDTH.value * 1e9 / (size * int(tokens["ours"]["weights_read"]))
            row["share_of_limit"] = row["ours"]["median"] / (steps * int(batch))
        rows.append(row)
    return rows


def run_fresh(name: str, model: str, tokens: str) -> dict[str, list[float]]:
    """One turn in a process of its own."""
    command = [sys.executable, __file__, f"--turn={name}", f"--models={model}", f"--tokens={tokens}"]
    command += [f"--batches={','.join(_BATCHES.value)}", f"--dtype={_DTYPE.value}", f"--repeats={_REPEATS.value}"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def same_up_to_near_ties(ours: dict[str, Any], peer: dict[str, Any], batch: str) -> str:
    """Rows that are equal, or part at a near-tie, of all."""
    a_BxN, b_BxN, gap_BxN = ours[f"tokens_{batch}"], peer[f"tokens_{batch}"], peer[f"gap_{batch}"]
    good = 0
    for a_N, b_N, gap_N in zip(a_BxN, b_BxN, gap_BxN, strict=True):
        apart = np.flatnonzero(a_N != b_N)
        good += not len(apart) or gap_N[apart[0]] < NEAR_TIE
    return f"{good}/{len(a_BxN)}"


def prompts(batch: int, vocab_size: int) -> np.ndarray:
    """Token ids, int64 [batch, PROMPT]."""
    return np.random.default_rng(0).integers(0, vocab_size, (batch, PROMPT))


def peer_model(name: str) -> Any:
    """The model with its random weights, which are drawn wider than for training, so that greedy output varies."""
    import torch
    from transformers import CodeGenConfig, CodeGenForCausalLM

    torch.manual_seed(0)
    config = CodeGenConfig(
        **MODELS[name], n_positions=2048, rotary_dim=32, initializer_range=0.1, bos_token_id=None, eos_token_id=None
    )
    return CodeGenForCausalLM(config).eval()


def time_transformers(name: str) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """Hugging Face's `generate` with its static defaults."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = peer_model(name).to(device, getattr(torch, _DTYPE.value))
    seconds, tokens = {}, {}
    for batch in _BATCHES.value:
        inputs = torch.from_numpy(prompts(int(batch), MODELS[name]["vocab_size"])).to(device)
        options = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
        with torch.no_grad():
            scored = model.generate(inputs, **options, output_scores=True, return_dict_in_generate=True)
            best = torch.stack([score.float().topk(2).values for score in scored.scores], dim=1)
            tokens[f"tokens_{batch}"] = scored.sequences[:, PROMPT:].cpu().numpy()
            tokens[f"gap_{batch}"] = (best[..., 0] - best[..., 1]).cpu().numpy()
            seconds[batch] = []
            for _ in range(_REPEATS.value):
                start = time.perf_counter()
                model.generate(inputs, **options).cpu()
                seconds[batch].append(time.perf_counter() - start)
    return seconds, tokens


def time_ours(name: str) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """This package's `generate`."""
    import dataclasses

    import jax

    from t5x_code.huggingface.conversion import load_onto_mesh
    from t5x_code.inference.generation import GenerationConfig, generate
    from t5x_code.models.few_rows import decoding_params

    with tempfile.TemporaryDirectory() as folder:
        peer_model(name).save_pretrained(folder)
        description, params = load_onto_mesh(folder, None)
    config = dataclasses.replace(description.config, dtype=_DTYPE.value)
    decoding = decoding_params(config, params)
    seconds, tokens = {}, {}
    multiplied = jax.tree.leaves({key: value for key, value in params.items() if key != "embedding"})
    tokens["weights_read"] = np.array(sum(leaf.size for leaf in multiplied))
    for batch in _BATCHES.value:
        rows = list(prompts(int(batch), config.vocab_size).astype(np.int32))
        generation = GenerationConfig(max_new_tokens=NEW, batch_size=int(batch))
        tokens[f"tokens_{batch}"] = np.array([row for (row,) in generate(config, decoding, rows, generation)])
        seconds[batch] = []
        for _ in range(_REPEATS.value):
            start = time.perf_counter()
            generate(config, decoding, rows, generation)
            seconds[batch].append(time.perf_counter() - start)
    return seconds, tokens


if __name__ == "__main__":
    command_line.run(main)
