"""Turns the sorted documents of one shard into its arrays on disk.

Shape legend: N tokens of the shard, D its documents, Q their parts.
"""

import dataclasses
import itertools
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import tensorstore as ts
from etils import epath

from t5x_code.data.decontamination import Decontaminator
from t5x_code.data.document import Document, from_bytes, plain_text, text_of
from t5x_code.data.token_store import kvstore_url, shard_folder
from t5x_code.source_code.problems import group_number
from t5x_code.tokens.tokenizer import Tokenizer

BATCH_BYTES = 4 << 20  # text per call of the tokenizer: enough for all cores
BATCHES_AHEAD = 2
INNER_CHUNK = 8192  # raw tokens that one read fetches at least: random rows come at 50 M tokens/s
FILE_TOKENS = 1 << 25


@dataclasses.dataclass(frozen=True)
class ShardSummary:
    """Counts of one shard."""

    documents: int
    tokens: int
    num_bytes: int
    duplicates: int
    decontaminated: dict[str, int]


def write_shard(
    store: epath.Path,
    shard: int,
    documents: Iterable[tuple[bytes, bytes]],
    tokenizer: Tokenizer,
    decontaminator: Decontaminator,
    report: Callable[[int], None] = lambda num_bytes: None,
    parted: bool = False,
) -> ShardSummary:
    """Writes `tokens` and `document_ends` of a shard under a temporary name, then renames it.

    Of documents in parts also `part_ends`, `part_kinds` and `groups`; see data/document.py.

    Args:
        store: the split's folder.
        shard: the shard's number.
        documents: (hash, bytes of the document) in ascending order; equal neighbours are duplicates.
        tokenizer: encodes batches of documents, while the next batch is being made.
        decontaminator: finds the documents to drop.
        report: is told the bytes of text done, as they are done.
        parted: whether the documents are in parts.
    """
    counts: Counter = Counter()
    decontaminated: Counter = Counter()
    kept = _kept_documents(documents, parted, decontaminator, counts, decontaminated)
    ids, structures = [], []
    for document_ids, structure in _encode(kept, tokenizer, report):
        ids.append(document_ids)
        structures.append(structure)
    tokens_N, ends_D = _concatenate(ids, tokenizer)
    final = shard_folder(store, shard)
    temporary = final.parent / f".{final.name}.{uuid.uuid4().hex[:8]}"
    write_arrays(temporary, tokens_N, {"document_ends": ends_D} | (_part_arrays(structures, ends_D) if parted else {}))
    temporary.rename(final)
    return ShardSummary(
        len(ends_D), len(tokens_N), counts["bytes"], counts["duplicates"], dict(sorted(decontaminated.items()))
    )


def write_arrays(folder: epath.Path, tokens_N: np.ndarray, others: dict[str, np.ndarray]) -> None:
    """Writes a shard's arrays: its tokens, and by name what is read whole.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    _write_tokens(folder / "tokens", tokens_N)
    for name, array in others.items():
        _write_array(folder / name, array, chunk=max(1, len(array)), codecs=[_bytes_codec()])


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest unsigned type that holds every id."""
    return np.min_scalar_type(vocab_size - 1)


@dataclasses.dataclass(frozen=True)
class _Structure:
    """The inside of one document in parts."""

    part_lengths: list[int]
    part_kinds: list[int]
    group: int


def _kept_documents(
    documents: Iterable[tuple[bytes, bytes]],
    parted: bool,
    decontaminator: Decontaminator,
    counts: Counter,
    decontaminated: Counter,
) -> Iterator[tuple[Document, int]]:
    """Documents with their bytes, without duplicates and benchmark answers; counts as it goes."""
    previous = None
    for digest, data in documents:
        if digest == previous:
            counts["duplicates"] += 1
            continue
        previous = digest
        document = from_bytes(data, parted)
        benchmark = decontaminator.find(plain_text(text_of(document)))
        if benchmark is not None:
            decontaminated[benchmark] += 1
            continue
        parts = [part.text for part in document.parts] if parted else [document]
        counts["bytes"] += sum(len(text.encode("utf-8")) for text in parts)  # `data` holds more than texts
        yield document, len(data)


