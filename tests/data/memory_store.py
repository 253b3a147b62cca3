"""A token store in memory, for tests: the same methods, no files."""

import types

import numpy as np

EOD = 0


class MemoryStore:
    """Documents of the given lengths over `num_shards` shards; token i of the store is i + `first_token`, or random."""

    def __init__(self, lengths, num_shards=1, first_token=1, vocabulary=None, fingerprint="ab12"):
        self.lengths = np.asarray(lengths, np.int64)
        self.num_shards = num_shards
        self.manifest = types.SimpleNamespace(fingerprint=fingerprint, modality=1, part_kinds=())
        self.ends = [np.cumsum(part) for part in np.array_split(self.lengths, num_shards)]
        self.shard_tokens = np.array([ends[-1] if len(ends) else 0 for ends in self.ends], np.int64)
        num_tokens = int(self.lengths.sum())
        tokens = np.arange(num_tokens) + first_token
        if vocabulary is not None:
            tokens = np.random.default_rng(0).integers(first_token, vocabulary, num_tokens)
        self.shards = np.split(tokens.astype(np.int32), np.cumsum(self.shard_tokens)[:-1])

    def document_ends(self, shard):
        return self.ends[shard]

    def document_lengths(self):
        return self.lengths

    def read_spans(self, spans):
        return [self.read(*span) for span in spans]

    def read(self, shard, start, stop):
        assert 0 <= start < stop <= self.shard_tokens[shard]
        return self.shards[shard][start:stop]


def random_lengths(num_documents, seed=0):
    """Lengths of documents, `eod` included, spread like those of source files."""
    lengths = np.random.default_rng(seed).lognormal(6.3, 1.3, num_documents).astype(np.int64)
    return np.clip(lengths, 1, 100_000)
