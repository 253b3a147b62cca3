"""safetensors files: read as views of a memory map, written a few tensors at a time, several shards at once.

The library reads a tensor into memory and writes a whole shard from memory; here neither a tensor nor a shard has to
fit. A file is 8 bytes (the header's length), a JSON header (type, shape and byte range of each tensor) and the bytes.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from t5x_code.checkpoints.copying import THREADS, ahead, contiguous
from t5x_code.errors import UserError

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
SHARD_BYTES = 1 << 30
ALIGNMENT = 8  # of the first tensor, as the library pads its header
WRITE_BYTES = 4 << 20  # of a tensor that a thread brings into order and writes at a time
PART_BYTES = 64 << 20  # of a tensor that one thread writes: the last one, often the largest, is written by all of them

DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
NAME_OF_DTYPE = {np.dtype(dtype): name for name, dtype in DTYPES.items()}

NamedShape = tuple[str, tuple[int, ...]]  # of a tensor


def read_safetensors_file(path: Path, whole: np.ndarray) -> dict[str, np.ndarray]:
    """The tensors of a file by name, as views of its bytes.

    Raises:
        UserError: the file is damaged, or a tensor is of a type that NumPy has not.
    """
    try:
        with safe_open(path, framework="numpy"):  # checks the header against itself and against the file's length
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); download it again") from error
    start = 8 + int(whole[:8].view("<u8")[0])
    header = json.loads(whole[8:start].tobytes())
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise UserError(f"{path}: tensor {name} is of type {entry['dtype']}; known are {', '.join(DTYPES)}")
        first, end = entry["data_offsets"]
        tensors[name] = whole[start + first : start + end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def write_safetensors(
    folder: Path,
    shapes: Sequence[NamedShape],
    tensors: Iterable[np.ndarray],
    dtype: np.dtype,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes tensors into an existing folder as transformers reads them.

    Args:
        folder: where to.
        shapes: name and shape of each tensor.
        tensors: in that order, cast to `dtype` as they are written; each is held while `THREADS` - 1 more are asked
            for.
        dtype: of all tensors.
        shard_bytes: there are so many shards that they have this size on average; one alone gets no index.

    Raises:
        UserError: a number becomes infinite by the cast.
    """
    dtype = np.dtype(dtype)
    shards = _deal(shapes, dtype, shard_bytes)
    files = [f"model-{n:05d}-of-{len(shards):05d}.safetensors" for n in range(1, len(shards) + 1)]
    files = files if len(files) > 1 else [SINGLE_FILE]
    with contextlib.ExitStack() as until_written:
        place_of = {}
        for file, shard in zip(files, shards, strict=True):
            handle = until_written.enter_context((folder / file).open("wb"))
            offset_of = _write_header(handle, shard, dtype)
            place_of.update({name: (handle.fileno(), offset) for name, offset in offset_of.items()})
        pool = until_written.enter_context(ThreadPoolExecutor(THREADS))

        def parts() -> Iterator[tuple[str, int, np.ndarray]]:
            for (name, shape), tensor in zip(shapes, tensors, strict=True):
                if tensor.shape != shape:
                    raise ValueError(f"{name} has shape {tensor.shape}, {shape} was announced")
                yield from ((name, *part) for part in _rows_of(tensor.reshape(shape or (1,)), dtype, PART_BYTES))

        def write(part: tuple[str, int, np.ndarray]) -> None:
            name, start, rows = part
            file, offset = place_of[name]
            try:
                _write_rows(file, offset + start, rows, dtype)
            except FloatingPointError:
                raise UserError(f"{name} has numbers that {dtype.name} cannot hold; take bfloat16") from None

        for _ in ahead(write, parts(), number=THREADS - 1, pool=pool):
            pass
    if len(shards) > 1:
        file_of = {name: file for file, shard in zip(files, shards, strict=True) for name, _ in shard}
        index = {"metadata": {"total_size": _total(shapes, dtype)}, "weight_map": file_of}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2))


def _deal(shapes: Sequence[NamedShape], dtype: np.dtype, shard_bytes: int) -> list[list[NamedShape]]:
    """The tensors of each shard: each goes to the one that has least, so that tensors that follow each other lie in
    different files. A system writes one file by one thread at a time, and lets the others wait at a core's expense."""
    number = min(len(shapes), -(-_total(shapes, dtype) // shard_bytes))
    shards: list[list[NamedShape]] = [[] for _ in range(number)]
    held = [0] * len(shards)
    for name, shape in shapes:
        least = held.index(min(held))
        shards[least].append((name, shape))
        held[least] += _size(shape, dtype)
    return shards


def _write_header(handle: BinaryIO, shard: Sequence[NamedShape], dtype: np.dtype) -> dict[str, int]:
    """Writes what stands before a file's tensors; returns where in the file each of them begins, by name."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shard:
        begin, end = end, end + _size(shape, dtype)
        header[name] = {"dtype": NAME_OF_DTYPE[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    text = len(text).to_bytes(8, "little") + text
    handle.write(text)
    handle.flush()
    return {name: len(text) + header[name]["data_offsets"][0] for name, _ in shard}


def _rows_of(tensor: np.ndarray, dtype: np.dtype, num_bytes: int) -> Iterator[tuple[int, np.ndarray]]:
    """A tensor in parts of at most so many bytes, or of a row, each with the bytes that lie before it in a file."""
    row_bytes = _size(tensor.shape[1:], dtype)
    rows = max(1, num_bytes // max(1, row_bytes))
    yield from ((start * row_bytes, tensor[start : start + rows]) for start in range(0, len(tensor), rows))


def _write_rows(file: int, offset: int, tensor: np.ndarray, dtype: np.dtype) -> None:
    """Writes a tensor at a place in a file, some rows at a time."""
    for start, rows in _rows_of(tensor, dtype, WRITE_BYTES):
        with np.errstate(over="raise"):
            piece = contiguous(rows, dtype)
        left, position = memoryview(piece.reshape(-1).view(np.uint8)), offset + start
        while left:
            written = os.pwrite(file, left, position)
            left, position = left[written:], position + written


def _total(shapes: Sequence[NamedShape], dtype: np.dtype) -> int:
    return sum(_size(shape, dtype) for _, shape in shapes)


def _size(shape: Sequence[int], dtype: np.dtype) -> int:
    return math.prod(shape) * dtype.itemsize
