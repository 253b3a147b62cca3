"""One training step to be timed: CodeGen's block in the sizes that the benchmarks compare, on one device."""

import dataclasses

import numpy as np

VOCAB_SIZE = 51200


@dataclasses.dataclass(frozen=True)
class Size:
    """A model and its batch."""

    layers: int
    width: int
    heads: int
    rotary: int
    length: int
    rows: int
    remat: str = "dots"
    steps: int = 5  # of a turn


SIZES = {
    "28m": Size(2, 256, 4, 32, 256, 2),  # to try a script out
    "71m": Size(6, 512, 8, 32, 512, 4),
    "350m": Size(20, 1024, 16, 32, 1024, 1, steps=3),
    "1b": Size(16, 2048, 16, 64, 2048, 16, steps=20),
    "7b": Size(32, 4096, 32, 64, 2048, 1, remat="full", steps=5),
}


def random_tokens(size: Size) -> np.ndarray:
    """Token ids, int64 [rows, length + 1]."""
    return np.random.default_rng(0).integers(0, VOCAB_SIZE, (size.rows, size.length + 1))


class StepRun:
    """This package's training step as the loop compiles it, on one device, with its state and one batch."""

    def __init__(self, size: Size, dtype: str, attention: str = "auto", quantization: str = "none"):
        import jax

        from t5x_code.models.config import TransformerConfig
        from t5x_code.models.decoder import logical_axes
        from t5x_code.parallel.cpu import FreedMemory, run_programs_in_turn
        from t5x_code.parallel.mesh import MeshConfig, make_mesh
        from t5x_code.parallel.rules import logical_axes_on
        from t5x_code.training.assemble import jit_train_step
        from t5x_code.training.layer_loop import settle_layer_loop
        from t5x_code.training.losses import LossConfig, next_token_loss
        from t5x_code.training.optimizer import OptimizerConfig, make_optimizer
        from t5x_code.training.schedules import ScheduleConfig, make_schedule
        from t5x_code.training.state import init_state
        from t5x_code.training.step import StepParts

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
            quantization=quantization,
        )
        run_programs_in_turn()
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        model = settle_layer_loop(self.model, mesh)
        config = OptimizerConfig(schedule=ScheduleConfig("constant", 1e-4))
        optimizer = make_optimizer(config, logical_axes(self.model))
        loss = next_token_loss(model, LossConfig(z_loss=0.0), mesh)
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
            step = jit_train_step(parts, self.state)
            self._step = step.lower(self.state, self.batch).compile()
        FreedMemory(mesh).keep()

    def steps(self, count: int) -> float:
        """Takes steps and waits for the last; returns its loss."""
        import jax

        for _ in range(count):
            self.state, metrics = self._step(self.state, self.batch)
        jax.block_until_ready((self.state, metrics))
        return float(metrics["loss"])
