"""Arrays that are read piece by piece are placed on devices whole, whatever their order of axes."""

import collections
import time

import jax
import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import SingleDeviceSharding

from t5x_code.checkpoints import streaming
from t5x_code.checkpoints.copying import ALIGNMENT, THREADS, aligned_empty, contiguous, copy_into
from t5x_code.checkpoints.streaming import LazyArray, place, read_layers


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 2), max_size=3).flatmap(lambda axes: st.permutations([*axes, 300, 270])),
    st.integers(0, 100),
    st.sampled_from(["float32", "float16", "int8"]),
)
def test_copies_of_any_order_of_axes(shape, seed, dtype):
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 100, shape).astype(np.float32).transpose(rng.permutation(len(shape)))
    out = aligned_empty(array.shape, np.dtype(dtype))
    assert out.ctypes.data % ALIGNMENT == 0
    copy_into(out, array)
    for copy in (out, contiguous(array, np.dtype(dtype))):
        assert copy.flags.c_contiguous and copy.dtype == dtype
        np.testing.assert_array_equal(copy, array.astype(dtype))


@pytest.mark.parametrize("shape", [(), (1,), (7,), (6, 5), (3, 300, 270), (0, 4)])
@pytest.mark.parametrize("piece_bytes", [1, 300, 1 << 20])
def test_pieces_make_the_whole_and_are_small(shape, piece_bytes, monkeypatch):
    monkeypatch.setattr(streaming, "PIECE_BYTES", piece_bytes)
    whole = np.asarray(np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape[::-1]).T)
    asked = []

    def read(index):
        piece = whole[index]
        asked.append(piece.nbytes)
        return piece

    placed = place(LazyArray(shape, read), np.float32, SingleDeviceSharding(jax.devices()[0]))
    np.testing.assert_array_equal(placed, whole)
    row_bytes = whole.nbytes // max(1, len(whole)) if shape else 4
    assert max(asked, default=0) <= max(piece_bytes, row_bytes)
    if whole.ndim == 2 and whole.size:
        part = streaming._gather(LazyArray(shape, read), (slice(1, 4), slice(2, None)), np.dtype("float32"))
        np.testing.assert_array_equal(part, whole[1:4, 2:])


def test_what_was_read_is_not_copied_again():
    """On a CPU the device's buffer is the very memory that was read into."""
    made = []

    def remember(shape, dtype):
        made.append(aligned_empty(shape, dtype))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "aligned_empty", remember)
        whole = np.ones((64, 1024), np.float32)
        cpu = jax.devices("cpu")[0]
        placed = place(LazyArray(whole.shape, whole.__getitem__), np.float32, SingleDeviceSharding(cpu))
    assert placed.unsafe_buffer_pointer() == made[0].ctypes.data


@pytest.mark.parametrize("layers_per_chunk", [1, 2, 12])
def test_layers_are_read_in_order_and_held_while_others_are_read(layers_per_chunk, tmp_path):
    whole = np.arange(12 * 6 * 7, dtype=np.float32).reshape(12, 6, 7)
    spec = {"driver": "zarr", "kvstore": f"file://{tmp_path}/", "metadata": {"chunks": [layers_per_chunk, 6, 7]}}
    array = ts.open(spec, create=True, dtype="float32", shape=whole.shape).result()
    array.write(whole).result()
    places, held = set(), collections.deque(maxlen=THREADS)
    for n, layer in enumerate(read_layers(array)):
        held.append((n, layer))
        time.sleep(0.02)  # what is read ahead by now must not lie where one of these does
        for m, of_before in held:
            np.testing.assert_array_equal(of_before, whole[m])
        places.add(layer.ctypes.data)
    assert n == 11
    assert len(places) <= (THREADS + 1) * layers_per_chunk
