"""Turns the sorted documents of one shard into its two arrays on disk.

Shape legend: N tokens of the shard, D its documents.
"""

import dataclasses
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import tensorstore as ts
from etils import epath

from t5x_code.data.decontamination import Decontaminator
from t5x_code.data.token_store import kvstore_url, shard_folder
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
) -> ShardSummary:
    """Writes `tokens` and `document_ends` of a shard under a temporary name, then renames it.

    Args:
        store: the split's folder.
        shard: the shard's number.
        documents: (hash, UTF-8 text) in ascending order; equal neighbours are duplicates.
        tokenizer: encodes batches of documents, while the next batch is being made.
        decontaminator: finds the documents to drop.
        report: is told the bytes of text done, as they are done.
    """
    counts: Counter = Counter()
    decontaminated: Counter = Counter()
    kept = _kept_texts(documents, decontaminator, counts, decontaminated)
    ids = list(_encode(kept, tokenizer, report))
    tokens_N, ends_D = _concatenate(ids, tokenizer)
    final = shard_folder(store, shard)
    temporary = final.parent / f".{final.name}.{uuid.uuid4().hex[:8]}"
    _write_tokens(temporary / "tokens", tokens_N)
    _write_array(temporary / "document_ends", ends_D, chunk=max(1, len(ends_D)), codecs=[_bytes_codec()])
    temporary.rename(final)
    return ShardSummary(
        len(ends_D), len(tokens_N), counts["bytes"], counts["duplicates"], dict(sorted(decontaminated.items()))
    )


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest unsigned type that holds every id."""
    return np.min_scalar_type(vocab_size - 1)


def _kept_texts(
    documents: Iterable[tuple[bytes, bytes]], decontaminator: Decontaminator, counts: Counter, decontaminated: Counter
) -> Iterator[tuple[str, int]]:
    """Texts with their bytes, without duplicates and benchmark answers; counts as it goes."""
    previous = None
    for digest, data in documents:
        if digest == previous:
            counts["duplicates"] += 1
            continue
        previous = digest
        text = data.decode("utf-8")
        benchmark = decontaminator.find(text)
        if benchmark is not None:
            decontaminated[benchmark] += 1
            continue
        counts["bytes"] += len(data)
        yield text, len(data)


def _encode(
    texts: Iterator[tuple[str, int]], tokenizer: Tokenizer, report: Callable[[int], None]
) -> Iterator[np.ndarray]:
    """Token ids of each text; the tokenizer works on all cores while this thread makes the next batches."""
    waiting: list[tuple[Future, int]] = []
    dtype = token_dtype(tokenizer.vocab_size)

    def encode(batch: list[str]) -> list[np.ndarray]:
        return [ids.astype(dtype) for ids in tokenizer.encode_batch(batch)]

    with ThreadPoolExecutor(max_workers=1) as executor:
        for batch, num_bytes in _batches(texts):
            waiting.append((executor.submit(encode, batch), num_bytes))
            if len(waiting) > BATCHES_AHEAD:
                future, done = waiting.pop(0)
                yield from future.result()
                report(done)
        for future, done in waiting:
            yield from future.result()
            report(done)


def _batches(texts: Iterator[tuple[str, int]]) -> Iterator[tuple[list[str], int]]:
    batch: list[str] = []
    total = 0
    for text, num_bytes in texts:
        batch.append(text)
        total += num_bytes
        if total >= BATCH_BYTES:
            yield batch, total
            batch, total = [], 0
    if batch:
        yield batch, total


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
    }
    try:
        ts.open(spec, create=True).result().write(array).result()
    except ValueError as error:  # TensorStore's only kind; the disk is full or the folder cannot be written
        raise OSError(f"writing {path} failed: {str(error).splitlines()[0]}") from error


def _bytes_codec() -> dict:
    return {"name": "bytes", "configuration": {"endian": "little"}}
