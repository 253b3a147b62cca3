"""What is saved is the state at the save, although the next steps are given its memory while it is written."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from t5x_code.checkpoints.manager import CheckpointWriter
from t5x_code.checkpoints.model_directory import ModelDescription, write_model_directory
from t5x_code.errors import UserError
from t5x_code.training.resume import checkpoint_of, find_start, model_facts
from t5x_code.training.state import TrainState, state_of_params

NUM_STEPS = 12
SAVED = (1, 5, 9)


def fresh_state() -> TrainState:
    """Large enough that steps go on for as long as the writing does."""
    zeros = [jnp.zeros((), jnp.int32) for _ in range(3)]
    kernel = jnp.arange(4_000_000, dtype=jnp.float32).reshape(2000, 2000)
    return TrainState(zeros[0], {"kernel": kernel}, {"kernel": kernel + 1}, {"kernel": kernel + 2}, *zeros[1:])


def next_state(state: TrainState) -> TrainState:
    return jax.tree.map(lambda leaf: leaf + 3, state)


def test_donated_memory_does_not_reach_the_disk(tmp_path):
    step = jax.jit(next_state, donate_argnums=0)
    state = step(fresh_state())
    deleted = []
    with CheckpointWriter(tmp_path / "checkpoints", keep_last=NUM_STEPS) as writer:
        for number in range(1, NUM_STEPS):
            if number in SAVED:
                writer.save(number, checkpoint_of(state, {"step": number}))
            before = state.params["kernel"]
            state = step(state)
            deleted.append(before.is_deleted())
    # Steps take their memory over; but for the arrays that a CPU's save still reads, of which JAX then makes a copy.
    assert sum(deleted) >= len(deleted) - len(SAVED)
    kernel = np.arange(4_000_000, dtype=np.float32).reshape(2000, 2000)  # whole numbers: exact in float32
    with ocp.StandardCheckpointer() as checkpointer:
        for number in SAVED:
            folder = tmp_path / "checkpoints" / str(number)
            saved = {item: checkpointer.restore(folder / item) for item in ("params", "ema_params", "training")}
            np.testing.assert_array_equal(saved["params"]["kernel"], kernel + 3 * number)
            np.testing.assert_array_equal(saved["ema_params"]["kernel"], kernel + 3 * number + 2)
            np.testing.assert_array_equal(saved["training"]["opt_state"]["kernel"], kernel + 3 * number + 1)
            assert saved["training"]["step"] == 3 * number


def test_no_step_that_is_whole_is_an_error_not_a_fresh_start(tmp_path, tiny_model, one_device):
    (tmp_path / "checkpoints" / "7").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole"):
        find_start(tmp_path, tiny_model, optax.sgd(0.1), False, one_device, 0, {})


def test_a_model_that_computes_otherwise_is_refused_or_named(tmp_path, tiny_model, tiny_params, one_device):
    (tmp_path / "tokenizer").mkdir()
    write_model_directory(tmp_path / "imported", ModelDescription(tiny_model), tiny_params, tmp_path / "tokenizer")

    def start(**changes):
        model = dataclasses.replace(tiny_model, **changes)
        source = str(tmp_path / "imported")
        return find_start(tmp_path / "run", model, optax.sgd(0.1), False, one_device, 0, {}, initialize_from=source)

    assert start(dtype="bfloat16").origin.endswith("imported")
    adapted = start(rope_base=1e6, norm_epsilon=0.1).origin
    assert "whose recipe differs: norm_epsilon 1e-05 -> 0.1, rope_base 10000.0 -> 1000000.0" in adapted
    adapter = start(lora_rank=2).state.params["layers"]["mlp"]["in"]
    assert adapter["lora_in"].any() and not adapter["lora_out"].any()  # fresh: the model there has none
    others = {"position_encoding": "rope_half", "rotary_dim": 4, "mlp": "gelu", "scale_attention": False}
    for name, value in others.items():
        with pytest.raises(UserError, match=f"{name} is .* there, {value} in this recipe"):
            start(**{name: value})


def test_a_run_may_begin_an_average_later_and_lengthen_what_has_no_parameter(
    tmp_path, tiny_model, tiny_params, one_device
):
    optimizer = optax.adam(0.1)
    state = state_of_params(tiny_params, optimizer, with_ema=False)
    learned = dataclasses.replace(tiny_model, position_encoding="learned")
    queried = dataclasses.replace(tiny_model, top_query_layer=True)  # its queries are learned positions
    for name, model in (("rotary", tiny_model), ("learned", learned), ("queried", queried)):
        folder = tmp_path / name
        metadata = {"rows_consumed": 7, "data": {}, "model": model_facts(model)}
        with CheckpointWriter(folder / "checkpoints") as writer:
            writer.save(3, checkpoint_of(state, metadata))
    longer = dataclasses.replace(tiny_model, max_length=32)
    start = find_start(tmp_path / "rotary", longer, optimizer, True, one_device, 0, {})
    assert (start.step, start.rows_consumed) == (3, 7)
    jax.tree.map(np.testing.assert_array_equal, start.state.ema_params, tiny_params)
    for name, model in (("learned", learned), ("queried", queried)):
        longer = dataclasses.replace(model, max_length=32)
        with pytest.raises(UserError, match="is of another model: max_length 16 -> 32"):
            find_start(tmp_path / name, longer, optimizer, False, one_device, 0, {})


def test_a_run_starts_from_a_model_with_fewer_tokens_and_says_so(tmp_path, tiny_model, tiny_params, one_device):
    smaller = dataclasses.replace(tiny_model, vocab_size=50)
    (tmp_path / "tokenizer").mkdir()
    write_model_directory(tmp_path / "imported", ModelDescription(smaller), tiny_params, tmp_path / "tokenizer")
    arguments = (tiny_model, optax.sgd(0.1), False, one_device, 0, {})
    start = find_start(tmp_path / "run", *arguments, initialize_from=str(tmp_path / "imported"))
    assert start.step == 0 and start.origin.endswith("; 14 new tokens start as the mean of its 50")
    kernel = np.asarray(start.state.params["embedding"]["kernel"])
    np.testing.assert_allclose(kernel[50:], np.broadcast_to(kernel[:50].mean(0), kernel[50:].shape), atol=1e-6)
    with pytest.raises(UserError, match="is an imported model's, not a run's; set INITIALIZE_FROM"):
        find_start(tmp_path / "imported", *arguments)
