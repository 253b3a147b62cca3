"""A step: accumulation, sharding, the guard against infinities, the average of the weights, evaluation."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from t5x_code.errors import UserError
from t5x_code.models.decoder import logical_axes
from t5x_code.parallel.rules import logical_axes_on
from t5x_code.training import step as step_module
from t5x_code.training.assemble import jit_train_step
from t5x_code.training.losses import LossConfig, next_token_loss
from t5x_code.training.optimizer import OptimizerConfig, make_optimizer
from t5x_code.training.schedules import ScheduleConfig, make_schedule
from t5x_code.training.state import abstract_state, init_state, shardings_of, state_of_params
from t5x_code.training.step import StepParts, accumulate, make_eval_step, make_train_step, num_microbatches

SCHEDULE = ScheduleConfig("linear", peak=0.01, decay_steps=100)


def make_parts(model, mesh, microbatch_size=None, ema_decay=None) -> StepParts:
    optimizer = make_optimizer(OptimizerConfig(schedule=SCHEDULE), logical_axes(model))
    loss = next_token_loss(model, LossConfig(), mesh)
    return StepParts(loss, optimizer, make_schedule(SCHEDULE), ema_decay, microbatch_size, mesh)


@pytest.fixture(scope="module")
def parts(tiny_model, one_device) -> StepParts:
    return make_parts(tiny_model, one_device, ema_decay=0.75)


@pytest.fixture(scope="module")
def start(parts, tiny_params):
    return state_of_params(tiny_params, parts.optimizer, with_ema=True)


@pytest.fixture(scope="module")
def train_step(parts):
    """Compiled once; keeps the state it is given, as tests look at it again."""
    compiled = jax.jit(make_train_step(parts))

    def step(state, batch):
        with logical_axes_on(parts.mesh):
            return compiled(state, batch)

    return step


def assert_close(got, want, tolerance=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, want)


def test_accumulated_equals_one_batch_with_ragged_weights(tiny_model, tiny_params, one_device, make_rows):
    batch = make_rows(0, 8)
    assert len(set(batch["loss_weights"].sum(1))) > 3
    results = []
    for microbatch_size in (None, 2):
        parts = make_parts(tiny_model, one_device, microbatch_size)
        run = jax.jit(functools.partial(accumulate, parts))
        with logical_axes_on(one_device):
            results.append(run(tiny_params, batch, parts.loss.counts(batch)))
    assert_close(results[1], results[0])


def test_a_batch_of_weight_zero_has_no_gradient(start, train_step, make_rows):
    _, metrics = train_step(start, make_rows(0, 2) | {"loss_weights": np.zeros((2, 16), np.float32)})
    assert float(metrics["loss"]) == 0 and float(metrics["grad_norm"]) == 0 and int(metrics["skipped"]) == 0


def test_the_loss_falls_and_the_log_is_right(start, train_step, make_rows):
    state, batch, log = start, make_rows(0, 2), []
    for _ in range(20):
        state, metrics = train_step(state, batch)
        log.append(jax.device_get(metrics))
    assert log[0]["loss"] == pytest.approx(np.log(64), abs=0.1)
    assert log[-1]["loss"] < log[0]["loss"] - 1
    assert log[-1]["learning_rate"] == pytest.approx(float(make_schedule(SCHEDULE)(19)))
    assert log[0]["num_tokens"] == batch["loss_weights"].sum()


def test_a_step_that_is_not_finite_changes_nothing_but_counts(start, train_step, make_rows):
    batch = make_rows(0, 2)
    broken = batch | {"loss_weights": np.where(batch["loss_weights"] > 0, np.float32(np.inf), 0)}
    before, _ = train_step(start, batch)
    after, _ = train_step(before, broken)
    after, metrics = train_step(after, broken)
    resumed, last = train_step(after, batch)
    for name in ("params", "opt_state", "ema_params"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(before, name))
    assert (int(after.step), int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (3, 2, 2)
    assert (int(resumed.step), int(last["skipped"]), int(last["skipped_in_a_row"])) == (4, 2, 0)
    # The schedule counts updates, as the optimizer does: two of four steps made none.
    assert float(last["learning_rate"]) == pytest.approx(float(make_schedule(SCHEDULE)(1)))


def test_offloaded_moments_stay_on_the_host(tiny_model, one_device, make_rows):
    parts = dataclasses.replace(make_parts(tiny_model, one_device), offload=True)
    abstract = abstract_state(tiny_model, parts.optimizer, False, one_device, offload=True)
    shardings = shardings_of(abstract)
    make = functools.partial(init_state, tiny_model, parts.optimizer, False)
    state = jax.jit(make, out_shardings=shardings)(jax.random.key(0))
    with logical_axes_on(one_device):
        step = jax.jit(make_train_step(parts), donate_argnums=0, out_shardings=(shardings, None))
        for _ in range(2):
            state, _ = step(state, make_rows(0, 2))
    kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim}
    assert kinds == {"pinned_host"}
    assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.params)} == {"device"}


def test_the_average_follows_the_weights(start, train_step, make_rows):
    after, _ = train_step(start, make_rows(0, 2))
    expected = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, start.params, after.params)
    assert_close(after.ema_params, expected)


def test_padded_evaluation_rows_do_not_count(parts, tiny_params, make_rows):
    batch = make_rows(0, 3)
    padded = {name: np.concatenate([rows, np.zeros_like(rows)]) for name, rows in batch.items()}
    with logical_axes_on(parts.mesh):
        eval_step = jax.jit(make_eval_step(parts.loss, parts.mesh))
        assert_close(eval_step(tiny_params, padded), eval_step(tiny_params, batch))


def test_evaluation_in_parts_equals_all_at_once(parts, tiny_params, make_rows):
    with logical_axes_on(parts.mesh):
        steps = [jax.jit(make_eval_step(parts.loss, parts.mesh, rows)) for rows in (None, 2, 4)]
        whole, twos, common_divisor = (step(tiny_params, make_rows(0, 6)) for step in steps)
    assert_close(twos, whole, 1e-5)
    assert_close(common_divisor, whole, 1e-5)


@pytest.mark.parametrize(
    ("batch_size", "microbatch_size", "message"),
    [
        (0, None, r"BATCH_SIZE 0 does not divide over 1 device \("),
        (6, 4, "MICROBATCH_SIZE 4 does not divide the batch: BATCH_SIZE 6 over 1 device is 6 rows each"),
        (1, 4, "BATCH_SIZE 1 over 1 device is 1 row each"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(one_device, batch_size, microbatch_size, message):
    with pytest.raises(UserError, match=message):
        num_microbatches(batch_size, microbatch_size, one_device)


def test_a_cpu_overwrites_the_moments_where_they_lie(parts, start, make_rows, monkeypatch):
    """Where a kernel might read the old ones after another overwrote them, XLA copies old ones or new ones."""
    kernel = start.params["layers"]["mlp"]["in"]["kernel"]

    def num_written() -> int:
        step = jit_train_step(parts, start).lower(start, make_rows(0, 2)).compile()
        main = step.as_text().split("ENTRY")[1]
        shape = re.escape("f32[{},{},{}]".format(*kernel.shape))
        return len(re.findall(rf"= {shape}\S* (?:copy|fusion)\(", main))

    def at_once(is_good, new, old, update, params):
        del update, params
        return jax.tree.map(lambda new, old: jax.numpy.where(is_good, new, old), new, old)

    in_place = num_written()
    monkeypatch.setattr(step_module, "_kept_unless", at_once)
    assert num_written() == in_place + 2
