"""Documents on disk between reading and tokenizing, in buckets by the head of their hash: sorting one bucket at a time
sorts them all, whatever the corpus' size."""

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
        file = self._files[part_of(digest, NUM_BUCKETS)]
        file.write(digest)
        file.write(len(text).to_bytes(LENGTH_BYTES, "little"))
        file.write(text)
        self.num_bytes += len(text)

    def finish(self) -> None:
        """Closes the files."""
        for file in self._files:
            file.close()

    def sorted_shards(self, num_shards: int) -> Iterator[list[tuple[bytes, bytes]]]:
        """For each shard in turn its (hash, text) in ascending order, duplicates included; reads each bucket once."""
        buckets_per_shard = max(1, NUM_BUCKETS // num_shards)
        shards_per_bucket = max(1, num_shards // NUM_BUCKETS)
        for first in range(0, NUM_BUCKETS, buckets_per_shard):
            documents = [
                document for path in self._paths[first : first + buckets_per_shard] for document in _read(path)
            ]
            documents.sort()
            shards: list[list[tuple[bytes, bytes]]] = [[] for _ in range(shards_per_bucket)]
            for document in documents:
                shards[part_of(document[0], num_shards) % shards_per_bucket].append(document)
            yield from shards


def _read(path: Path) -> Iterator[tuple[bytes, bytes]]:
    with path.open("rb") as file:
        while digest := file.read(HASH_BYTES):
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            yield digest, file.read(length)
