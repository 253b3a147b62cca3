"""Parameters written to and read from a checkpoint piece by piece, so that a model larger than memory can be converted.

A piece is one layer of a stacked parameter, or some of its rows. What is written is Orbax's own layout (zarr arrays
under the parameter's path and a description of the tree), so that whatever restores a training checkpoint restores
this one too.
"""

import dataclasses
import itertools
import json
import math
import queue
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath

from t5x_code.buckets import in_bucket
from t5x_code.checkpoints.checksums import write_checksums
from t5x_code.checkpoints.chunk_files import file_name, is_plain, map_rows
from t5x_code.checkpoints.copying import THREADS, ahead, aligned_empty, copy_into
from t5x_code.checkpoints.manager import METADATA, PARAMS, absolute_path
from t5x_code.errors import UserError
from t5x_code.file_checksum import write_summed

PIECE_BYTES = 16 << 20  # of a chunk on the disk

Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """An array that is made piece by piece when it is asked for."""

    shape: tuple[int, ...]
    read: Callable[[Index], np.ndarray]  # of a slice of each axis


def write_step(
    folder: epath.PathLike,
    params: Mapping[str, LazyArray],
    dtype: np.dtype,
    metadata: dict[str, Any],
    on_progress: Callable[[int], None] = lambda num_bytes: None,
) -> None:
    """Writes one step of a checkpoint with its checksums.

    Args:
        folder: of the step; is made. Its parent should bear a temporary name: a half-written step looks whole.
        params: by path, such as `layers/mlp/in/kernel`.
        dtype: that they are stored in.
        metadata: plain JSON.
        on_progress: called with the bytes just written.

    Raises:
        UserError: a number becomes infinite by the cast.
    """
    folder, dtype = epath.Path(folder), np.dtype(dtype)
    stand_ins = {tuple(path.split("/")): np.zeros(1, dtype) for path in params}  # right tree, wrong shapes
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
        checkpointer.save(absolute_path(folder) / PARAMS, args=ocp.args.PyTreeSave(_nested(stand_ins)))
    written = _write_arrays(folder / PARAMS, params, dtype, on_progress)
    (folder / METADATA).mkdir()
    (folder / METADATA / METADATA).write_text(json.dumps(metadata))
    write_checksums(folder, known={f"{PARAMS}/{name}": entry for name, entry in written.items()})


