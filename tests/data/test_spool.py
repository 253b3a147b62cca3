"""A spool gives the documents of one shard after another, in the order of their hash, and holds no others in memory."""

import tracemalloc

import pytest

from t5x_code.data.caching.document_hash import document_hash, part_of
from t5x_code.data.caching.spool import NUM_BUCKETS, Spool


@pytest.fixture(scope="module")
def texts():
    """60 MB, the first one twice."""
    all_texts = [str(number).encode().ljust(15_000) for number in range(64 * NUM_BUCKETS)]
    return [*all_texts, all_texts[0]]


@pytest.mark.parametrize("num_shards", [1, NUM_BUCKETS, 8 * NUM_BUCKETS])
def test_a_shard_at_a_time_is_in_memory(tmp_path, texts, num_shards):
    spool = Spool(tmp_path / "spool")
    for text in texts:
        spool.add(document_hash(0, text), text)
    spool.finish()
    expected = sorted((document_hash(0, text), text) for text in texts)
    found = []
    tracemalloc.start()
    for shard, documents in enumerate(spool.sorted_shards(num_shards)):
        assert all(part_of(digest, num_shards) == shard for digest, _ in documents)
        found += [digest for digest, _ in documents]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [digest for digest, _ in expected]
    of_hashes = len(found) * 64
    assert peak < of_hashes + (1 << 19) + 3 * spool.num_bytes / num_shards
