"""A document's hash decides its split, shard and order. So no worker count can change a store."""

import hashlib

from t5x_code.data.declarations import TRAIN, VALIDATION
from t5x_code.data.document import Document

HASH_BYTES = 16
SHARD_TEXT_BYTES = 256 << 20  # text per shard, about 64 to 128 M tokens
MAX_SHARDS = 4096


def document_hash(store_seed: int, text: bytes) -> bytes:
    """Hash of a document's bytes, keyed by the store's seed: ascending order is a global shuffle."""
    return hashlib.blake2b(text, digest_size=HASH_BYTES, key=store_seed.to_bytes(8, "little", signed=True)).digest()


def split_of_document(store_seed: int, digest: bytes, document: Document, validation_fraction: float) -> str:
    """The split of a document with this hash: its group's where it has one, so that groups stay together."""
    if not isinstance(document, str) and document.group:
        digest = document_hash(store_seed, document.group.encode("utf-8"))
    return split_of(digest, validation_fraction)


def split_of(digest: bytes, validation_fraction: float) -> str:
    """The split, from the hash's second half, which its place does not depend on."""
    return VALIDATION if int.from_bytes(digest[8:], "big") < validation_fraction * 2**64 else TRAIN


def part_of(digest: bytes, num_parts: int) -> int:
    """Which of `num_parts` equal ranges of the hash's first half holds the document."""
    return int.from_bytes(digest[:8], "big") * num_parts >> 64


def num_shards_for(num_bytes: int, shard_text_bytes: int = SHARD_TEXT_BYTES) -> int:
    """Shards of a split: a power of two that follows from its bytes of text alone."""
    num_shards = 1
    while num_shards < MAX_SHARDS and num_bytes > num_shards * shard_text_bytes:
        num_shards *= 2
    return num_shards
