"""The model directory: written whole or not at all, read back on any device, refused with one line."""

import dataclasses
import errno
import functools
import json
import os

import jax
import numpy as np
import pytest
from etils import epath

from t5x_code.checkpoints.manager import PARAMS, Checkpoint, CheckpointWriter, read_item
from t5x_code.checkpoints.model_directory import (
    MODALITY,
    ModelDescription,
    abstract_params,
    load_initial_params,
    read_description,
    read_model_directory,
    read_params,
    refuse_other_model,
    start_run_directory,
    write_model_directory,
)
from t5x_code.checkpoints.streaming import LazyArray
from t5x_code.errors import UserError
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import init_params
from t5x_code.models.modality import VocabularySplit, split_config
from t5x_code.parallel.mesh import MeshConfig, make_mesh

CONFIG = TransformerConfig(
    num_layers=1, model_dim=16, num_heads=2, num_kv_heads=2, head_dim=8, mlp_dim=32, vocab_size=64, rotary_dim=4
)
DESCRIPTION = ModelDescription(CONFIG, begin_document=False, extra={"numbers": [1, 2]})


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
    kept = read_item(tmp_path / "checkpoints", 3, PARAMS, abstract_params(CONFIG, None))
    jax.tree.map(np.testing.assert_array_equal, kept, params)
    with pytest.raises(UserError, match=r"no step 4; it has \[3\]"):
        read_model_directory(tmp_path, step=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 2}, r"layers/attention/\S+ is \(1, \S.*\) there, model.json says \(2, "),
        ({"vocab_multiple": 3000}, r"embedding/kernel is \(128, 16\) there, model.json says \(3000, 16\)"),
        ({"qkv_bias": True}, r"key/bias is absent there, model.json says \(1, "),
        ({"head_bias": False}, r"head/bias is \(128,\) there, model.json says absent"),
    ],
)
def test_a_description_of_another_model_is_refused_before_anything_is_read(written, params, tmp_path, change, message):
    other = dataclasses.replace(CONFIG, **change)
    with pytest.raises(UserError, match=f"checkpoints/0 is damaged or of another model: parameter .*{message}"):
        read_params(written, other)
    with CheckpointWriter(tmp_path / "checkpoints") as writer:  # as a run writes it, with an average that is read
        writer.save(3, Checkpoint(params, params))
    with pytest.raises(UserError, match=f"checkpoints/3 is damaged or of another model: parameter .*{message}"):
        read_params(tmp_path, other)
    assert read_params(tmp_path, CONFIG)[0] == 3


def test_a_model_starts_another(written, params):
    same = dataclasses.replace(CONFIG, remat="full", loss_chunk=8)
    jax.tree.map(np.testing.assert_array_equal, load_initial_params(written, same), params)
    other = dataclasses.replace(CONFIG, mlp_dim=48)
    with pytest.raises(UserError, match=r"parameter layers/mlp/in/bias is \(1, 32\) there, \(1, 48\) in this recipe"):
        load_initial_params(written, other)


def test_all_but_the_vocabulary_is_compared_before_that_is_known(written):
    smaller = dataclasses.replace(CONFIG, vocab_size=50, lora_rank=2)  # rows that a split is still to add
    refuse_other_model(written, smaller, knows_vocabulary=False)
    with pytest.raises(UserError, match="it has a vocabulary of 64, this recipe of 50"):
        refuse_other_model(written, smaller)
    with pytest.raises(UserError, match="parameter layers/mlp/in/bias is"):
        refuse_other_model(written, dataclasses.replace(smaller, mlp_dim=48), knows_vocabulary=False)


def rows_of_tokens(params):
    """Every array that has a row for each token, tokens first."""
    return params["embedding"]["kernel"], params["head"]["kernel"].T, params["head"]["bias"]


def check_grown_by_means(new, old, size: int):
    """Rows from 64 to `size` are the mean of the 64 old ones, which stay."""
    np.testing.assert_array_equal(new[:64], old[:64])
    mean = np.asarray(old[:64], np.float64).mean(0)
    np.testing.assert_allclose(new[64:size], np.broadcast_to(mean, new[64:size].shape), atol=1e-7)


def test_new_tokens_start_as_the_mean_of_the_old(written, params):
    grown = dataclasses.replace(CONFIG, vocab_size=200, vocab_multiple=64)
    for mesh in (None, make_mesh(MeshConfig())):
        got = load_initial_params(written, grown, mesh)
        abstract = abstract_params(grown, mesh)
        assert jax.tree.map(lambda leaf: leaf.shape, got) == jax.tree.map(lambda leaf: leaf.shape, abstract)
        assert jax.tree.map(lambda leaf: leaf.sharding, got) == jax.tree.map(lambda leaf: leaf.sharding, abstract)
        jax.tree.map(np.testing.assert_array_equal, got["layers"], params["layers"])
        for new, old in zip(rows_of_tokens(got), rows_of_tokens(params), strict=True):
            check_grown_by_means(new, old, 200)
            assert not np.asarray(new[200:]).any()
    with pytest.raises(UserError, match="it has a vocabulary of 64, this recipe of 50"):
        load_initial_params(written, dataclasses.replace(CONFIG, vocab_size=50))


