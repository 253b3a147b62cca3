"""safetensors and torch files, sharded and single; folders that are not whole; pickles that hold more than tensors."""

import collections
import itertools
import json
import os
import time
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from t5x_code.checkpoints.copying import THREADS
from t5x_code.errors import UserError
from t5x_code.huggingface.safetensors_file import write_safetensors
from t5x_code.huggingface.weights_folder import WeightsFolder

TENSORS = {f"t{n}": np.random.default_rng(n).normal(size=(n + 1, 5)).astype(np.float32) for n in range(6)}


def write(folder, limit=200, dtype=np.float32):
    shapes = [(name, tensor.shape) for name, tensor in TENSORS.items()]
    write_safetensors(folder, shapes, TENSORS.values(), dtype, shard_bytes=limit)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("limit", "files"), [(1 << 20, 1), (200, 3), (1, 6)])
def test_the_library_reads_what_is_written(tmp_path, limit, files, dtype):
    limit = max(1, limit * np.dtype(dtype).itemsize // 4)
    write(tmp_path, limit, dtype)
    paths = sorted(tmp_path.glob("*.safetensors"))
    assert len(paths) == files
    read = {name: tensor for path in paths for name, tensor in safetensors.numpy.load_file(path).items()}
    ours = WeightsFolder(tmp_path)
    assert set(read) == set(TENSORS) == set(ours)
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(read[name], tensor.astype(dtype))
        np.testing.assert_array_equal(ours[name], tensor.astype(dtype))


def test_the_index_is_as_transformers_wants_it(tmp_path):
    write(tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"]["t0"] == "model-00001-of-00003.safetensors"
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in TENSORS.values())


def test_tensors_that_follow_each_other_lie_in_different_files_of_like_sizes(tmp_path):
    shapes = [("embedding", (64, 8)), *((f"layer{n}", (8, 8)) for n in range(24))]
    write_safetensors(tmp_path, shapes, (np.zeros(shape) for _, shape in shapes), np.float32, shard_bytes=1 << 11)
    file_of = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    sizes = [path.stat().st_size for path in tmp_path.glob("*.safetensors")]
    assert len(sizes) == len(set(file_of.values())) == 4
    assert max(sizes) - min(sizes) < 600  # a layer has 256 bytes, and its entry in the header some 70
    assert all(file_of[f"layer{n}"] != file_of[f"layer{n + 1}"] for n in range(23))


def test_a_tensors_memory_may_be_used_again_when_enough_others_were_asked_for(tmp_path, monkeypatch):
    """The tensors lie in as many buffers as threads, as `read_layers` has them, and take long to write."""
    shapes = [(f"t{n}", (4, 5)) for n in range(20)]
    buffers = [np.empty((4, 5), np.float32) for _ in range(THREADS)]

    def tensors():
        for n, buffer in zip(range(20), itertools.cycle(buffers), strict=False):
            buffer[...] = n
            yield buffer

    def slow(tensor, dtype):
        time.sleep(0.01)
        return np.array(tensor, dtype)

    monkeypatch.setattr("t5x_code.huggingface.safetensors_file.contiguous", slow)
    write_safetensors(tmp_path, shapes, tensors(), np.float32, shard_bytes=400)
    for name, tensor in WeightsFolder(tmp_path).items():
        np.testing.assert_array_equal(tensor, int(name[1:]))


def test_a_large_tensor_is_written_by_several_threads_some_rows_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("t5x_code.huggingface.safetensors_file.PART_BYTES", 300)
    monkeypatch.setattr("t5x_code.huggingface.safetensors_file.WRITE_BYTES", 100)
    turned = np.arange(611, dtype=np.float32).reshape(13, 47).T
    tensors = {"turned": turned, "one": np.float32(3).reshape(()), **TENSORS}
    shapes = [(name, tensor.shape) for name, tensor in tensors.items()]
    write_safetensors(tmp_path, shapes, tensors.values(), np.float32)
    read = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor)


