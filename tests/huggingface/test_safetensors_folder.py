"""Sharded and single-file folders, and folders that are not whole."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from t5x_code.errors import UserError
from t5x_code.huggingface.safetensors_folder import SafetensorsFolder, write_safetensors

TENSORS = {f"t{n}": np.random.default_rng(n).normal(size=(n + 1, 5)).astype(np.float32) for n in range(6)}


@pytest.mark.parametrize(("limit", "files"), [(1 << 20, 1), (200, 3), (1, 6)])
def test_written_tensors_are_read_back(tmp_path, limit, files):
    write_safetensors(tmp_path, TENSORS.items(), max_shard_bytes=limit)
    assert len(list(tmp_path.glob("*.safetensors"))) == files
    folder = SafetensorsFolder(tmp_path)
    assert set(folder) == set(TENSORS)
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(folder[name], tensor)


def test_a_tensor_is_found_by_transformers_layout(tmp_path):
    """The index names each tensor's file, as transformers wants it."""
    write_safetensors(tmp_path, TENSORS.items(), max_shard_bytes=200)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"]["t0"] == "model-00001-of-00003.safetensors"
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in TENSORS.values())


def test_bfloat16_is_read(tmp_path):
    tensor = np.arange(7).astype(ml_dtypes.bfloat16)
    save_file({"x": tensor}, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(SafetensorsFolder(tmp_path)["x"].astype(np.float32), np.arange(7))


def damage_shard(folder):
    (folder / "model-00002-of-00003.safetensors").write_bytes(b"\0" * 5)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: (folder / "model-00002-of-00003.safetensors").unlink(), "has no model-00002-of-00003"),
        (damage_shard, "model-00002-of-00003.safetensors is damaged"),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "index.json is damaged"),
        (lambda folder: (folder / "model.safetensors.index.json").unlink(), "has neither"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(tmp_path, break_it, message):
    write_safetensors(tmp_path, TENSORS.items(), max_shard_bytes=200)
    break_it(tmp_path)
    with pytest.raises(UserError, match=message):
        dict(SafetensorsFolder(tmp_path))


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        SafetensorsFolder(tmp_path / "nothing")
