"""What a vocabulary split by modality costs per training step of `code_clm`.

    python benchmarks/modality_cost.py --output=modality_cost.json

The same decoder trains on the same row shapes with one vocabulary and with full separation, whose second half of the
vocabulary only code uses. No target of `code_clm` is text, so that logits exist for code's rows alone: the limit is the
step without separation, which has as many, and what the optimizer does to twice the embedding's rows. `all rows` is
full separation with logits for both halves, as the release has it. Steps alternate; `ratio` is the median over that of
one vocabulary.
"""

import functools
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
import turns
from absl import flags

from t5x_code.models.config import TransformerConfig
from t5x_code.models.modality import VocabularySplit, split_config
from t5x_code.parallel.mesh import MeshConfig, make_mesh
from t5x_code.parallel.rules import logical_axes_on
from t5x_code.recipes import command_line
from t5x_code.tokens.modality import ModalityTables
from t5x_code.training.assemble import jit_train_step, step_parts
from t5x_code.training.losses import LossConfig
from t5x_code.training.optimizer import OptimizerConfig
from t5x_code.training.state import init_state

_ROUNDS = flags.DEFINE_integer("rounds", 8, "Steps of each.")
_LENGTH = flags.DEFINE_integer("length", 512, "Tokens of a row; four rows.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the results.")
NUM_SPECIAL = 100


def main(argv: list[str]) -> None:
    """Times the steps and prints the table."""
    del argv
    base = TransformerConfig(
        num_layers=4,
        model_dim=512,
        num_heads=8,
        num_kv_heads=8,
        head_dim=64,
        mlp_dim=2048,
        rotary_dim=32,
        vocab_size=32000,
        max_length=_LENGTH.value,
        head_bias=False,
        tie_embeddings=True,
        dtype="float32",
    )
    tables = ModalityTables("full", base.vocab_size, tuple(range(NUM_SPECIAL, base.vocab_size)))
    splits = {
        "one vocabulary": None,
        "full separation": VocabularySplit(base.vocab_size, tables.sources, tables.allowed, (1,)),
        "full separation, all rows": VocabularySplit(base.vocab_size, tables.sources, tables.allowed, (0, 1)),
    }
    steps = {name: step_of(base, split, tables) for name, split in splits.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(_ROUNDS.value + 1):  # the first compiles
        for name, step in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step())
            if number:
                seconds[name].append(time.perf_counter() - start)
    reference = statistics.median(seconds["one vocabulary"])
    results = [
        {
            "step": name,
            "median": statistics.median(s),
            "min": min(s),
            "max": max(s),
            "ratio": statistics.median(s) / reference,
        }
        for name, s in seconds.items()
    ]
    print(f"{'step':<28}{'median s':>10}{'min':>8}{'max':>8}{'ratio':>8}")
    for r in results:
        print(f"{r['step']:<28}{r['median']:>10.3f}{r['min']:>8.3f}{r['max']:>8.3f}{r['ratio']:>8.3f}")
    turns.write(_OUTPUT.value, results, length=_LENGTH.value)


def step_of(
    base: TransformerConfig, split: VocabularySplit | None, tables: ModalityTables
) -> Callable[[], dict[str, jax.Array]]:
    """A function that takes a training step of four rows, half of each docstring."""
    config = split_config(base, split) if split else base
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    parts = step_parts(config, OptimizerConfig(), LossConfig(), None, mesh, split)
    init = functools.partial(init_state, config, parts.optimizer, False)
    places_BxL = np.tile(np.arange(_LENGTH.value, dtype=np.int32), (4, 1))
    is_code_BxL = (places_BxL >= _LENGTH.value // 2).astype(np.int32)
    ids_BxL = np.random.default_rng(0).integers(NUM_SPECIAL, base.vocab_size, places_BxL.shape).astype(np.int32)
    final_BxL = tables.ids[is_code_BxL, ids_BxL] if split else ids_BxL
    batch = {
        "inputs": final_BxL,
        "targets": final_BxL,
        "loss_weights": is_code_BxL.astype(np.float32),
        "positions": places_BxL,
        "attend_from": np.zeros_like(places_BxL),
        "attend_to": places_BxL + 1,
        "target_modality": is_code_BxL,
    }
    with logical_axes_on(mesh):
        state = jax.jit(init)(jax.random.key(0))
        batch = jax.device_put(batch)
        step = jit_train_step(parts, state).lower(state, batch).compile()

    def run() -> dict[str, jax.Array]:
        nonlocal state
        state, metrics = step(state, batch)
        return metrics

    return run


if __name__ == "__main__":
    command_line.run(main)
