"""CRC-32 of a file, local or in a bucket, and of bytes that become one: zlib's, by isal, which is ten times as fast and
outside the interpreter's lock."""

from collections.abc import Iterator
from typing import BinaryIO

from etils import epath
from isal import isal_zlib

from t5x_code.buckets import in_bucket
from t5x_code.mapped_files import bring_in, give_back, map_file

BLOCK_BYTES = 1 << 18  # stays in a core's cache between its copy and its sum; buckets' libraries read ahead themselves
MAPPED_BYTES = 1 << 24  # of a local file at a time; a multiple of every system's pages


def write_summed(path: epath.PathLike, content: memoryview) -> int:
    """Writes a file; returns the CRC-32 of its content, summed up while it is in the core's cache."""
    crc = 0
    with epath.Path(path).open("wb") as handle:
        for start in range(0, len(content), BLOCK_BYTES):
            block = content[start : start + BLOCK_BYTES]
            crc = isal_zlib.crc32(block, crc)
            handle.write(block)
    return crc


def size_and_crc(path: epath.PathLike) -> tuple[int, int]:
    """Bytes of a file and their CRC-32.

    Raises:
        OSError: it cannot be read.
    """
    path = epath.Path(path)
    size, crc = 0, 0
    with path.open("rb") as handle:
        for block in _blocks(handle) if in_bucket(path) else _mapped_blocks(handle):
            size, crc = size + len(block), isal_zlib.crc32(block, crc)
    return size, crc


def _blocks(handle: BinaryIO) -> Iterator[bytes]:
    while block := handle.read(BLOCK_BYTES):
        yield block


def _mapped_blocks(handle: BinaryIO) -> Iterator[bytes | memoryview]:
    """The content of a local file as it lies in memory, half as dear as copies of it; those where it cannot be mapped.

    Raises:
        OSError: the disk cannot read it, or it has been cut meanwhile.
    """
    try:
        whole_N = map_file(handle.fileno())
    except (ValueError, OSError):
        yield from _blocks(handle)
        return
    for start in range(0, len(whole_N), MAPPED_BYTES):
        part = whole_N[start : start + MAPPED_BYTES]
        if not bring_in(part):
            handle.seek(start)
            yield from _blocks(handle)
            return
        yield part.data
        give_back(part)
