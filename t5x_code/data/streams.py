"""Streams: rows of a token store, addressed by index, in a new order and with new cuts each epoch.

A stream is one task under one objective. What is drawn for it is keyed by its store's fingerprint, not by its task's
name: a corpus that was moved gives the same rows. Rows do not cross shards. In epoch e a shard's rows begin at the
token `hash(seed, store, e) mod raw_length` and wrap around the shard's end, which is a document boundary like its
beginning: each token is in exactly one row of an epoch, and epochs cut the documents differently. A shard's last row
may be short. Where the objective wants whole documents, packing.py says which stand in a row.

Shape legend: S shards, D documents of a shard, N tokens of a piece, Q parts of a shard's documents.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from grain.experimental import index_shuffle

from t5x_code.data.declarations import Rate
from t5x_code.data.packing import Packing, packing_of
from t5x_code.errors import UserError
from t5x_code.objectives.example import DocumentTable, Example, Layout, Objective, PackingObjective, Piece, Row
from t5x_code.objectives.segments import split_ids
from t5x_code.randomness import keyed_generator, stable_hash


class StoreManifest(Protocol):
    """What the loader needs of a store's manifest."""

    fingerprint: str  # hex; changes with source, preprocessors, split or tokenizer
    modality: int  # of all documents
    part_kinds: tuple[str, ...]  # names of the parts' kinds; empty: the documents have no parts


class TokenReader(Protocol):
    """What the loader needs of a token store; every document ends with `eod`, shards hold whole documents."""

    manifest: StoreManifest
    num_shards: int
    shard_tokens: np.ndarray  # int64 [S]

    def document_ends(self, shard: int) -> np.ndarray:
        """int64 [D], exclusive ends within the shard, ascending."""

    def document_lengths(self) -> np.ndarray:
        """int64 lengths of all documents in store order."""

    def part_ends(self, shard: int) -> np.ndarray:
        """int64 [Q], exclusive ends within the shard, of documents in parts."""

    def part_kinds(self, shard: int) -> np.ndarray:
        """uint8 [Q]."""

    def groups(self, shard: int) -> np.ndarray:
        """int64 [D], of documents in parts."""

    def read(self, shard: int, start: int, stop: int) -> np.ndarray:
        """int32 tokens [start, stop) of the shard."""

    def read_spans(self, spans: Sequence[tuple[int, int, int]]) -> list[np.ndarray]:
        """int32 tokens of each (shard, start, stop)."""


@dataclasses.dataclass(frozen=True)
class Stream:
    """One task under one objective, and its share of the mixture."""

    name: str  # unique in its mixture, such as `code/span_corruption`
    task: str
    reader: TokenReader
    objective: Objective | PackingObjective
    rate: Rate = 1.0  # share, or piecewise-linear ((row of the mixture, share), ..)

    @property
    def store_key(self) -> str:
        """What draws over the store are keyed by: the same wherever store and corpus lie."""
        return self.reader.manifest.fingerprint

    @property
    def shuffle_key(self) -> str:
        """What the order of rows is keyed by: each objective of a task has an order of its own."""
        return f"{self.store_key}/{self.name.removeprefix(f'{self.task}/')}"


class RowPlan(Protocol):
    """Which tokens stand in which row."""

    @property
    def rows_per_epoch(self) -> int:
        """Rows of one epoch."""

    def row(self, epoch: int, number: int) -> Row:
        """The raw row of an epoch by its number."""


