"""safetensors files: read as views of a memory map, written one tensor at a time, in shards of bounded size.

The library reads a tensor into memory and writes a whole shard from memory; here neither a tensor nor a shard has to
fit. A file is 8 bytes (the header's length), a JSON header (type, shape and byte range of each tensor) and the bytes.
"""

import json
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from t5x_code.checkpoints.copying import THREADS, ahead, contiguous
from t5x_code.errors import UserError

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
MAX_SHARD_BYTES = 4 << 30
ALIGNMENT = 8  # of the first tensor, as the library pads its header
WRITE_BYTES = 4 << 20  # of a tensor that are brought into order at a time, some while others are written

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
    shapes: Sequence[tuple[str, tuple[int, ...]]],
    tensors: Iterable[np.ndarray],
    dtype: np.dtype,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes tensors into an existing folder as transformers reads them.

    Args:
        folder: where to.
        shapes: name and shape of each tensor.
        tensors: in that order, taken one at a time; cast to `dtype` as they are written.
        dtype: of all tensors.
        max_shard_bytes: a shard ends before it would exceed this; one shard alone gets no index.

    Raises:
        UserError: a number becomes infinite by the cast.
    """
    dtype = np.dtype(dtype)
    sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in shapes}
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    held = 0
    for name, shape in shapes:
        if shards[-1] and held + sizes[name] > max_shard_bytes:
            shards.append([])
            held = 0
        shards[-1].append((name, shape))
        held += sizes[name]
    waiting = iter(tensors)
    file_of = {}
    for number, shard in enumerate(shards, 1):
        file = SINGLE_FILE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / file, shard, waiting, dtype)
        file_of.update({name: file for name, _ in shard})
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": file_of}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2))


def _write_file(
    path: Path, shard: list[tuple[str, tuple[int, ...]]], tensors: Iterable[np.ndarray], dtype: np.dtype
) -> None:
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shard:
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": NAME_OF_DTYPE[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    text = len(text).to_bytes(8, "little") + text
    with path.open("wb") as handle, ThreadPoolExecutor(THREADS) as pool:
        handle.write(text)
        handle.flush()
        offset = len(text)
        for (name, shape), tensor in zip(shard, tensors, strict=False):  # the rest is the next file's
            if tensor.shape != shape:
                raise ValueError(f"{name} has shape {tensor.shape}, {shape} was announced")
            try:
                _write_tensor(handle.fileno(), offset, tensor.reshape(1) if not shape else tensor, dtype, pool)
            except FloatingPointError:
                raise UserError(f"{name} has numbers that {dtype.name} cannot hold; take bfloat16") from None
            offset += tensor.size * dtype.itemsize


def _write_tensor(file: int, offset: int, tensor: np.ndarray, dtype: np.dtype, pool: ThreadPoolExecutor) -> None:
    """Writes a tensor at a place in a file; its rows are brought into order and written in threads."""
    row_bytes = math.prod(tensor.shape[1:]) * dtype.itemsize
    rows = max(1, WRITE_BYTES // max(1, row_bytes))

    def write_rows(start: int) -> None:
        with np.errstate(over="raise"):
            piece = contiguous(tensor[start : start + rows], dtype)
        left, place = memoryview(piece.reshape(-1).view(np.uint8)), offset + start * row_bytes
        while left:
            written = os.pwrite(file, left, place)
            left, place = left[written:], place + written

    for _ in ahead(write_rows, range(0, len(tensor), rows), pool=pool):
        pass
