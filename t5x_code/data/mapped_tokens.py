"""The tokens of a shard on a local disk, mapped into memory: a document of a large store is then read in microseconds.

The files are zarr3's sharding codec with raw inner chunks. Where these lie one after another, as TensorStore writes
them, a file begins with its tokens as they are, and what it holds further (an index of the inner chunks) can be passed
over. The system keeps what it has memory for and drops it again. Anything else than that layout is left to TensorStore,
as are files beyond those that a process may hold open or map: a mapped file is an open one, and 100 GB of text are a
thousand.

Shape legend: C inner chunks of a file, F tokens that a file has room for, N bytes of a file.
"""

import contextlib
import dataclasses
import json
import os
import resource
from pathlib import Path
from typing import BinaryIO

import numpy as np
from etils import epath

from t5x_code.buckets import in_bucket

INDEX_CHECKSUM_BYTES = 4
MAX_MAP_COUNT = Path("/proc/sys/vm/max_map_count")
OPEN_MAX = 10_240  # files that macOS lets a process hold open, although it says that there is no limit


@dataclasses.dataclass(frozen=True)
class MappedTokens:
    """Tokens of one shard. Make it by `map_tokens`."""

    files: tuple[np.ndarray, ...]  # [F] each, the last may be shorter
    tokens_per_file: int  # F

    def __getitem__(self, span: slice) -> np.ndarray:
        """Tokens [stop - start] of a span whose ends are given."""
        first, last = span.start // self.tokens_per_file, max(span.start, span.stop - 1) // self.tokens_per_file
        start = span.start - first * self.tokens_per_file
        if first == last:
            return self.files[first][start : span.stop - first * self.tokens_per_file]
        stop = span.stop - last * self.tokens_per_file
        return np.concatenate([self.files[first][start:], *self.files[first + 1 : last], self.files[last][:stop]])


def map_tokens(folder: epath.Path) -> MappedTokens | None:
    """Maps a shard's tokens; None where they are in a bucket, lie in another layout or are too many files.

    Args:
        folder: of the zarr array.
    """
    if in_bucket(folder):
        return None
    try:
        metadata = json.loads((folder / "zarr.json").read_text())
        (num_tokens,), dtype = metadata["shape"], np.dtype(metadata["data_type"]).newbyteorder("<")
        (per_file,) = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        (codec,) = metadata["codecs"]
        (per_chunk,) = codec["configuration"]["chunk_shape"]
        is_raw = [inner["name"] for inner in codec["configuration"]["codecs"]] == ["bytes"]
    except (OSError, KeyError, ValueError, TypeError):
        return None
    if not is_raw or codec["configuration"].get("index_location", "end") != "end":
        return None
    files = []
    for number, start in enumerate(range(0, num_tokens, per_file)):
        held = min(per_file, num_tokens - start)
        tokens_F = _map_file(folder / "c" / str(number), dtype, held, per_chunk, per_file // per_chunk)
        if tokens_F is None:
            return None
        files.append(tokens_F)
    return MappedTokens(tuple(files), per_file)


def _map_file(path: epath.Path, dtype: np.dtype, held: int, per_chunk: int, num_chunks: int) -> np.ndarray | None:
    """The first `held` tokens of a file, if its inner chunks lie in their order."""
    try:
        with path.open("rb") as file:
            if _is_crowded(file):
                return None
            bytes_N = np.memmap(file, np.uint8, "r")
    except (OSError, ValueError):  # absent, or empty
        return None
    index_bytes = num_chunks * 16
    end = len(bytes_N) - INDEX_CHECKSUM_BYTES
    chunk_bytes, used = per_chunk * dtype.itemsize, -(-held // per_chunk)
    if end - index_bytes < used * chunk_bytes:
        return None
    index_Cx2 = bytes_N[end - index_bytes : end].view("<u8").reshape(num_chunks, 2)
    starts_C = np.arange(used, dtype=np.uint64) * np.uint64(chunk_bytes)
    if (index_Cx2[:used, 0] != starts_C).any() or (index_Cx2[:used, 1] != chunk_bytes).any():
        return None
    return np.asarray(bytes_N[: held * dtype.itemsize]).view(dtype)


def _is_crowded(file: BinaryIO) -> bool:
    """Whether the process holds half of the files open that it may, after asking for all that the system grants, or
    half as many as it may have mappings; the other half is for others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (hard, max(soft, OPEN_MAX)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            break
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = [limit for limit in (soft, _max_map_count()) if limit != resource.RLIM_INFINITY]
    next_number = os.dup(file.fileno())  # the lowest that is free, which the mapped file will get
    os.close(next_number)
    return bool(limits) and next_number >= min(limits) // 2


def _max_map_count() -> int:
    """Mappings that Linux lets a process have, without which nothing gets memory; elsewhere no limit is known."""
    try:
        return int(MAX_MAP_COUNT.read_text())
    except (OSError, ValueError):
        return resource.RLIM_INFINITY
