"""Training with 8-bit products learns what float32 learns: a task that the layers alone can do, scanned and remade."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from t5x_code.models.decoder import logical_axes
from t5x_code.parallel.rules import logical_axes_on
from t5x_code.training.losses import LossConfig, next_token_loss
from t5x_code.training.optimizer import OptimizerConfig, make_optimizer
from t5x_code.training.schedules import ScheduleConfig, make_schedule
from t5x_code.training.state import init_state
from t5x_code.training.step import StepParts, make_train_step

STEPS = 72  # the float32 run has learned most of it then


@pytest.fixture(scope="module")
def losses_of(tiny_model, one_device, make_rows):
    """A function of a quantization, a remat policy and a number of steps -> the loss of each."""
    batches = [make_rows(16 * number, 16) for number in range(STEPS)]
    for batch in batches:  # each token is asked for the one before it, which embedding and head cannot know
        batch["targets"] = np.roll(batch["inputs"], 1, axis=1)
        batch["loss_weights"] = np.ones_like(batch["loss_weights"])
        batch["loss_weights"][:, 0] = 0

    @functools.cache
    def run(quantization: str, remat: str, steps: int) -> np.ndarray:
        model = dataclasses.replace(tiny_model, quantization=quantization, remat=remat)
        schedule = ScheduleConfig("constant", peak=0.01)
        optimizer = make_optimizer(OptimizerConfig(schedule=schedule), logical_axes(model))
        loss = next_token_loss(model, LossConfig(), one_device)
        parts = StepParts(loss, optimizer, make_schedule(schedule), None, None, one_device)
        with logical_axes_on(one_device):
            state = jax.jit(functools.partial(init_state, model, optimizer, False))(jax.random.key(0))
            step = jax.jit(make_train_step(parts), donate_argnums=0)
            losses = []
            for batch in batches[:steps]:
                state, metrics = step(state, batch)
                losses.append(float(metrics["loss"]))
        return np.array(losses)

    return run


@pytest.mark.parametrize("quantization", ["int8", pytest.param("fp8", marks=pytest.mark.slow)])
def test_eight_bit_products_learn_as_float32_does(losses_of, quantization):
    pytest.importorskip("qwix", reason="the extra quantized is not installed")
    exact, rounded = losses_of("none", "full", STEPS), losses_of(quantization, "full", STEPS)
    assert exact[-1] < 0.3 < np.log(64) - 0.05 < exact[0], "the task was not learned"
    assert np.abs(rounded / exact - 1)[:20].max() < 0.01
    assert abs(rounded.mean() / exact.mean() - 1) < 0.02
    assert np.abs(rounded - exact).max() > 1e-5, "nothing was rounded"


@pytest.mark.slow
def test_what_is_made_again_rounds_the_same(losses_of):
    """To the third step: from there on, what differs in its last bit crosses a bound of the rounding now and then."""
    pytest.importorskip("qwix", reason="the extra quantized is not installed")
    kept, remade, exact = (losses_of(*run, 3) for run in (("int8", "none"), ("int8", "full"), ("none", "full")))
    np.testing.assert_allclose(kept, remade, rtol=1e-5)
    # Not to round what is made again would show: it differs by more than the above allows.
    assert np.abs(kept / exact - 1).max() > 2e-5, "to round or not makes no difference that this would see"
