"""Makes a task's token store in this process: read, spool by hash, then tokenize shard after shard.

All is written under a temporary name beside the final one and renamed at the end: a store that can be seen is whole.
"""

import contextlib
import glob
import importlib.metadata
import os
import platform
import shutil
import socket
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from etils import epath

from t5x_code.buckets import in_bucket
from t5x_code.data.caching.document_hash import SHARD_TEXT_BYTES, document_hash, num_shards_for, split_of_document
from t5x_code.data.caching.shard_writer import ShardSummary, token_dtype, write_shard
from t5x_code.data.caching.spool import Spool
from t5x_code.data.caching.store_fingerprints import StoreFingerprints, store_fingerprints
from t5x_code.data.declarations import SPLITS, TRAIN, TaskDeclaration
from t5x_code.data.decontamination import Decontaminator, load_decontaminator
from t5x_code.data.document import Document, to_bytes
from t5x_code.data.manifest import FORMAT_VERSION, MANIFEST_FILE, THREADS, Manifest, checksum_folder
from t5x_code.data.sources.files import walk
from t5x_code.data.sources.source import read_documents, source_kind
from t5x_code.errors import UserError
from t5x_code.progress import progress_bar
from t5x_code.tokens.tokenizer import Tokenizer

TOKENIZER_FOLDER = "tokenizer"  # beside the splits, so that a store is all that training needs
UNKNOWN = "unknown"  # when a process was started
VERSIONED = ("t5x_code", "numpy", "tensorstore", "tokenizers")


def build_store(
    task: TaskDeclaration,
    tokenizer: Tokenizer,
    root: epath.PathLike,
    *,
    mbpp: str | None = None,
    overwrite: bool = False,
    show_progress: bool = True,
    shard_text_bytes: int = SHARD_TEXT_BYTES,
) -> epath.Path:
    """Makes `<root>/<task>/{train,validation,tokenizer}`.

    Args:
        task: what to read and how.
        tokenizer: makes the tokens.
        root: folder of token stores, local or a bucket.
        mbpp: MBPP's JSONL file, to keep its problems out of the store.
        overwrite: replace a store of that name.
        show_progress: a bar on stderr.
        shard_text_bytes: text per shard at most.

    Returns:
        The folder `<root>/<task>`.

    Raises:
        UserError: a store of that name exists; the source has no readable document; the disk is full or not writable;
            or the tokenizer takes texts for control tokens.
    """
    target = epath.Path(root) / task.name
    if target.exists() and not overwrite:
        raise UserError(f"token store {target} exists; add --overwrite to make it again")
    tokenizer.refuse_unlocked()
    fingerprints = store_fingerprints(task, tokenizer)
    parted = bool(source_kind(task.source).part_kinds)
    decontaminator = load_decontaminator(mbpp)
    try:
        with temporary_folder(target) as work:
            skipped: Counter = Counter()
            spools = _spool_documents(task, work / "spool", skipped, show_progress)
            total = sum(spool.num_bytes for spool in spools.values())
            with progress_bar(total=total, desc=f"{task.name}: tokenizing", unit="B", shown=show_progress) as bar:
                for split, spool in spools.items():
                    store = epath.Path(work / "store" / split)
                    num_shards = num_shards_for(spool.num_bytes, shard_text_bytes)
                    summaries = [
                        write_shard(store, shard, documents, tokenizer, decontaminator, bar.update, parted=parted)
                        for shard, documents in enumerate(spool.sorted_shards(num_shards))
                    ]
                    write_manifest(store, task, split, summaries, skipped, tokenizer, decontaminator, fingerprints)
            tokenizer.save(work / "store" / TOKENIZER_FOLDER)
            publish(work / "store", target, overwrite)
    except OSError as error:
        raise UserError(f"cannot write token store {target} ({error}); nothing was left there") from error
    return target


def write_manifest(
    store: epath.Path,
    task: TaskDeclaration,
    split: str,
    summaries: list[ShardSummary],
    skipped: Counter,
    tokenizer: Tokenizer,
    decontaminator: Decontaminator,
    fingerprints: StoreFingerprints,
) -> None:
    """Completes one split's folder, whose shards are written."""
    if split == TRAIN and not any(summary.documents for summary in summaries):
        raise UserError(
            f"task {task.name} leaves no document to train on: all were duplicates, benchmark answers or, by the "
            f"validation fraction {task.validation_fraction}, held out; give it more documents"
        )
    decontaminated = sum((Counter(summary.decontaminated) for summary in summaries), Counter())
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        task=task.name,
        split=split,
        num_documents=sum(summary.documents for summary in summaries),
        num_tokens=sum(summary.tokens for summary in summaries),
        num_bytes=sum(summary.num_bytes for summary in summaries),
        shard_documents=tuple(summary.documents for summary in summaries),
        shard_tokens=tuple(summary.tokens for summary in summaries),
        dtype=token_dtype(tokenizer.vocab_size).name,
        vocab_size=tokenizer.vocab_size,
        eod=tokenizer.special_tokens.eod,
        modality=task.modality,
        part_kinds=source_kind(task.source).part_kinds,
        duplicates=sum(summary.duplicates for summary in summaries),
        skipped=dict(sorted(skipped.items())),
        decontaminated={name: decontaminated[name] for name in decontaminator.searched},
        benchmarks_not_searched=dict(decontaminator.not_searched),
        fingerprint=fingerprints.whole,
        source_fingerprint=fingerprints.source,
        preprocessors_fingerprint=fingerprints.preprocessors,
        split_fingerprint=fingerprints.split,
        tokenizer_fingerprint=fingerprints.tokenizer,
        declaration=task.to_json(),
        versions={"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in VERSIONED},
        checksums=checksum_folder(store),
    )
    manifest.write(store)


