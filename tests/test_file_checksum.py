"""Sizes and checksums of files equal zlib's; a file that cannot be read is an error, not the end of the process."""

import mmap
import os
import zlib
from types import SimpleNamespace

import pytest

from t5x_code import file_checksum, mapped_files
from t5x_code.file_checksum import size_and_crc, write_summed

PAGE = mmap.PAGESIZE


def content(size: int) -> bytes:
    return bytes(i * i % 251 for i in range(size))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(file_checksum, "BLOCK_BYTES", 64)
    monkeypatch.setattr(file_checksum, "MAPPED_BYTES", PAGE)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1000, PAGE, 3 * PAGE + 1])
@pytest.mark.parametrize("is_old_system", [False, True])
def test_blocks_sum_up_to_the_whole(size, is_old_system, small_blocks, tmp_path, monkeypatch):
    if is_old_system:
        monkeypatch.setattr(mapped_files, "MADV_POPULATE_READ", -1)
    path, data = tmp_path / "file", content(size)
    assert write_summed(path, memoryview(data)) == zlib.crc32(data)
    assert path.read_bytes() == data
    assert size_and_crc(path) == (size, zlib.crc32(data))


def test_a_file_that_is_cut_while_it_is_read_is_an_error(small_blocks, tmp_path, monkeypatch):
    """What is gone from a mapped file is met like a disk's error: by a signal, where it is not asked for first."""
    path, system = tmp_path / "file", mapped_files._SYSTEM
    path.write_bytes(content(3 * PAGE))

    def cut_then_advise(*arguments: object) -> int:
        os.truncate(path, PAGE)
        return system.madvise(*arguments)

    monkeypatch.setattr(mapped_files, "_SYSTEM", SimpleNamespace(madvise=cut_then_advise))
    with pytest.raises(OSError, match="Input/output error"):
        size_and_crc(path)
