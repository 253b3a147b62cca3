"""Copies of large arrays: in another order of axes at the speed of memory, some ahead of their use, in threads."""

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

THREADS = 4  # NumPy copies outside the interpreter's lock
ALIGNMENT = 64  # bytes: JAX takes a NumPy array that is aligned so for its own on a CPU, and copies any other
BLOCK = 128  # entries along each of the two axes: read and written lines of both sides fit the cache

Item, Result = TypeVar("Item"), TypeVar("Result")


def contiguous(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array in C order and of a type; itself where it is so already.

    NumPy's own copy of a transposed matrix reads or writes one entry per cache line, five times slower than this one,
    which goes block by block over the axis that is contiguous in the source and the last axis.
    """
    array = np.asarray(array)
    if _blocked_axes(array) is None:
        return np.ascontiguousarray(array, dtype)
    out = np.empty(array.shape, dtype)
    copy_into(out, array)
    return out


def copy_into(out: np.ndarray, array: np.ndarray) -> None:
    """Copies an array of any order of axes into one of the same shape in C order, as fast as `contiguous`."""
    axes = _blocked_axes(array)
    if axes is None:
        out[...] = array
        return
    blocks = [_blocks(size) if axis in axes else range(size) for axis, size in enumerate(array.shape)]
    for index in itertools.product(*blocks):
        out[index] = array[index]


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """`np.empty` that begins at a multiple of `ALIGNMENT`."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    bytes_N = np.empty(size + ALIGNMENT, np.uint8)
    start = -bytes_N.ctypes.data % ALIGNMENT
    return bytes_N[start : start + size].view(dtype).reshape(shape)


def _blocked_axes(array: np.ndarray) -> tuple[int, int] | None:
    """The axis that is contiguous in the source, and the last; None where NumPy's own copy is as fast."""
    source_axis = min(range(array.ndim), key=lambda axis: (array.shape[axis] < 2, abs(array.strides[axis])), default=0)
    last = array.ndim - 1
    if array.flags.c_contiguous or source_axis == last or array.size < BLOCK * BLOCK:
        return None
    return source_axis, last


def ahead(function: Callable[[Item], Result], items: Iterable[Item], number: int = THREADS) -> Iterator[Result]:
    """`function` of each item in order, made by threads while up to `number` results wait to be taken."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > number:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _blocks(size: int) -> list[slice]:
    return [slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK)]
