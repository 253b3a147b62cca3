"""A run for other processes to start, stop and kill: python tiny_run.py FOLDER STEPS [seconds between batches]."""

import sys
import time

import numpy as np

from t5x_code.checkpoints.model_directory import ModelDescription
from t5x_code.models.config import TransformerConfig
from t5x_code.parallel.mesh import MeshConfig, make_mesh
from t5x_code.training.loop import RunData, RunFiles, train
from t5x_code.training.loop_config import LoopConfig
from t5x_code.training.losses import LossConfig
from t5x_code.training.optimizer import OptimizerConfig

MODEL = TransformerConfig(
    num_layers=1, model_dim=16, num_heads=2, num_kv_heads=2, head_dim=8, mlp_dim=32, vocab_size=64, vocab_multiple=64,
    max_length=8, rotary_dim=4, dtype="float32",
)  # fmt: skip


def rows(index: int, size: int) -> dict[str, np.ndarray]:
    tokens = np.random.default_rng(index).integers(0, 64, (size, 9), dtype=np.int32)
    positions = np.tile(np.arange(8, dtype=np.int32), (size, 1))
    names = ("inputs", "targets", "loss_weights", "positions", "attend_from", "attend_to")
    arrays = (tokens[:, :-1], tokens[:, 1:], np.ones((size, 8), np.float32), positions, 0 * positions, positions + 1)
    return dict(zip(names, arrays, strict=True))


def main(folder: str, steps: int, pause: float) -> None:
    def batches(first, sizes):
        for size in sizes:
            time.sleep(pause)
            yield rows(first, size)
            first += size

    config = LoopConfig(folder, steps, batch_size=2, log_period=1, checkpoint_period=5)
    data, files = RunData(batches, {}, {"seed": "0"}), RunFiles(ModelDescription(MODEL), None, {})
    train(config, MODEL, OptimizerConfig(), LossConfig(), make_mesh(MeshConfig(fsdp=1)), data, files)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 0.0)
