"""Sizes and checksums of files equal zlib's."""

import zlib

import pytest

from t5x_code import file_checksum
from t5x_code.file_checksum import size_and_crc


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 1000])
def test_blocks_sum_up_to_the_whole(size, tmp_path, monkeypatch):
    monkeypatch.setattr(file_checksum, "BLOCK_BYTES", 64)
    data = bytes(i * i % 251 for i in range(size))
    (tmp_path / "file").write_bytes(data)
    assert size_and_crc(tmp_path / "file") == (size, zlib.crc32(data))
