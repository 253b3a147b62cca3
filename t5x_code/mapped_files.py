"""Local files mapped into memory, so that they are used where they lie instead of in a copy.

Who comes upon a disk's error in a mapped file is killed. `bring_in` meets it first, and tells of it.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

MADV_POPULATE_READ = 22  # Linux 5.14; `mmap` does not name it, and would hold the interpreter's lock meanwhile
MAP_FIXED = 0x10
READ_BYTES = 1 << 20
FAILED = ctypes.c_void_p(-1).value

_SYSTEM = ctypes.CDLL(None, use_errno=True)
_SYSTEM.mmap.restype = ctypes.c_void_p


def map_file(descriptor: int) -> np.ndarray:
    """The bytes of an open file.

    Raises:
        ValueError, OSError: it is empty, or its file system maps none.
    """
    return np.frombuffer(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ), np.uint8)


def map_in_a_row(paths: Sequence[Path], num_bytes: int) -> np.ndarray:
    """The bytes of files of one size, one file behind the other, brought in.

    Args:
        paths: one, or several whose size is a multiple of the system's pages.
        num_bytes: of each.

    Raises:
        OSError: one is missing, has another size or cannot be read.
    """
    whole_N = np.frombuffer(mmap.mmap(-1, len(paths) * num_bytes), np.uint8)  # addresses that the files then take
    protection, flags = mmap.PROT_READ, mmap.MAP_SHARED | MAP_FIXED
    for n, path in enumerate(paths):
        part = whole_N[n * num_bytes : (n + 1) * num_bytes]
        with path.open("rb") as handle:
            if os.fstat(handle.fileno()).st_size != num_bytes:
                raise OSError(errno.EIO, f"{path} has not its {num_bytes} bytes")
            size, offset = ctypes.c_size_t(num_bytes), ctypes.c_long(0)
            address = ctypes.c_void_p(part.ctypes.data)
            if _SYSTEM.mmap(address, size, protection, flags, handle.fileno(), offset) == FAILED:
                raise OSError(ctypes.get_errno(), f"{path} cannot be mapped")
            if not bring_in(part):
                while handle.read(READ_BYTES):  # tells of errors, too
                    pass
    whole_N.flags.writeable = False
    return whole_N


def bring_in(part: np.ndarray) -> bool:
    """Has the system read what is mapped; False where it is too old to be asked.

    Args:
        part: begins at a page.

    Raises:
        OSError: the disk cannot read it, or the file has been cut meanwhile.
    """
    if not _advise(part, MADV_POPULATE_READ):
        return True
    if ctypes.get_errno() == errno.EINVAL:
        return False
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def give_back(part: np.ndarray) -> None:
    """Lets the system take the memory of what is mapped; it is read again where it is used again."""
    _advise(part, mmap.MADV_DONTNEED)


def _advise(part: np.ndarray, advice: int) -> int:
    return _SYSTEM.madvise(ctypes.c_void_p(part.ctypes.data), ctypes.c_size_t(part.nbytes), advice)
