"""Arrays as mapped files equal what TensorStore reads of them; what is laid out otherwise is left to it."""

import mmap

import numpy as np
import pytest
import tensorstore as ts

from t5x_code import mapped_files
from t5x_code.checkpoints.chunk_files import is_plain, map_rows

ROW = mmap.PAGESIZE // 4  # float32 entries of a page


def stored(folder, shape, chunk, stored_as="<f4", **metadata):
    spec = {"driver": "zarr", "kvstore": f"file://{folder}/"}
    spec["metadata"] = {"chunks": chunk, "compressor": None, "dtype": stored_as, **metadata}
    array = ts.open(spec, create=True, shape=shape).result()
    entries = np.random.default_rng(0).integers(0, 100, shape).astype(array.dtype.numpy_dtype)
    array.write(entries).result()
    return array, entries


@pytest.mark.parametrize("stored_as", ["<f4", "bfloat16", "<f2"])
@pytest.mark.parametrize(
    ("shape", "chunk"),
    [([], []), ([5], [5]), ([5, 7], [5, 7]), ([9, 2 * ROW], [4, 2 * ROW]), ([4, 3, 2 * ROW], [1, 3, 2 * ROW])],
)
def test_a_whole_array(shape, chunk, stored_as, tmp_path):
    array, entries = stored(tmp_path, shape, chunk, stored_as)
    assert is_plain(array, layered=False)
    mapped = map_rows(array)
    assert mapped.dtype == entries.dtype and not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, entries)


@pytest.mark.parametrize(
    ("shape", "chunk"), [([3], [1]), ([3, 5], [1, 5]), ([3, 5, ROW], [1, 2, ROW]), ([3, 4, 5, 6], [1, 4, 5, 6])]
)
@pytest.mark.parametrize("is_old_system", [False, True])
def test_layers_one_by_one(shape, chunk, is_old_system, tmp_path, monkeypatch):
    if is_old_system:
        monkeypatch.setattr(mapped_files, "MADV_POPULATE_READ", -1)
    array, entries = stored(tmp_path, shape, chunk)
    assert is_plain(array, layered=True)
    layers = [map_rows(array, layer) for layer in range(3)]
    np.testing.assert_array_equal(np.stack(layers), entries)


@pytest.mark.parametrize(
    ("shape", "chunk", "metadata"),
    [
        ([6, ROW], [2, ROW], {"compressor": {"id": "zlib"}}),
        ([6, ROW], [2, ROW], {"order": "F"}),
        ([6, ROW], [2, ROW], {"dtype": ">f4"}),
        ([6, ROW], [2, ROW], {"dimension_separator": "/"}),
        ([6, ROW], [2, ROW // 2], {}),
        ([6, 100], [2, 100], {}),  # files of no whole pages
    ],
)
def test_other_layouts_are_not_plain(shape, chunk, metadata, tmp_path):
    array, _ = stored(tmp_path, shape, chunk, **metadata)
    assert not is_plain(array, layered=False)


def test_a_file_that_is_cut_or_gone_is_an_error(tmp_path):
    array, _ = stored(tmp_path, [4, ROW], [2, ROW])
    (tmp_path / "1.0").write_bytes(b"cut")
    with pytest.raises(OSError, match=f"has not its {2 * mmap.PAGESIZE} bytes"):
        map_rows(array)
    (tmp_path / "1.0").unlink()
    with pytest.raises(FileNotFoundError):
        map_rows(array)