def _write_arrays(
    folder: epath.Path, params: Mapping[str, LazyArray], dtype: np.dtype, on_progress: Callable[[int], None]
) -> dict[str, tuple[int, int]]:
    """Writes arrays one after the other; returns size and CRC-32 of each of their chunks' files by its name.

    TensorStore describes the arrays. A chunk's file is its entries in C order, and is written by the thread that brings
    them into that order: by way of TensorStore they are copied once more, and read again for their checksums.
    """
    shapes = {path: _chunk_shape(path, array.shape, dtype.itemsize) for path, array in params.items()}
    buffers: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()  # new memory costs more than what is copied into it
    for _ in range(THREADS):
        buffers.put(aligned_empty((max(map(math.prod, shapes.values())),), dtype))

    # All at once, before the disk is busy: it answers late then, and what stood in for the arrays is removed from it.
    for created in [_create(folder, path, params[path].shape, chunk, dtype) for path, chunk in shapes.items()]:
        created.result()

    def chunks() -> Iterator[tuple[str, tuple[int, ...]]]:
        for path, array in params.items():
            counts = [-(-size // length) for size, length in zip(array.shape, shapes[path], strict=True)]
            yield from ((path, number) for number in np.ndindex(*counts))

    def write(chunk: tuple[str, tuple[int, ...]]) -> tuple[str, int, int]:
        path, number = chunk
        buffer = buffers.get()
        try:
            content = memoryview(_chunk_of(params[path], shapes[path], number, buffer).reshape(-1).view(np.uint8))
        except FloatingPointError:
            raise UserError(f"{path} has numbers that {dtype.name} cannot hold; take bfloat16") from None
        else:
            name = f"{_stored_name(path)}/{file_name(number)}"
            return name, len(content), write_summed(folder / name, content)
        finally:
            buffers.put(buffer)

    written = {}
    for name, size, crc in ahead(write, chunks()):
        written[name] = size, crc
        on_progress(size)
    return written


def _chunk_of(array: LazyArray, shape: Sequence[int], number: tuple[int, ...], buffer: np.ndarray) -> np.ndarray:
    """One chunk of an array in C order, in the buffer unless it is so already; zeros where it juts out of the array."""
    starts = [n * length for n, length in zip(number, shape, strict=True)]
    stops = [min(start + length, size) for start, length, size in zip(starts, shape, array.shape, strict=True)]
    piece = array.read(tuple(map(slice, starts, stops)))
    if piece.shape == tuple(shape) and piece.dtype == buffer.dtype and piece.flags.c_contiguous:
        return piece
    chunk = buffer[: math.prod(shape)].reshape(shape)
    if piece.shape != tuple(shape):
        chunk[...] = 0
    with np.errstate(over="raise"):
        copy_into(chunk[tuple(map(slice, piece.shape))], piece)
    return chunk


def _create(folder: epath.Path, path: str, shape: tuple[int, ...], chunk: list[int], dtype: np.dtype) -> ts.Future:
    """Begins to make an array on the disk that nothing has been written to."""
    spec = _spec(folder, path, use_ocdbt=False, use_zarr3=False)
    spec["metadata"] = {"chunks": chunk, "compressor": None}
    options = {"create": True, "delete_existing": True, "dtype": dtype.name, "shape": shape, "context": _context()}
    return ts.open(spec, **options)


def read_arrays(folder: epath.PathLike, step: int, item: str) -> dict[str, ts.TensorStore]:
    """The arrays of one tree of a step by path, opened and not read; arguments as in `manager.read_item`."""
    folder = epath.Path(folder) / str(step) / item
    description = json.loads((folder / "_METADATA").read_text())
    layout = {name: description.get(name, False) for name in ("use_ocdbt", "use_zarr3")}
    keys = (entry["key_metadata"] for entry in description["tree_metadata"].values())
    paths = ["/".join(str(key["key"]) for key in path) for path in keys]
    context = _context(file_io_mode={"mode": "memmap"})  # local files: read without a copy in between
    opening = {path: ts.open(_spec(folder, path, **layout), open=True, context=context) for path in paths}
    return {path: array.result() for path, array in opening.items()}


def read_whole(array: ts.TensorStore, shape: tuple[int, ...]) -> np.ndarray:
    """The first entries of an array along each axis; to be read, not to be written to.

    What is not mapped is read into memory that NumPy asks for, in huge pages: TensorStore's own costs more than what is
    read into it.
    """
    first = tuple(map(slice, shape))
    if is_plain(array, layered=False):
        return map_rows(array)[first]
    out = np.empty(shape, array.dtype.numpy_dtype)
    ts.array(out).write(array[first]).result()
    return out


def read_layers(array: ts.TensorStore) -> Iterator[np.ndarray]:
    """The layers of a stacked parameter, to be read: each is mapped, or a view that holds while `THREADS` - 1 more are
    asked for.

    What is not mapped is read chunk by chunk. Buffers take turns, as memory that a process has not had before costs
    more than what is read into it: one per layer that is held, one for the next, one that is read ahead.
    """
    if is_plain(array, layered=True):
        yield from ahead(lambda layer: map_rows(array, layer), range(array.shape[0]), number=1)
        return
    per_chunk = array.chunk_layout.read_chunk.shape[0]
    starts = range(0, array.shape[0], per_chunk)
    shape, dtype = (per_chunk, *array.shape[1:]), array.dtype.numpy_dtype
    buffers = [np.empty(shape, dtype) for _ in starts[: THREADS + 1]]

    def read_into(buffer: np.ndarray, start: int) -> np.ndarray:
        chunk = array[start : min(start + per_chunk, array.shape[0])]
        into = buffer[: chunk.shape[0]]
        ts.array(into).write(chunk[ts.d[:].translate_to[0]]).result()
        return into

    for layers in ahead(lambda item: read_into(*item), zip(itertools.cycle(buffers), starts), number=1):
        yield from layers


def _chunk_shape(path: str, shape: tuple[int, ...], itemsize: int) -> list[int]:
    """One layer of a stacked parameter, or as many rows of it as a piece has room for."""
    layered = path.startswith("layers/")
    rows_axis = 1 if layered else 0
    chunk = [1, *shape[1:]] if layered else list(shape)
    row_bytes = itemsize * math.prod(shape[rows_axis + 1 :])
    if rows_axis < len(shape):
        chunk[rows_axis] = min(shape[rows_axis], max(1, PIECE_BYTES // row_bytes))
    return chunk


def _spec(folder: epath.Path, path: str, use_ocdbt: bool, use_zarr3: bool) -> dict[str, Any]:
    """How TensorStore finds one array in Orbax's layout: its keys joined by dots."""
    root = str(folder) if in_bucket(folder) else f"file://{urllib.parse.quote(str(absolute_path(folder)))}"
    name = _stored_name(path)
    kvstore = {"driver": "ocdbt", "base": f"{root}/", "path": f"{name}/"} if use_ocdbt else f"{root}/{name}/"
    return {"driver": "zarr3" if use_zarr3 else "zarr", "kvstore": kvstore}


def _stored_name(path: str) -> str:
    """Orbax's name of a parameter's folder."""
    return path.replace("/", ".")


def _context(**more: Any) -> ts.Context:
    """No cache: what was written or read once is not needed again."""
    return ts.Context({"cache_pool": {"total_bytes_limit": 0}, **more})


def _nested(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for (*parents, last), leaf in flat.items():
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def place(array: LazyArray, dtype: np.dtype, sharding: jax.sharding.Sharding) -> jax.Array:
    """The array on devices; each reads its own share, piece by piece in threads."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: _gather(array, index, np.dtype(dtype)))


def _gather(array: LazyArray, index: Index, dtype: np.dtype) -> np.ndarray:
    """A slice of an array in C order, read in pieces along its first axis."""
    ranges = [range(*axis.indices(size)) for axis, size in zip(index, array.shape, strict=True)]
    out = aligned_empty(tuple(map(len, ranges)), dtype)
    if not out.ndim:
        out[...] = array.read(index)
        return out
    rows = max(1, PIECE_BYTES * len(out) // max(1, out.nbytes))

    def copy_rows(start: int) -> None:
        stop = min(start + rows, len(out))
        copy_into(out[start:stop], array.read((slice(ranges[0][start], ranges[0][stop - 1] + 1), *index[1:])))

    for _ in ahead(copy_rows, range(0, len(out), rows)):
        pass
    return out
