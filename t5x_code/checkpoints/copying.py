"""Copies of large arrays: in another order of axes at the speed of memory, some ahead of their use, in threads."""

import collections
import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np

THREADS = 4  # NumPy copies outside the interpreter's lock
ALIGNMENT = 64  # bytes: JAX takes a NumPy array that is aligned so for its own on a CPU, and copies any other
ROWS, COLUMNS = 256, 256  # of a transposed block, which a core's cache holds, with rows long enough to be fetched ahead
PADDING = 16  # entries behind a block's row: rows a power of two apart would share one set of the cache

Item, Result = TypeVar("Item"), TypeVar("Result")


def contiguous(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The array in C order and of a type; itself where it is so already.

    NumPy's own copy of a transposed matrix reads or writes one entry per cache line, ten times slower than this one,
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
    # Rows are contiguous in the source, columns in the result; what lies between is read and written in order.
    source, result = (np.moveaxis(x, axes, (-1, -2)) for x in (array, out))
    num_rows, num_columns = source.shape[-2:]
    between = np.empty((min(ROWS, num_rows), min(COLUMNS, num_columns) + PADDING), array.dtype)
    for index in np.ndindex(source.shape[:-2]):
        for columns, rows in itertools.product(_blocks(num_columns, COLUMNS), _blocks(num_rows, ROWS)):
            block = source[index][rows, columns]
            held = between[: block.shape[0], : block.shape[1]]
            held[...] = block
            result[index][rows, columns] = held


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
    if array.flags.c_contiguous or source_axis == last or array.size < ROWS * ROWS:
        return None
    return source_axis, last


def ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    number: int = THREADS,
    pool: ThreadPoolExecutor | None = None,
) -> Iterator[Result]:
    """`function` of each item in order, made by threads while up to `number` results wait to be taken.

    Args:
        function: is called outside this thread.
        items: are taken one by one.
        number: of results that wait.
        pool: the threads, which outlive this; None: own ones, whose start costs as much as copying a MiB.
    """
    with contextlib.ExitStack() as until_here:
        pool = pool or until_here.enter_context(ThreadPoolExecutor(THREADS))
        waiting: collections.deque[Future[Result]] = collections.deque()
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
            wait(waiting)  # what has begun may write where the caller's next lines read


def _blocks(size: int, length: int) -> list[slice]:
    return [slice(start, min(start + length, size)) for start in range(0, size, length)]
