"""In-batch negatives over the whole mesh: eight devices, in parts, train NTP+ as one device does."""

import json
from pathlib import Path

SOURCE = """
    import dataclasses, functools, json, sys
    import numpy as np
    sys.path.insert(0, {tests!r})
    from code_rows import code_rows
    from tiny_run import MODEL
    from t5x_code.models.decoder import logical_axes
    from t5x_code.models.lora import trained
    from t5x_code.parallel.hosts import global_batch
    from t5x_code.parallel.mesh import MeshConfig, make_mesh
    from t5x_code.parallel.rules import logical_axes_on
    from t5x_code.training.losses import LossConfig, make_loss
    from t5x_code.training.optimizer import OptimizerConfig, make_optimizer
    from t5x_code.training.schedules import ScheduleConfig, make_schedule
    from t5x_code.training.state import abstract_state, init_state, shardings_of
    from t5x_code.training.step import StepParts, make_train_step

    model = dataclasses.replace(MODEL, max_length=32, lora_rank={rank})
    schedule = ScheduleConfig("constant", peak=0.01)
    optimizer = make_optimizer(OptimizerConfig(schedule=schedule), trained(logical_axes(model)))
    batch = code_rows(0, 16)

    def run(mesh_config, microbatch_size, devices):
        mesh = make_mesh(mesh_config, devices)
        loss = make_loss(model, LossConfig(contrastive=0.5), mesh)
        parts = StepParts(loss, optimizer, make_schedule(schedule), None, microbatch_size, mesh)
        shardings = shardings_of(abstract_state(model, optimizer, False, mesh))
        with logical_axes_on(mesh):
            make = functools.partial(init_state, model, optimizer, False)
            state = jax.jit(make, out_shardings=shardings)(jax.random.key(0))
            step = jax.jit(make_train_step(parts), donate_argnums=0, out_shardings=(shardings, None))
            log = []
            for _ in range(3):
                state, metrics = step(state, global_batch(mesh, batch))
                log.append([float(metrics[name]) for name in ("loss", "contrastive", "selected", "grad_norm")])
        return np.array(log)

    one = run(MeshConfig(), None, jax.devices()[:1])
    many = run(MeshConfig(1, 4, 1, 2), 2, jax.devices())
    print(json.dumps([float(np.abs(many / one - 1).max()), one.tolist()]))
"""


def compare(run_on_eight_devices, rank: int) -> None:
    tests = str(Path(__file__).parents[1] / "training")
    printed = run_on_eight_devices(SOURCE.format(tests=tests, rank=rank))
    difference, log = json.loads(printed.splitlines()[-1])
    assert difference < 1e-4, (difference, log)
    assert log[0][1] > 1  # there is something to learn


def test_eight_devices_equal_one(run_on_eight_devices):
    compare(run_on_eight_devices, 0)
