"""Compares meshes of eight devices with one device: python mesh_grid.py MESHES CASES, one JSON line a mesh.

A line holds the relative difference of loss and gradients of each objective of the first so many cases, and what the
first one's compiled training step is made of.
"""

import json
import math
import sys

import jax
import numpy as np
from mesh_grid_cases import Case, make_cases

from t5x_code.models.decoder import init_params
from t5x_code.parallel.collectives import read_operations
from t5x_code.parallel.hosts import global_batch
from t5x_code.parallel.mesh import MeshConfig, make_mesh
from t5x_code.parallel.rules import logical_axes_on
from t5x_code.training.assemble import jit_train_step, step_parts
from t5x_code.training.optimizer import OptimizerConfig
from t5x_code.training.state import abstract_state, shardings_of

Gradients = list[np.ndarray]


def losses_and_gradients(case: Case, config: MeshConfig, devices) -> dict[str, tuple[float, Gradients]]:
    """Of each objective of a case, on one mesh, from the same parameters."""
    mesh = make_mesh(config, devices)
    parts = step_parts(case.model, OptimizerConfig(), case.loss, None, mesh, case.split)
    shardings = shardings_of(abstract_state(case.model, parts.optimizer, False, mesh))

    def total(params, batch):
        return parts.loss.total(parts.loss.sums(params, batch), parts.loss.counts(batch))

    found = {}
    with logical_axes_on(mesh):
        params = jax.device_put(init_params(case.model, jax.random.key(0)), shardings.params)
        compute = jax.jit(jax.value_and_grad(total))
        for name, rows in case.batches.items():
            loss, gradients = compute(params, global_batch(mesh, rows))
            found[name] = float(loss), [np.asarray(leaf) for leaf in jax.tree.leaves(gradients)]
    return found


def difference(found: tuple[float, Gradients], expected: tuple[float, Gradients]) -> tuple[float, float]:
    """Relative, of the loss and of all gradients as one vector."""
    (loss, gradients), (wanted, alone) = found, expected
    scale = math.sqrt(sum(float((leaf**2).sum()) for leaf in alone))
    off = math.sqrt(sum(float(((a - b) ** 2).sum()) for a, b in zip(gradients, alone, strict=True)))
    return abs(loss / wanted - 1), off / scale


def compiled_step(case: Case, config: MeshConfig) -> dict:
    """Bytes of the arguments, those that the shardings say, and the step's all-gathers."""
    mesh = make_mesh(config)
    parts = step_parts(case.model, OptimizerConfig(), case.loss, None, mesh, case.split)
    state = abstract_state(case.model, parts.optimizer, False, mesh)
    batch = global_batch(mesh, next(iter(case.batches.values())))
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


def main(meshes: list[list[int]], num_cases: int) -> None:
    cases = make_cases()[:num_cases]
    one = [losses_and_gradients(case, MeshConfig(), jax.devices()[:1]) for case in cases]
    for sizes in meshes:
        off = {}
        for case, alone in zip(cases, one, strict=True):
            found = losses_and_gradients(case, MeshConfig(*sizes), jax.devices())
            off |= {name: difference(found[name], alone[name]) for name in alone}
        print(json.dumps({"mesh": sizes, "off": off} | compiled_step(cases[0], MeshConfig(*sizes))), flush=True)


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    main(json.loads(sys.argv[1]), int(sys.argv[2]))