def hashed(task: TaskDeclaration, documents: Iterable[Document]) -> Iterator[tuple[str, bytes, bytes]]:
    """Of each document its split, its hash and its bytes, from which its place in the store follows."""
    for document in documents:
        data = to_bytes(document)
        digest = document_hash(task.store_seed, data)
        yield split_of_document(task.store_seed, digest, document, task.validation_fraction), digest, data


def _spool_documents(task: TaskDeclaration, folder: Path, skipped: Counter, show_progress: bool) -> dict[str, Spool]:
    spools = {split: Spool(folder / split) for split in SPLITS}
    with progress_bar(desc=f"{task.name}: reading", unit="B", shown=show_progress) as bar:
        for split, digest, data in hashed(task, read_documents(task, skipped)):
            spools[split].add(digest, data)
            bar.update(len(data))
    for spool in spools.values():
        spool.finish()
    return spools


@contextlib.contextmanager
def temporary_folder(target: epath.Path, seen_by_all: bool = False) -> Iterator[epath.Path | Path]:
    """A folder beside the target, gone afterwards, as are those of killed processes of this machine. For a bucket it is
    on the local disk, or in the bucket where other machines have to see it."""
    if in_bucket(target) and seen_by_all:
        shared = target.parent / f".{target.name}.making.{uuid.uuid4().hex[:8]}"
        try:
            yield shared
        finally:
            if shared.exists():
                shared.rmtree()
        return
    if in_bucket(target):
        with tempfile.TemporaryDirectory(prefix="t5x_code.") as folder:
            yield Path(folder)
        return
    remove_leftovers(target)
    own = os.getpid()
    folder = Path(target).with_name(f"{_making(target)}.{uuid.uuid4().hex[:8]}.{_start_of(own)}.{own}")
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(target: epath.Path) -> None:
    """Removes what killed processes of this machine left beside a local store that they were making."""
    if in_bucket(target):
        return
    for leftover in Path(target).parent.glob(f"{glob.escape(_making(target))}.*"):
        started, process = leftover.name.split(".")[-2:]
        if not _is_running(int(process), started):
            shutil.rmtree(leftover, ignore_errors=True)


def _making(target: epath.Path) -> str:
    """How names of a store's temporary folders begin: a shared disk's other machines number processes alike."""
    return f".{target.name}.making.{socket.gethostname()}"


def publish(built: epath.Path | Path, target: epath.Path, overwrite: bool = False) -> None:
    """Moves a finished store into place; into a bucket file by file, the manifests last.

    Unless told to overwrite, it keeps a store that another process has put there meanwhile: a run may read it already.
    """
    if in_bucket(target):
        if not overwrite and all((target / split / MANIFEST_FILE).exists() for split in SPLITS):
            return
        if overwrite and target.exists():
            target.rmtree()
        files = sorted(walk(epath.Path(built)))
        with ThreadPoolExecutor(THREADS) as pool:
            for last in (False, True):
                chosen = [file for file in files if (file.name == MANIFEST_FILE) == last]
                list(pool.map(lambda file: _copy_below(target, file, built), chosen))  # raises what a copy raised
        return
    if overwrite and target.exists():
        os.rename(target, built.parent / "old")
    try:
        os.rename(built, target)
    except OSError:
        if overwrite or not target.exists():
            raise


def _copy_below(target: epath.Path, file: epath.Path, built: epath.PathLike) -> None:
    copy = target / file.relative_to(built).as_posix()
    copy.parent.mkdir(parents=True, exist_ok=True)
    file.copy(copy)


def _is_running(process: int, started: str) -> bool:
    """Whether the process that made a folder is another one that runs: its number may be given anew, to us as well."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is another user's
        pass
    now = _start_of(process)
    return UNKNOWN in (started, now) or now == started


def _start_of(process: int) -> str | None:
    """When a process was started, in the kernel's clock ticks; None of one that has ended and nobody has heard of yet,
    as in a container without an init process."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:  # not Linux, or hidden from us
        return UNKNOWN
    state, *numbers = stat.rpartition(")")[2].split()  # the name in parentheses may hold anything
    return None if state == "Z" else numbers[18]
