"""Size and CRC-32 of a file, local or in a bucket."""

from etils import epath
from isal import isal_zlib

BLOCK_BYTES = 1 << 22


def size_and_crc(path: epath.PathLike) -> tuple[int, int]:
    """Bytes and zlib's CRC-32 of a file, at ten times zlib's speed and outside the interpreter's lock."""
    size, crc = 0, 0
    with epath.Path(path).open("rb") as handle:
        while block := handle.read(BLOCK_BYTES):
            size, crc = size + len(block), isal_zlib.crc32(block, crc)
    return size, crc