@pytest.mark.parametrize("read_first", ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"])
def test_files_are_looked_for_in_transformers_order(tmp_path, read_first):
    """As after another save into the same folder: what it left behind has the same names and other weights."""
    order = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    for number, name in list(enumerate(order))[order.index(read_first) :]:
        write_one = torch.save if "bin" in name else safetensors.torch.save_file
        shard = f"shard{number}" if name.endswith("index.json") else name
        write_one({"weight": torch.full((2,), float(number))}, tmp_path / shard)
        if shard != name:
            (tmp_path / name).write_text(json.dumps({"weight_map": {"weight": shard}}))
    np.testing.assert_array_equal(WeightsFolder(tmp_path)["weight"], order.index(read_first))


def torch_state():
    """Every type and kind of view that state dicts have."""
    shared = torch.arange(24.0).reshape(4, 6)
    types = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8)
    state = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in types}
    views = {"transposed": shared.T, "part": shared[1:3, ::2], "same": shared, "scalar": torch.tensor(3.0)}
    return collections.OrderedDict(state | views | {"empty": torch.zeros(0, 3), "learned": torch.nn.Parameter(shared)})


def test_torch_files_are_read_without_torch(tmp_path):
    state = torch_state()
    torch.save(state, tmp_path / "pytorch_model.bin")
    ours = WeightsFolder(tmp_path)
    assert set(ours) == set(state)
    for name, tensor in state.items():
        assert ours[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(ours[name].astype(np.float32), tensor.detach().float().numpy())


def test_a_sharded_torch_checkpoint(tmp_path):
    for name in TENSORS:
        torch.save({name: torch.tensor(TENSORS[name])}, tmp_path / f"{name}.bin")
    index = {"weight_map": {name: f"{name}.bin" for name in TENSORS}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    ours = WeightsFolder(tmp_path)
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(ours[name], tensor)


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_a_pickle_with_code_in_it_is_not_run(tmp_path):
    torch.save({"weight": torch.ones(2), "more": Payload(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds the Python object posix\.system, .* is not opened"):
        WeightsFolder(tmp_path)
    assert not (tmp_path / "ran").exists()


def replace_pickle(path, old, new):
    """Rewrites a torch file with its pickle changed."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content.replace(old, new) if entry.endswith("data.pkl") else content)


def test_a_tensor_that_reaches_out_of_its_storage_is_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"weight": torch.arange(77.0)}, path)
    replace_pickle(path, b"KM\x85", b"K\xff\x85")  # its length, 77, becomes 255
    with pytest.raises(UserError, match="reaches out of its storage"):
        WeightsFolder(tmp_path)


def old_format(folder):
    torch.save({"weight": torch.ones(2)}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def not_tensors(folder):
    torch.save({"weight": torch.ones(2), "step": 3}, folder / "pytorch_model.bin")


def cut_torch_file(folder):
    torch.save({"weight": torch.ones(2000)}, folder / "pytorch_model.bin")
    os.truncate(folder / "pytorch_model.bin", 4000)


def cut_shard(folder):
    write(folder)
    os.truncate(folder / "model-00002-of-00003.safetensors", 250)


def remove_shard(folder):
    write(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()


def empty_index(folder):
    write(folder)
    (folder / "model.safetensors.index.json").write_text("{}")


def index_that_leads_out(folder):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"t": "../secret"}}))


def shard_of_another(folder):
    write(folder)
    safetensors.numpy.save_file({"t0": TENSORS["t1"]}, folder / "model-00003-of-00003.safetensors")


def flipped_bit_of_the_archive(folder):
    """Of what says in which way the pickle is packed."""
    torch.save({"weight": torch.ones(2)}, folder / "pytorch_model.bin")
    content = bytearray((folder / "pytorch_model.bin").read_bytes())
    content[content.index(b"PK\x01\x02") + 10] ^= 2
    (folder / "pytorch_model.bin").write_bytes(content)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (shard_of_another, "has two tensors .*, which differ, one of them in model-00003-of-00003.safetensors"),
        (flipped_bit_of_the_archive, "is damaged, or in torch's format before 1.6"),
        (remove_shard, "has no model-00002-of-00003"),
        (cut_shard, "model-00002-of-00003.safetensors is damaged"),
        (empty_index, "index.json is damaged"),
        (index_that_leads_out, r"has no \.\./secret"),
        (old_format, "is damaged, or in torch's format before 1.6"),
        (cut_torch_file, "is damaged, or in torch's format before 1.6"),
        (not_tensors, "holds no plain dict of tensors"),
        (lambda folder: None, "has neither model.safetensors nor pytorch_model.bin"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(tmp_path, make, says):
    make(tmp_path)
    with pytest.raises(UserError, match=says) as error:
        WeightsFolder(tmp_path)
    assert "\n" not in str(error.value)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        WeightsFolder(tmp_path / "nothing")