@dataclasses.dataclass(frozen=True)
class StreamRows:
    """A stream's rows by index: `example(i)` is a pure function of the stream, the layout, the seed and i."""

    stream: Stream
    layout: Layout
    seed: int
    plan: RowPlan

    @property
    def rows_per_epoch(self) -> int:
        """Rows that hold every token, or every document, of the store once."""
        return self.plan.rows_per_epoch

    def example(self, index: int) -> Example:
        """The index-th row of the endless stream, epochs in shuffled order one after another."""
        return self.epoch_example(*self.place(index))

    def place(self, index: int) -> tuple[int, int]:
        """Epoch, and number of the row in it, of the index-th row."""
        epoch, index_in_epoch = divmod(index, self.rows_per_epoch)
        shuffle_seed = stable_hash(self.seed, self.stream.shuffle_key, epoch) % 2**32
        return epoch, index_shuffle(index_in_epoch, self.rows_per_epoch - 1, shuffle_seed, rounds=4)

    def epoch_example(self, epoch: int, number: int) -> Example:
        """The example of an epoch's row by its number in store order."""
        objective = self.stream.objective
        rng = keyed_generator(self.seed, self.stream.store_key, objective, epoch, number)
        example = objective(self.plan.row(epoch, number), self.layout, rng)
        return split_ids(example, self.layout.modality) if self.layout.modality else example


@dataclasses.dataclass(frozen=True)
class CutRows:
    """Rows of equally many tokens, cut wherever they end."""

    reader: TokenReader
    key: str  # of the shifts
    seed: int
    eod: int
    raw_length: int  # tokens of the store that a row takes
    first_rows: np.ndarray  # int64 [S + 1], number of an epoch's rows in the shards before

    @property
    def rows_per_epoch(self) -> int:
        """Rows that hold every token of the store once."""
        return int(self.first_rows[-1])

    def row(self, epoch: int, number: int) -> Row:
        """The raw row of an epoch by its number in store order."""
        shard = int(np.searchsorted(self.first_rows, number, "right")) - 1
        num_tokens = int(self.reader.shard_tokens[shard])
        shift = stable_hash(self.seed, self.key, epoch) % self.raw_length
        offset = (number - int(self.first_rows[shard])) * self.raw_length
        start = (shift + offset) % num_tokens
        length = min(self.raw_length, num_tokens - offset)
        pieces = self._pieces(shard, start, min(start + length, num_tokens))
        if start + length > num_tokens:
            pieces += self._pieces(shard, 0, start + length - num_tokens)
        return Row(tuple(pieces))

    def _pieces(self, shard: int, start: int, stop: int) -> list[Piece]:
        """The tokens [start, stop) of a shard, cut at document ends."""
        ends_D = self.reader.document_ends(shard)
        first, last = int(ends_D.searchsorted(start, "right")), int(ends_D.searchsorted(stop, "left"))
        starts_document = start == 0 or (first > 0 and int(ends_D[first - 1]) == start)
        modality = self.reader.manifest.modality
        lead = self.eod
        if starts_document:
            tokens_N = self.reader.read(shard, start, stop)
        else:  # the token before is read along, to lead the piece in
            tokens_N = self.reader.read(shard, start - 1, stop)
            lead, tokens_N = int(tokens_N[0]), tokens_N[1:]
        ends = [int(end) - start for end in ends_D[first:last]] + [stop - start]
        pieces, after = [], 0
        for end in ends:
            pieces.append(Piece(lead, tokens_N[after:end], is_start=starts_document, is_end=True, modality=modality))
            lead, starts_document, after = self.eod, True, end
        if int(ends_D[last]) != stop:
            pieces[-1] = dataclasses.replace(pieces[-1], is_end=False)
        return pieces