def _encode(
    documents: Iterator[tuple[Document, int]], tokenizer: Tokenizer, report: Callable[[int], None]
) -> Iterator[tuple[np.ndarray, _Structure | None]]:
    """Token ids of each document; the tokenizer works on all cores while this thread makes the next batches."""
    waiting: list[tuple[Future, int]] = []
    dtype = token_dtype(tokenizer.vocab_size)

    def encode(batch: list[Document]) -> list[tuple[np.ndarray, _Structure | None]]:
        return [(ids.astype(dtype), structure) for ids, structure in _encode_batch(batch, tokenizer)]

    with ThreadPoolExecutor(max_workers=1) as executor:
        for batch, num_bytes in _batches(documents):
            waiting.append((executor.submit(encode, batch), num_bytes))
            if len(waiting) > BATCHES_AHEAD:
                future, done = waiting.pop(0)
                yield from future.result()
                report(done)
        for future, done in waiting:
            yield from future.result()
            report(done)


def _encode_batch(batch: list[Document], tokenizer: Tokenizer) -> Iterator[tuple[np.ndarray, _Structure | None]]:
    """Each part is tokenized by itself, so that tokens never reach over two parts."""
    if isinstance(batch[0], str):
        yield from ((ids, None) for ids in tokenizer.encode_batch(batch))
        return
    encoded = iter(tokenizer.encode_marked_batch([part.text for document in batch for part in document.parts]))
    for document in batch:
        parts = [next(encoded) for _ in document.parts]
        lengths, kinds = [len(part) for part in parts], [part.kind for part in document.parts]
        group = group_number(document.group) if document.group else 0
        yield np.concatenate([np.zeros(0, np.int32), *parts]), _Structure(lengths, kinds, group)


def _batches(documents: Iterator[tuple[Document, int]]) -> Iterator[tuple[list[Document], int]]:
    batch: list[Document] = []
    total = 0
    for document, num_bytes in documents:
        batch.append(document)
        total += num_bytes
        if total >= BATCH_BYTES:
            yield batch, total
            batch, total = [], 0
    if batch:
        yield batch, total


def _part_arrays(structures: list[_Structure], ends_D: np.ndarray) -> dict[str, np.ndarray]:
    """What a store keeps of its documents' parts; see data/document.py."""
    starts = [0, *ends_D[:-1].tolist()] if len(ends_D) else []
    ends = [
        start + end
        for start, structure in zip(starts, structures, strict=True)
        for end in itertools.accumulate(structure.part_lengths)
    ]
    return {
        "part_ends": np.array(ends, np.int64),
        "part_kinds": np.array([kind for structure in structures for kind in structure.part_kinds], np.uint8),
        "groups": np.array([structure.group for structure in structures], np.int64),
    }


def _concatenate(ids: list[np.ndarray], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """tokens [N] with eod after each document, and the exclusive ends [D] of the documents."""
    lengths_D = np.array([len(document) + 1 for document in ids], dtype=np.int64)
    ends_D = np.cumsum(lengths_D)
    num_tokens = int(ends_D[-1]) if len(ends_D) else 0
    tokens_N = np.empty(num_tokens, dtype=token_dtype(tokenizer.vocab_size))
    for document, end in zip(ids, ends_D, strict=True):
        tokens_N[end - 1 - len(document) : end - 1] = document
    tokens_N[ends_D - 1] = tokenizer.special_tokens.eod
    return tokens_N, ends_D


def _write_tokens(path: epath.Path, tokens_N: np.ndarray) -> None:
    chunk = min(FILE_TOKENS, max(1, -(-len(tokens_N) // INNER_CHUNK)) * INNER_CHUNK)
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [INNER_CHUNK],
            "codecs": [_bytes_codec()],
            "index_codecs": [_bytes_codec(), {"name": "crc32c"}],
        },
    }
    _write_array(path, tokens_N, chunk, [sharding])


def _write_array(path: epath.Path, array: np.ndarray, chunk: int, codecs: list[dict]) -> None:
    spec = {
        "driver": "zarr3",
        "kvstore": kvstore_url(path),
        "metadata": {
            "shape": list(array.shape),
            "data_type": array.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk]}},
            "codecs": codecs,
        },
        "store_data_equal_to_fill_value": True,  # so that a chunk that is not there was lost
    }
    try:
        ts.open(spec, create=True).result().write(array).result()
    except ValueError as error:  # TensorStore's only kind; the disk is full or the folder cannot be written
        raise OSError(f"writing {path} failed: {str(error).splitlines()[0]}") from error


def _bytes_codec() -> dict:
    return {"name": "bytes", "configuration": {"endian": "little"}}
