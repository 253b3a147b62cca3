"""The model directory: written whole or not at all, read back on any device, refused with one line."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from t5x_code.checkpoints.manager import Checkpoint, CheckpointWriter
from t5x_code.checkpoints.model_directory import (
    ModelDescription,
    load_initial_params,
    read_description,
    read_model_directory,
    start_run_directory,
    write_model_directory,
)
from t5x_code.errors import UserError
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import init_params
from t5x_code.parallel.mesh import MeshConfig, make_mesh

CONFIG = TransformerConfig(
    num_layers=1, model_dim=16, num_heads=2, num_kv_heads=2, head_dim=8, mlp_dim=32, vocab_size=64, rotary_dim=4
)
DESCRIPTION = ModelDescription(CONFIG, begin_document=False, extra={"modality": [1, 2]})


@pytest.fixture(scope="module")
def params():
    return jax.jit(functools.partial(init_params, CONFIG))(jax.random.key(0))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def written(params, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    write_model_directory(folder, DESCRIPTION, jax.device_get(params), tokenizer)
    return folder


def test_what_is_read_is_what_was_written(written, params):
    for mesh in (None, make_mesh(MeshConfig(fsdp=1))):
        description, restored = read_model_directory(written, mesh=mesh)
        assert description == DESCRIPTION
        jax.tree.map(np.testing.assert_array_equal, restored, params)
    assert (written / "tokenizer" / "tokenizer.json").read_text() == "{}"
    assert sorted(path.name for path in written.parent.iterdir()) == ["model"]


def test_the_average_of_the_weights_is_taken_where_there_is_one(params, tmp_path):
    start_run_directory(tmp_path, DESCRIPTION, None, {"command.txt": "train"})
    average = jax.tree.map(lambda leaf: leaf / 2, params)
    with CheckpointWriter(tmp_path / "checkpoints") as writer:
        writer.save(3, Checkpoint(params, average))
    jax.tree.map(np.testing.assert_array_equal, read_model_directory(tmp_path)[1], average)
    jax.tree.map(np.testing.assert_array_equal, read_model_directory(tmp_path, use_ema=False)[1], params)
    with pytest.raises(UserError, match=r"no step 4; it has \[3\]"):
        read_model_directory(tmp_path, step=4)


def test_a_model_starts_another(written, params):
    same = dataclasses.replace(CONFIG, remat="full", loss_chunk=8)
    jax.tree.map(np.testing.assert_array_equal, load_initial_params(written, same), params)
    other = dataclasses.replace(CONFIG, mlp_dim=48)
    with pytest.raises(UserError, match=r"parameter layers/mlp/in/bias is \(1, 32\) there, \(1, 48\) in this recipe"):
        load_initial_params(written, other)


def test_what_is_no_model_directory_is_refused(written, tmp_path, tokenizer, params):
    with pytest.raises(UserError, match=r"no model directory: it has no model\.json"):
        read_model_directory(tmp_path)
    with pytest.raises(UserError, match="exists; choose another folder"):
        write_model_directory(written, DESCRIPTION, params, tokenizer)
    start_run_directory(tmp_path, DESCRIPTION, None, {})
    with pytest.raises(UserError, match="has no checkpoint yet"):
        read_model_directory(tmp_path)
    fields = json.loads(DESCRIPTION.to_json())
    fields["config"]["from_the_future"] = 1
    (tmp_path / "model.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"cannot be read by this version: .*from_the_future"):
        read_description(tmp_path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write to the run's folder .*; set MODEL_DIR to another"):
        start_run_directory(tmp_path / "file" / "run", DESCRIPTION, None, {})
