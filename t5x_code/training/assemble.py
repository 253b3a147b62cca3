"""From a run's configuration to the step that it compiles; training and the ahead-of-time compiler share it."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import logical_axes
from t5x_code.models.lora import trained
from t5x_code.models.modality import VocabularySplit
from t5x_code.parallel.compiler_options import compiler_options
from t5x_code.training.layer_loop import settle_layer_loop
from t5x_code.training.losses import LossConfig, make_loss
from t5x_code.training.optimizer import OptimizerConfig, make_optimizer
from t5x_code.training.schedules import make_schedule
from t5x_code.training.state import TrainState, shardings_of
from t5x_code.training.step import StepParts, make_eval_step, make_train_step


def step_parts(
    model: TransformerConfig,
    optimizer: OptimizerConfig,
    loss: LossConfig,
    microbatch_size: int | None,
    mesh: Mesh,
    split: VocabularySplit | None = None,
) -> StepParts:
    """What a step of that configuration is made of."""
    model = settle_layer_loop(model, mesh)
    return StepParts(
        loss=make_loss(model, loss, mesh, split),
        optimizer=make_optimizer(optimizer, trained(logical_axes(model))),
        schedule=make_schedule(optimizer.schedule),
        ema_decay=optimizer.ema_decay,
        microbatch_size=microbatch_size,
        mesh=mesh,
        offload=optimizer.offload,
    )


def jit_train_step(parts: StepParts, state: TrainState) -> Callable[[Any, Any], tuple[Any, Any]]:
    """The step as a run compiles it: the state is donated.

    Its layout is that of `state`, arrays or `abstract_state`, at every step: left to the compiler, it could change
    after the first.
    """
    return jax.jit(
        make_train_step(parts),
        donate_argnums=0,
        out_shardings=(shardings_of(state), None),
        compiler_options=compiler_options(parts.mesh),
    )


def jit_eval_step(parts: StepParts) -> Callable[[Any, Any], tuple[Any, Any]]:
    """The evaluation step as a run compiles it."""
    eval_step = make_eval_step(parts.loss, parts.mesh, parts.microbatch_size)
    return jax.jit(eval_step, compiler_options=compiler_options(parts.mesh))
