"""The vocabulary of a corpus that brings none: a byte-level BPE trained on a sample of it, once."""

import heapq
import os
import shutil
from collections import Counter
from collections.abc import Sequence

from etils import epath

from t5x_code.buckets import in_bucket
from t5x_code.data.caching.document_hash import document_hash, split_of_document
from t5x_code.data.declarations import TRAIN, TaskDeclaration
from t5x_code.data.document import plain_text, text_of, to_bytes
from t5x_code.data.manifest import fingerprint_of
from t5x_code.data.sources.source import read_documents, source_fingerprint, source_kind
from t5x_code.errors import UserError
from t5x_code.objectives.text_to_code import PAIR_KINDS
from t5x_code.tokens import train_bpe
from t5x_code.tokens.special_tokens import PAIR_TEXTS
from t5x_code.tokens.tokenizer import TOKENIZER_FILE, Tokenizer

VOCAB_SIZE = 8192
NUM_MASKS = 100
SAMPLE_BYTES = 8 << 20
RULE_VERSION = 2  # of the sample and the training


def embedded_tokenizer(root: epath.PathLike, tasks: Sequence[TaskDeclaration]) -> epath.Path:
    """A tokenizer trained on the tasks' training documents, each giving an equal share of the sample: its documents of
    lowest hash. Trained when missing, and then kept.

    Raises:
        UserError: a source cannot be read, or the folder cannot be written.
    """
    folder = embedded_tokenizer_folder(root, tasks)
    if (folder / TOKENIZER_FILE).exists():
        return folder
    texts = [text for task in tasks for text in sample_documents(task, SAMPLE_BYTES // len(tasks))]
    pair_tokens = PAIR_TEXTS if _have_pairs(tasks) else ()
    tokenizer = train_bpe.train(texts, VOCAB_SIZE, NUM_MASKS, pair_tokens)
    try:
        _publish(tokenizer, folder)
    except OSError as error:
        raise UserError(f"cannot write the tokenizer {folder} ({error.strerror or error})") from error
    return folder


def _publish(tokenizer: Tokenizer, folder: epath.Path) -> None:
    """Puts a tokenizer's folder in its place whole; in a bucket its file of that name appears whole, as the last."""
    if in_bucket(folder):
        tokenizer.save(folder)
        return
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        tokenizer.save(temporary)
        os.rename(temporary, folder)
    except OSError:  # the disk is full, or another process was first, with the same tokenizer
        shutil.rmtree(temporary, ignore_errors=True)
        if not folder.exists():
            raise


def embedded_tokenizer_folder(root: epath.PathLike, tasks: Sequence[TaskDeclaration]) -> epath.Path:
    """Where `embedded_tokenizer` keeps its own: `<root>/tokenizers/<fingerprint>`, the same for the same corpus.

    Raises:
        UserError: a source cannot be read.
    """
    parts = [[task.to_json() | {"source": source_fingerprint(task.source)}] for task in tasks]
    fingerprint = fingerprint_of([RULE_VERSION, VOCAB_SIZE, NUM_MASKS, SAMPLE_BYTES, parts])
    return epath.Path(root) / "tokenizers" / fingerprint[:16]


def fitted(tokenizer: Tokenizer, tasks: Sequence[TaskDeclaration]) -> Tokenizer:
    """The tokenizer with all tokens that the tasks' documents need: docstring-code pairs hold linearised code."""
    return tokenizer.with_pair_tokens() if _have_pairs(tasks) else tokenizer


def _have_pairs(tasks: Sequence[TaskDeclaration]) -> bool:
    return any(source_kind(task.source).part_kinds == PAIR_KINDS for task in tasks)


def sample_documents(task: TaskDeclaration, num_bytes: int) -> list[str]:
    """Training documents of lowest hash, together at most `num_bytes` of UTF-8 text, in the order of their hash.

    The last of them is cut where there is no room for all of it.
    """
    kept: list[tuple[int, bytes, bytes]] = []  # a heap with the highest hash on top
    seen: set[bytes] = set()
    total = 0
    for document in read_documents(task, Counter()):
        digest = document_hash(task.store_seed, to_bytes(document))
        split = split_of_document(task.store_seed, digest, document, task.validation_fraction)
        if digest in seen or split != TRAIN:
            continue
        seen.add(digest)
        data = plain_text(text_of(document)).encode("utf-8")[:num_bytes]
        heapq.heappush(kept, (-int.from_bytes(digest, "big"), digest, data))
        total += len(data)
        while total - len(kept[0][2]) >= num_bytes:
            _, dropped, data = heapq.heappop(kept)
            seen.remove(dropped)  # it would be dropped again; a set of the whole corpus would outgrow memory
            total -= len(data)
    sample = [data for _, _, data in sorted(kept, reverse=True)]
    if total > num_bytes:
        sample[-1] = sample[-1][: num_bytes - total]
    return [data.decode("utf-8", errors="ignore") for data in sample]
