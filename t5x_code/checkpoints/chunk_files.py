"""Arrays of a checkpoint as they lie in their files: what an import wrote is read without a copy.

The chunks of such an array are rows of it, or of one of its layers, in C order and not compressed: their files, mapped
one behind the other, are the array.
"""

import math
import mmap
from pathlib import Path

import numpy as np
import tensorstore as ts

from t5x_code.mapped_files import map_in_a_row


def is_plain(array: ts.TensorStore, layered: bool) -> bool:
    """Whether `map_rows` can read an array.

    Args:
        array: as it was opened, no part of it.
        layered: its first axis is one of layers.
    """
    spec = array.spec().to_json()
    metadata = spec.get("metadata", {})
    is_raw = (
        (spec["driver"], array.kvstore.spec().to_json()["driver"]) == ("zarr", "file")
        and (metadata["compressor"], metadata["filters"], metadata["order"]) == (None, None, "C")
        and metadata.get("dimension_separator", ".") == "."
        and not str(metadata["dtype"]).startswith(">")
    )
    chunk, axis = _chunk(array), int(layered)
    is_of_rows = chunk[:axis] == (1,) * axis and chunk[axis + 1 :] == array.shape[axis + 1 :]
    is_one = chunk[axis:] == array.shape[axis:]
    return is_raw and is_of_rows and (is_one or _chunk_bytes(array) % mmap.PAGESIZE == 0)


def map_rows(array: ts.TensorStore, layer: int | None = None) -> np.ndarray:
    """A plain array, or one layer of it, as a read-only view of its files.

    Raises:
        OSError: a file is missing, has another size or cannot be read.
    """
    from_layers = () if layer is None else (layer,)
    shape = array.shape[len(from_layers) :]
    rows = _chunk(array)[len(from_layers) :][:1]
    numbers = [(n,) + (0,) * (len(shape) - 1) for n in range(-(-shape[0] // rows[0]))] if shape else [()]
    folder = Path(array.kvstore.path)
    paths = [folder / file_name((*from_layers, *number)) for number in numbers]
    bytes_N = map_in_a_row(paths, _chunk_bytes(array))
    entries = bytes_N.view(array.dtype.numpy_dtype)
    return entries[: math.prod(shape)].reshape(shape)


def file_name(number: tuple[int, ...]) -> str:
    """Of a chunk, by its number along each axis, in the folder of its array."""
    return ".".join(map(str, number)) or "0"


def _chunk(array: ts.TensorStore) -> tuple[int, ...]:
    return array.chunk_layout.read_chunk.shape or ()  # None of a scalar


def _chunk_bytes(array: ts.TensorStore) -> int:
    return math.prod(_chunk(array)) * array.dtype.numpy_dtype.itemsize
