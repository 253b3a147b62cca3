"""Compares meshes of eight devices with one device: python mesh_grid.py MESHES STEPS, one JSON line a mesh.

Each objective's rows go through the same compiled functions. A line holds the largest relative difference of loss and
gradients over all objectives and, for the meshes in STEPS, what the compiled training step is made of.
"""

import json
import math
import sys

import jax
import numpy as np

from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import init_params
from t5x_code.objectives.causal_lm import CausalLM
from t5x_code.objectives.example import Layout, Piece, Row
from t5x_code.objectives.infill import Infill
from t5x_code.objectives.prefix_lm import PrefixLM
from t5x_code.objectives.span_corruption import SpanCorruption
from t5x_code.objectives.ul2 import UL2
from t5x_code.parallel.collectives import read_operations
from t5x_code.parallel.hosts import global_batch
from t5x_code.parallel.mesh import MeshConfig, make_mesh
from t5x_code.parallel.rules import logical_axes_on
from t5x_code.tokens.special_tokens import SpecialTokens
from t5x_code.training.assemble import jit_train_step, step_parts
from t5x_code.training.losses import LossConfig
from t5x_code.training.optimizer import OptimizerConfig
from t5x_code.training.state import abstract_state, shardings_of

B, L, V = 16, 64, 2048  # no activation has an axis as long as a share of V
MODEL = TransformerConfig(
    num_layers=2, model_dim=32, num_heads=8, num_kv_heads=8, head_dim=8, mlp_dim=64, vocab_size=V, max_length=L,
    rotary_dim=4, dtype="float32", loss_chunk=32,
)  # fmt: skip
SPECIAL = SpecialTokens(eod=0, sep=1, eom=2, masks=tuple(range(3, 19)))
OBJECTIVES = (CausalLM(), SpanCorruption(), PrefixLM(), Infill(), UL2())


def rows_of(objective) -> dict[str, np.ndarray]:
    """A batch of rows of documents of random lengths; the last rows are padding in part."""
    layout = Layout(L, SPECIAL)
    raw = objective.raw_length(layout, np.full(1000, 17))
    rows = []
    for index in range(B):
        rng = np.random.default_rng(index)
        pieces, room = [], raw - 8 * (index % 3)
        while room > 4:
            size = min(room, int(rng.integers(4, 30)))
            tokens = np.append(rng.integers(20, V, size - 1), SPECIAL.eod).astype(np.int32)
            pieces.append(Piece(SPECIAL.eod, tokens, is_start=True, is_end=True))
            room -= size
        rows.append(objective(Row(tuple(pieces)), layout, rng).arrays())
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def losses_and_gradients(config: MeshConfig, devices, params) -> list[tuple[float, list[np.ndarray]]]:
    """Of each objective, on one mesh, from the same parameters."""
    mesh = make_mesh(config, devices)
    parts = step_parts(MODEL, OptimizerConfig(), LossConfig(), None, mesh)
    shardings = shardings_of(abstract_state(MODEL, parts.optimizer, False, mesh))

    def total(params, batch):
        return parts.loss.total(parts.loss.sums(params, batch), parts.loss.counts(batch))

    found = []
    with logical_axes_on(mesh):
        params = jax.device_put(params, shardings.params)
        compute = jax.jit(jax.value_and_grad(total))
        for objective in OBJECTIVES:
            loss, gradients = compute(params, global_batch(mesh, rows_of(objective)))
            found.append((float(loss), [np.asarray(leaf) for leaf in jax.tree.leaves(gradients)]))
    return found


def compiled_step(config: MeshConfig) -> dict:
    """Bytes of the arguments, those that the shardings say, and the step's all-gathers."""
    mesh = make_mesh(config)
    parts = step_parts(MODEL, OptimizerConfig(), LossConfig(), None, mesh)
    state = abstract_state(MODEL, parts.optimizer, False, mesh)
    batch = global_batch(mesh, rows_of(OBJECTIVES[0]))
    with logical_axes_on(mesh):
        compiled = jit_train_step(parts, state).lower(state, batch).compile()
    leaves = jax.tree.leaves((state, {name: batch[name] for name in batch if name != "segment_ids"}))
    shares = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
    gathers = [
        [operation.times, operation.result_shapes, operation.source]
        for operation in read_operations(compiled.as_text(), mesh.size)
        if operation.kind == "all-gather" and len(operation.groups[0]) > 1
    ]
    return {"arguments": compiled.memory_analysis().argument_size_in_bytes, "shares": shares, "gathers": gathers}


def main(meshes: list[list[int]], steps: list[list[int]]) -> None:
    params = jax.tree.map(np.asarray, init_params(MODEL, jax.random.key(0)))
    one = losses_and_gradients(MeshConfig(), jax.devices()[:1], params)
    for sizes in meshes:
        worst_loss = worst_gradient = 0.0
        for (loss, gradients), (expected, alone) in zip(
            losses_and_gradients(MeshConfig(*sizes), jax.devices(), params), one, strict=True
        ):
            worst_loss = max(worst_loss, abs(loss / expected - 1))
            scale = math.sqrt(sum(float((leaf**2).sum()) for leaf in alone))
            off = math.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in zip(gradients, alone, strict=True)))
            worst_gradient = max(worst_gradient, off / scale)
        figures = {"mesh": sizes, "loss": worst_loss, "gradient": worst_gradient}
        whole_step = compiled_step(MeshConfig(*sizes)) if sizes in steps else {}
        print(json.dumps(figures | whole_step), flush=True)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    main(json.loads(sys.argv[1]), json.loads(sys.argv[2]))
