"""Streams: rows of a token store, addressed by index, in a new order and with new cuts each epoch.

A stream is one task under one objective. Rows do not cross shards. In epoch e a shard's rows begin at the token
`hash(seed, task, e) mod raw_length` and wrap around the shard's end, which is a document boundary like its beginning:
each token is in exactly one row of an epoch, and epochs cut the documents differently. A shard's last row may be short.

Shape legend: S shards, D documents of a shard, N tokens of a piece.
"""

import dataclasses
from typing import Protocol

import numpy as np
from grain.experimental import index_shuffle

from t5x_code.data.declarations import Rate
from t5x_code.data.randomness import keyed_generator, stable_hash
from t5x_code.errors import UserError
from t5x_code.objectives.example import Example, Layout, Objective, Piece, Row


class StoreManifest(Protocol):
    """What the loader needs of a store's manifest."""

    fingerprint: str  # hex; changes with source, preprocessors, tokenizer or sharding


class TokenReader(Protocol):
    """What the loader needs of a token store; every document ends with `eod`, shards hold whole documents."""

    manifest: StoreManifest
    num_shards: int
    shard_tokens: np.ndarray  # int64 [S]

    def document_ends(self, shard: int) -> np.ndarray:
        """int64 [D], exclusive ends within the shard, ascending."""

    def document_lengths(self) -> np.ndarray:
        """int64 lengths of all documents in store order."""

    def read(self, shard: int, start: int, stop: int) -> np.ndarray:
        """int32 tokens [start, stop) of the shard."""


@dataclasses.dataclass(frozen=True)
class Stream:
    """One task under one objective, and its share of the mixture."""

    name: str  # unique in its mixture, such as `code/span_corruption`
    task: str
    reader: TokenReader
    objective: Objective
    rate: Rate = 1.0  # share, or piecewise-linear ((row of the mixture, share), ..)


@dataclasses.dataclass(frozen=True)
class StreamRows:
    """A stream's rows by index: `example(i)` is a pure function of the stream, the layout, the seed and i."""

    stream: Stream
    layout: Layout
    seed: int
    raw_length: int  # tokens of the store that a row takes
    first_rows: np.ndarray  # int64 [S + 1], number of an epoch's rows in the shards before

    @property
    def rows_per_epoch(self) -> int:
        """Rows that hold every token of the store once."""
        return int(self.first_rows[-1])

    def example(self, index: int) -> Example:
        """The index-th row of the endless stream, epochs in shuffled order one after another."""
        epoch, index_in_epoch = divmod(index, self.rows_per_epoch)
        shuffle_seed = stable_hash(self.seed, self.stream.name, epoch) % 2**32
        return self.epoch_example(epoch, index_shuffle(index_in_epoch, self.rows_per_epoch - 1, shuffle_seed, rounds=4))

    def epoch_example(self, epoch: int, number: int) -> Example:
        """The example of an epoch's row by its number in store order."""
        objective = self.stream.objective
        rng = keyed_generator(self.seed, self.stream.task, objective, epoch, number)
        return objective(self.row(epoch, number), self.layout, rng)

    def row(self, epoch: int, number: int) -> Row:
        """The raw row of an epoch by its number in store order."""
        shard = int(np.searchsorted(self.first_rows, number, "right")) - 1
        num_tokens = int(self.stream.reader.shard_tokens[shard])
        shift = stable_hash(self.seed, self.stream.task, epoch) % self.raw_length
        offset = (number - int(self.first_rows[shard])) * self.raw_length
        start = (shift + offset) % num_tokens
        length = min(self.raw_length, num_tokens - offset)
        pieces = self._pieces(shard, start, min(start + length, num_tokens))
        if start + length > num_tokens:
            pieces += self._pieces(shard, 0, start + length - num_tokens)
        return Row(tuple(pieces))

    def _pieces(self, shard: int, start: int, stop: int) -> list[Piece]:
        """The tokens [start, stop) of a shard, cut at document ends."""
        ends_D = self.stream.reader.document_ends(shard)
        first, last = int(ends_D.searchsorted(start, "right")), int(ends_D.searchsorted(stop, "left"))
        starts_document = start == 0 or (first > 0 and int(ends_D[first - 1]) == start)
        lead = self.layout.special_tokens.eod
        if starts_document:
            tokens_N = self.stream.reader.read(shard, start, stop)
        else:  # the token before is read along, to lead the piece in
            tokens_N = self.stream.reader.read(shard, start - 1, stop)
            lead, tokens_N = int(tokens_N[0]), tokens_N[1:]
        ends = [int(end) - start for end in ends_D[first:last]] + [stop - start]
        pieces, after = [], 0
        for end in ends:
            pieces.append(Piece(lead, tokens_N[after:end], starts_document, True))
            lead, starts_document, after = self.layout.special_tokens.eod, True, end
        if int(ends_D[last]) != stop:
            pieces[-1] = dataclasses.replace(pieces[-1], is_end=False)
        return pieces


def plan_rows(stream: Stream, layout: Layout, seed: int) -> StreamRows:
    """Computes the raw length and lays the rows over the shards.

    Raises:
      UserError: the store holds no tokens, or more rows than can be shuffled.
    """
    shard_tokens_S = np.asarray(stream.reader.shard_tokens, np.int64)
    if not shard_tokens_S.sum():
        raise UserError(
            f"the token store of task {stream.task} (stream {stream.name}) is empty; add documents to its source"
        )
    raw_length = stream.objective.raw_length(layout, stream.reader.document_lengths())
    first_rows = np.concatenate([[0], np.cumsum(-(-shard_tokens_S // raw_length))])
    if first_rows[-1] >= 2**32:
        raise UserError(
            f"task {stream.task} has {first_rows[-1]} rows of {raw_length} tokens, 2**32 at most can be shuffled; "
            "split it into several tasks or use a longer sequence length"
        )
    return StreamRows(stream, layout, seed, raw_length, first_rows)