def test_words_that_a_split_adds_start_as_the_mean_and_their_rows_for_code_as_copies(written, params):
    """Partial separation of a vocabulary of 64 that lacks six forms: two rows each, and one for a form that it has."""
    sources = (3, *range(64, 70))
    split = VocabularySplit(70, sources, np.ones((2, 77), bool), (1,))
    for mesh in (None, make_mesh(MeshConfig())):
        got = load_initial_params(written, split_config(dataclasses.replace(CONFIG, vocab_size=70), split), mesh, split)
        for new, old in zip(rows_of_tokens(got), rows_of_tokens(params), strict=True):
            check_grown_by_means(new, old, 70)
            np.testing.assert_array_equal(new[70:77], new[np.array(sources)])


def test_a_split_vocabulary_starts_none_that_is_split_otherwise(params, tokenizer, tmp_path):
    """64 rows: 50 of all tokens and 14 of code. Two more tokens move the latter; without a split they mean nothing."""
    tables = {"separation": "partial", "base_vocab_size": 50, "sources": list(range(14))}
    description = dataclasses.replace(DESCRIPTION, extra={MODALITY: tables})
    write_model_directory(tmp_path / "split", description, jax.device_get(params), tokenizer)

    def start(config, split):
        return load_initial_params(tmp_path / "split", config, split=split)

    def split_of(base: int, sources: range) -> VocabularySplit:
        return VocabularySplit(base, tuple(sources), np.ones((2, base + len(sources)), bool), (1,))

    same = split_of(50, range(14))
    jax.tree.map(np.testing.assert_array_equal, start(CONFIG, same), params)
    grown = dataclasses.replace(CONFIG, vocab_size=66)
    for config, split in ((grown, split_of(52, range(14))), (CONFIG, split_of(50, range(1, 15))), (grown, None)):
        with pytest.raises(UserError, match=r"14 rows for code beside 50\), this .* MODALITY_SEPARATION='partial'"):
            start(config, split)


def test_a_model_that_is_larger_than_what_is_split_is_refused(written):
    split = VocabularySplit(60, tuple(range(10)), np.ones((2, 70), bool), (1,))
    with pytest.raises(UserError, match="it has a vocabulary of 64, this recipe of 60"):
        load_initial_params(written, dataclasses.replace(CONFIG, vocab_size=70), split=split)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_pieces_make_the_whole_in_any_type(params, tokenizer, tmp_path, monkeypatch, dtype):
    """Small pieces, so that every axis is cut; restored as float32, sharded and not."""
    monkeypatch.setattr("t5x_code.checkpoints.streaming.PIECE_BYTES", 300)
    write_model_directory(tmp_path / "model", DESCRIPTION, params, tokenizer, np.dtype(dtype))
    rounded = jax.tree.map(lambda leaf: leaf.astype(dtype).astype(np.float32), params)
    for mesh in (None, make_mesh(MeshConfig())):
        _, restored = read_model_directory(tmp_path / "model", mesh=mesh)
        jax.tree.map(np.testing.assert_array_equal, restored, rounded)
        assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(restored))


def test_a_piece_that_is_damaged_or_gone_is_found(params, tokenizer, tmp_path):
    write_model_directory(tmp_path / "model", DESCRIPTION, params, tokenizer)
    arrays = tmp_path / "model/checkpoints/0/params/layers.mlp.in.kernel"
    (chunk,) = [path for path in arrays.iterdir() if not path.name.startswith(".")]
    content = bytearray(chunk.read_bytes())
    content[7] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole"):
        read_model_directory(tmp_path / "model")
    with pytest.raises(UserError, match=r"checkpoint .*0 is damaged: .* checksum differs"):
        read_model_directory(tmp_path / "model", step=0)


def test_a_source_that_breaks_half_way_leaves_nothing_behind(params, tokenizer, tmp_path):
    def broken(index):
        raise OSError("the disk that is read from has gone")

    broken_params = {**params, "embedding": {"kernel": LazyArray((128, 16), broken)}}
    with pytest.raises(UserError, match=r"cannot write .*the disk that is read from has gone"):
        write_model_directory(tmp_path / "model", DESCRIPTION, broken_params, tokenizer)
    assert not any(tmp_path.iterdir())


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
    fields["config"].pop("from_the_future")
    (tmp_path / "model.json").write_text(json.dumps({**fields, "extra": 3}))
    with pytest.raises(UserError, match=r"model\.json is damaged: its extra is 3, not an object"):
        read_description(tmp_path)
    (tmp_path / "model.json").unlink()
    (tmp_path / "model.json").mkdir()
    with pytest.raises(UserError, match=r"model\.json is a folder, not the description of a model"):
        read_description(tmp_path)


def test_what_a_run_says_of_itself_is_never_half_written(tmp_path, monkeypatch):
    start_run_directory(tmp_path, DESCRIPTION, None, {"config.gin": "first"})
    path_type = type(epath.Path(tmp_path))
    write = path_type.write_bytes

    def fill_the_disk(path, content):
        write(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(path_type, "write_bytes", fill_the_disk)
    with pytest.raises(UserError, match="No space left"):
        start_run_directory(tmp_path, DESCRIPTION, None, {"config.gin": "second"})
    assert (tmp_path / "config.gin").read_text() == "first" and read_description(tmp_path) == DESCRIPTION


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write to the run's folder .*; set MODEL_DIR to another"):
        start_run_directory(tmp_path / "file" / "run", DESCRIPTION, None, {})
