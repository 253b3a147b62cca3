"""Documents on disk between reading and tokenizing, in buckets by the head of their hash: sorting one shard at a time
sorts them all, whatever the corpus' size."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from t5x_code.data.caching.document_hash import HASH_BYTES, part_of

NUM_BUCKETS = 64  # a power of two, as the number of shards is
LENGTH_BYTES = 8


class Spool:
    """Buckets of one split. Write all documents, then `finish`, then read."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self._paths = [folder / f"{bucket:02d}" for bucket in range(NUM_BUCKETS)]
        self._files: list[BinaryIO] = [path.open("wb") for path in self._paths]
        self.num_bytes = 0  # of text, duplicates included

    def add(self, digest: bytes, text: bytes) -> None:
        """Appends a document."""
        _write(self._files[part_of(digest, NUM_BUCKETS)], digest, text)
        self.num_bytes += len(text)

    def finish(self) -> None:
        """Closes the files."""
        for file in self._files:
            file.close()

    def sorted_shards(self, num_shards: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """For each shard in turn its (hash, text) in ascending order, duplicates included; no more is in memory. Can be
        called once."""
        if num_shards > NUM_BUCKETS:
            for path in self._paths:
                for part in _split(path, num_shards):
                    yield sorted(_read(part))
                    part.unlink()
            return
        buckets_per_shard = NUM_BUCKETS // num_shards
        for first in range(0, NUM_BUCKETS, buckets_per_shard):
            paths = self._paths[first : first + buckets_per_shard]
            yield sorted(document for path in paths for document in _read(path))


def _split(bucket: Path, num_shards: int) -> list[Path]:
    """Replaces the file of a bucket of several shards by a file for each of these."""
    num_parts = num_shards // NUM_BUCKETS
    parts = [bucket.with_suffix(f".{number}") for number in range(num_parts)]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(part.open("wb")) for part in parts]
        for digest, text in _read(bucket):
            _write(files[part_of(digest, num_shards) % num_parts], digest, text)
    bucket.unlink()
    return parts


def _write(file: BinaryIO, digest: bytes, text: bytes) -> None:
    file.write(digest)
    file.write(len(text).to_bytes(LENGTH_BYTES, "little"))
    file.write(text)


def _read(path: Path) -> Iterator[tuple[bytes, bytes]]:
    with path.open("rb") as file:
        while digest := file.read(HASH_BYTES):
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            yield digest, file.read(length)
