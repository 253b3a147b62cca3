"""Imported, trained three steps, exported: what transformers then computes is what we compute."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import torch
import transformers
from numpy_decoder import pangu_logits
from random_models import (
    CLASSES,
    LENGTH,
    our_logits,
    random_hf_config,
    random_rows,
    random_tensors,
    random_torch_model,
)

from t5x_code.checkpoints.model_directory import (
    ModelDescription,
    load_initial_params,
    read_description,
    read_model_directory,
    write_model_directory,
)
from t5x_code.huggingface.conversion import export_model, import_model
from t5x_code.huggingface.safetensors_file import write_safetensors
from t5x_code.huggingface.weights_folder import WeightsFolder
from t5x_code.models.decoder import logical_axes
from t5x_code.parallel.mesh import MeshConfig, make_mesh
from t5x_code.parallel.rules import logical_axes_on
from t5x_code.training.losses import LossConfig, next_token_loss
from t5x_code.training.optimizer import OptimizerConfig, make_optimizer
from t5x_code.training.schedules import ScheduleConfig, make_schedule
from t5x_code.training.state import state_of_params
from t5x_code.training.step import StepParts, make_train_step

IN_DEFAULT_RUN, IN_SLOW_RUN = ("starcoder2",), ("codegen", "llama", "pangu_alpha")


def marks_of(family: str) -> list[pytest.MarkDecorator]:
    """How often it runs."""
    if family in IN_DEFAULT_RUN:
        return []
    return [pytest.mark.slow if family in IN_SLOW_RUN else pytest.mark.soak]


FAMILIES = [pytest.param(name, marks=marks_of(name)) for name in (*CLASSES, "pangu_alpha")]
STEPS = 3


def save_random_checkpoint(family, folder):
    if family in CLASSES:
        random_torch_model(family, 2).save_pretrained(folder)
        return
    hf = random_hf_config(family, 2) | {"model_type": family}
    tensors = random_tensors(family, hf, 2)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(hf))
    write_safetensors(folder, [(name, tensor.shape) for name, tensor in tensors.items()], tensors.values(), np.float32)


def train(config, params):
    """STEPS steps of Adam on one batch of random rows; the loss of each."""
    mesh = make_mesh(MeshConfig(fsdp=1), jax.devices()[:1])
    optimizer_config = OptimizerConfig(schedule=ScheduleConfig("constant", 1e-2))
    optimizer = make_optimizer(optimizer_config, logical_axes(config))
    loss = next_token_loss(config, LossConfig(), mesh)
    step = make_train_step(StepParts(loss, optimizer, make_schedule(optimizer_config.schedule), None, None, mesh))
    rows, _ = random_rows(config.vocab_size)
    batch = {name: np.asarray(array, np.int32) for name, array in rows.items()}
    batch["targets"] = np.roll(batch["inputs"], -1, axis=1)
    batch["loss_weights"] = np.ones((3, LENGTH), np.float32)
    losses = []
    with logical_axes_on(mesh):
        state = jax.jit(lambda params: state_of_params(params, optimizer, False))(params)
        step = jax.jit(step)
        for _ in range(STEPS):
            state, metrics = step(state, batch)
            losses.append(float(metrics["loss"]))
    return state.params, losses


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_trained_here_computes_the_same_there(family, tmp_path):
    save_random_checkpoint(family, tmp_path / "theirs")
    import_model(str(tmp_path / "theirs"), str(tmp_path / "ours"))
    config = dataclasses.replace(read_description(tmp_path / "ours").config, dtype="float32")
    before = load_initial_params(tmp_path / "ours", config)
    trained, losses = train(config, before)
    assert losses[-1] < losses[0] - 0.1
    # A run does not say a family: the decoder does.
    write_model_directory(tmp_path / "run", ModelDescription(config), trained, tmp_path / "ours/tokenizer")
    export_model(str(tmp_path / "run"), str(tmp_path / "back"))
    rows, _ = random_rows(config.vocab_size)
    got = our_logits(config, read_model_directory(tmp_path / "run")[1], rows)[0]
    if family in CLASSES:
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
        with torch.no_grad():
            want = model(torch.tensor(rows["inputs"][:1])).logits[0].numpy()
    else:
        hf = json.loads((tmp_path / "back/config.json").read_text())
        sees = np.tri(LENGTH, dtype=bool)
        want = pangu_logits(hf, WeightsFolder(tmp_path / "back"), rows["inputs"][0], np.arange(LENGTH), sees)
    np.testing.assert_allclose(got, want, atol=1e-4, rtol=0)