@dataclasses.dataclass(frozen=True)
class PackedRows:
    """Rows of whole documents, each with its parts."""

    reader: TokenReader
    eod: int
    packing: Packing
    first_documents: np.ndarray  # int64 [S + 1], documents in the shards before
    first_parts: np.ndarray  # int64 [documents + 1], parts of the documents before, over all shards

    @property
    def rows_per_epoch(self) -> int:
        """Rows that hold every document of the store once, but for those longer than a row."""
        return self.packing.num_rows

    def row(self, epoch: int, number: int) -> Row:
        """The documents of a row, whole."""
        documents = self.packing.documents(epoch, number)
        shards = np.searchsorted(self.first_documents, documents, "right") - 1
        indices = documents - self.first_documents[shards]
        places = list(zip(shards.tolist(), indices.tolist(), strict=True))
        spans = [(shard, *self._span(shard, index)) for shard, index in places]
        read = zip(places, spans, self.reader.read_spans(spans), strict=True)
        return Row(
            tuple(self._piece(shard, index, start, tokens_N) for (shard, index), (_, start, _), tokens_N in read)
        )

    def _span(self, shard: int, index: int) -> tuple[int, int]:
        """Where the index-th document of a shard begins and ends."""
        ends_D = self.reader.document_ends(shard)
        return int(ends_D[index - 1]) if index else 0, int(ends_D[index])

    def _piece(self, shard: int, index: int, start: int, tokens_N: np.ndarray) -> Piece:
        """The index-th document of a shard, its tokens read from `start` on, with its parts."""
        manifest = self.reader.manifest
        if not manifest.part_kinds:
            return Piece(self.eod, tokens_N, is_start=True, is_end=True, modality=manifest.modality)
        before = int(self.first_documents[shard])
        first, last = (self.first_parts[before + index : before + index + 2] - self.first_parts[before]).tolist()
        return Piece(
            self.eod,
            tokens_N,
            is_start=True,
            is_end=True,
            modality=manifest.modality,
            part_ends=self.reader.part_ends(shard)[first:last] - start,
            part_kinds=self.reader.part_kinds(shard)[first:last],
            group=int(self.reader.groups(shard)[index]),
        )


def plan_rows(stream: Stream, layout: Layout, seed: int) -> StreamRows:
    """Lays a stream's rows over its store.

    Raises:
      UserError: the store holds no tokens, or more rows than can be shuffled.
    """
    reader = stream.reader
    shard_tokens_S = np.asarray(reader.shard_tokens, np.int64)
    if not shard_tokens_S.sum():
        raise UserError(
            f"the token store of task {stream.task} (stream {stream.name}) is empty; add documents to its source"
        )
    eod = layout.special_tokens.eod
    plan: RowPlan
    if isinstance(stream.objective, PackingObjective):
        documents = document_table(reader)
        packing = packing_of(stream.objective, layout, documents, seed, stream.store_key, stream.task)
        num_documents = [len(reader.document_ends(shard)) for shard in range(reader.num_shards)]
        plan = PackedRows(reader, eod, packing, np.concatenate([[0], np.cumsum(num_documents)]), documents.first_parts)
    else:
        raw_length = stream.objective.raw_length(layout, reader.document_lengths())
        first_rows = np.concatenate([[0], np.cumsum(-(-shard_tokens_S // raw_length))])
        plan = CutRows(reader, stream.store_key, seed, eod, raw_length, first_rows)
    if plan.rows_per_epoch >= 2**32:
        raise UserError(
            f"task {stream.task} has {plan.rows_per_epoch} rows, 2**32 at most can be shuffled; "
            "split it into several tasks or use a longer sequence length"
        )
    return StreamRows(stream, layout, seed, plan)


def document_table(reader: TokenReader) -> DocumentTable:
    """The sizes of a store's documents and of their parts."""
    lengths_D = reader.document_lengths()
    names = reader.manifest.part_kinds
    if not names:
        whole = np.arange(len(lengths_D) + 1)
        return DocumentTable(lengths_D, whole, lengths_D - 1, np.zeros(len(lengths_D), np.uint8), ())
    counts, lengths, kinds = [], [], []
    for shard in range(reader.num_shards):
        ends_D, part_ends_Q = reader.document_ends(shard), reader.part_ends(shard)
        # A document's parts all end before its eod does.
        counts.append(np.diff(part_ends_Q.searchsorted(ends_D, "left"), prepend=0))
        firsts = np.cumsum(counts[-1]) - counts[-1]
        starts_Q = np.concatenate([[0], part_ends_Q[:-1]])[: len(part_ends_Q)]
        has_parts = counts[-1] > 0
        starts_Q[firsts[has_parts]] = np.concatenate([[0], ends_D[:-1]])[: len(ends_D)][has_parts]
        lengths.append(part_ends_Q - starts_Q)
        kinds.append(reader.part_kinds(shard))
    first_parts = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return DocumentTable(lengths_D, first_parts, np.concatenate(lengths), np.concatenate(kinds), names)
