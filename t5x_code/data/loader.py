"""The loader: batches as a pure function of (seed, recipe, rows consumed).

Batch t is the rows [r, r + B) of the mixture, where r is what the batches before it took: the number of rows consumed
is the loader's whole state. Hosts, threads and the batch sizes of other steps never change a row.

Shape legend: B rows of a batch, L sequence length.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import grain
import numpy as np

from t5x_code.data.mixing import SCHEDULE_BLOCKS, Mixing, plan_mixing
from t5x_code.data.streams import Stream, StreamRows, plan_rows
from t5x_code.errors import UserError
from t5x_code.objectives.example import Layout
from t5x_code.randomness import stable_hash

ENDLESS = 2**62  # rows of a mixture: more than any run takes

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class MixtureRows:
    """Rows of a mixture by index, all with the same fields: a source for Grain, or to look at."""

    streams: tuple[StreamRows, ...]
    mixing: Mixing
    empty: Arrays  # the fields that some streams lack, as a row without them has them

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, row: int) -> Arrays:
        stream, index = self.mixing.select(row)
        return self.empty | self.streams[stream].example(index).arrays()


def build_rows(streams: Sequence[Stream], layout: Layout, seed: int) -> MixtureRows:
    """The endless mixture: element r is row r's arrays, named as `Example.arrays` names them.

    Raises:
      UserError: there is no stream, two have one name, a store is empty, a rate is unusable, or the rows of two have
        a field of different sizes.
    """
    names = [stream.name for stream in streams]
    if not names:
        raise UserError("the mixture has no streams; name at least one task and objective")
    if len(set(names)) < len(names):
        raise UserError(f"streams of one mixture share a name: {', '.join(names)}; rename one")
    mixing = plan_mixing(names, [stream.rate for stream in streams])
    planned = tuple(plan_rows(stream, layout, seed) for stream in streams)
    firsts = [rows.example(0).arrays() for rows in planned]
    _refuse_other_shapes(names, firsts)
    shared = set.intersection(*map(set, firsts))
    empty = {name: _empty(name, array) for first in firsts for name, array in first.items() if name not in shared}
    return MixtureRows(planned, mixing, empty)


def _refuse_other_shapes(names: Sequence[str], firsts: Sequence[Arrays]) -> None:
    """Raises a UserError where rows cannot be stacked, as those of two NTP+ objectives with other numbers of codes."""
    made_by: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, first in zip(names, firsts, strict=True):
        for field, array in first.items():
            other, shape = made_by.setdefault(field, (name, array.shape))
            if shape != array.shape:
                sizes = f"{shape} of {other}, {array.shape} of {name}"
                raise UserError(
                    f"{field} has other sizes in two streams: {sizes}; give their objectives the same settings"
                )


def iterate_batches(
    rows: MixtureRows,
    first_row: int,
    batch_sizes: Iterable[int],
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 1,
) -> Iterator[Arrays]:
    """This process's contiguous part of each batch, [B / process_count, L], from row `first_row` on.

    Args:
      rows: of `build_rows`.
      first_row: rows consumed before.
      batch_sizes: the global batch size B of each step to come; may change from step to step and be endless.
      process_index: this process, whose part is the process_index-th.
      process_count: processes that share each batch.
      num_threads: threads that make batches ahead, one each and two at least; 0 makes each when it is asked for.

    Raises:
      UserError: the processes do not divide a batch.
    """
    # Threads beyond the batches that are made ahead would wait.
    prefetch = max(2, num_threads) if num_threads else 0
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    for size, steps in itertools.groupby(batch_sizes):
        check_batch_size(size, process_count)
        part = size // process_count
        start = first_row + process_index * part
        batches = grain.MapDataset.range(ENDLESS // size).map(_batch_maker(rows, start, size, part))
        made = iter(batches.to_iter_dataset(options))
        for _ in steps:
            yield next(made)
            first_row += size


def check_batch_size(batch_size: int, process_count: int) -> None:
    """Raises a UserError unless every process gets as many rows of a batch."""
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"batch size {batch_size} does not divide over {process_count} process{'es' if process_count > 1 else ''}; "
            f"choose a positive multiple of {process_count}"
        )


def evaluation_batches(
    rows: StreamRows,
    batch_size: int,
    num_batches: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    absent: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Iterator[Arrays]:
    """The same rows at every call: those of epoch 0, not shuffled (the store itself is in random order).

    Args:
      rows: of `plan_rows`, from a stream of a validation split.
      batch_size: global B; the last batch is padded with empty rows, whose loss weights are 0.
      num_batches: at most so many; None takes the whole split.
      process_index: this process, whose part of each batch is given, [B / process_count, L].
      process_count: processes that share each batch.
      absent: fields of the mixture's other rows, as `MixtureRows.empty` has them.
    """
    check_batch_size(batch_size, process_count)
    empty = {name: _empty(name, array) for name, array in rows.epoch_example(0, 0).arrays().items()}
    part = batch_size // process_count
    available = -(-rows.rows_per_epoch // batch_size)
    for batch in range(available if num_batches is None else min(num_batches, available)):
        start = batch * batch_size + process_index * part
        numbers = range(start, start + part)
        made = [rows.epoch_example(0, number).arrays() if number < rows.rows_per_epoch else empty for number in numbers]
        yield stack_rows([absent | row for row in made])


def data_fingerprint(streams: Sequence[Stream], layout: Layout, seed: int) -> dict[str, str]:
    """What must be unchanged for a resumed run to see the rows that it would have seen, by a name a person can read.

    Streams are numbered: their names hold a digest of where the corpus lies, which is free to change.
    """
    fingerprint = {
        "seed": str(seed),
        "sequence_length": str(layout.length),
        "isolate_documents": str(layout.isolate_documents),
        "special_tokens": f"{stable_hash(layout.special_tokens):016x}",
        "modality": f"{stable_hash(layout.modality):016x}" if layout.modality else "one vocabulary",
        "streams": str(len(streams)),
    }
    for number, stream in enumerate(streams, 1):
        fingerprint |= {
            f"stream {number}: rows": stream.shuffle_key,
            f"stream {number}: tokens": _tokens_of(stream),
            f"stream {number}: modality": str(stream.reader.manifest.modality),
            f"stream {number}: objective": repr(stream.objective),
            f"stream {number}: rate": _rate_of(stream),
        }
    return fingerprint


def _rate_of(stream: Stream) -> str:
    """A stream's rate; of a schedule also in how many steps it is followed, which rows depend on as well."""
    return f"{stream.rate!r} in {SCHEDULE_BLOCKS} steps" if isinstance(stream.rate, tuple) else repr(stream.rate)


def _tokens_of(stream: Stream) -> str:
    """What a store holds, by its shards' sizes: a store made again without other benchmarks' answers has others."""
    sizes = [int(size) for size in stream.reader.shard_tokens]
    return f"{sum(sizes)} ({stable_hash(*sizes):016x})"


def stack_rows(rows: Sequence[Arrays]) -> Arrays:
    """Stacks rows of the same fields: [L] each to [B, L]."""
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _batch_maker(rows: MixtureRows, start: int, size: int, part: int) -> Callable[[int], Arrays]:
    """From a step to its `part` rows, of the `size` that each step takes from row `start` on."""
    return lambda step: stack_rows([rows[start + step * size + index] for index in range(part)])


def _empty(name: str, array: np.ndarray) -> np.ndarray:
    """A field of a row that has none: no pool for any token, otherwise zeros (padding, text, empty code slots)."""
    return np.full_like(array, -1 if name == "pool_ids" else 0)
