"""Makes a task's token store with Apache Beam, on any of its runners; the same store as `build` makes in one process.

Two passes over the source: the first counts its bytes, from which the number of shards follows; the second sends each
document to its shard, which one worker sorts, tokenizes and writes. What the workers count goes through files beside
the shards, so that a runner need not give anything back. The root must be a folder that every worker sees.
"""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from etils import epath

from t5x_code.data.caching.build import TOKENIZER_FOLDER, hashed, publish, temporary_folder, write_manifest
from t5x_code.data.caching.child import import_path
from t5x_code.data.caching.document_hash import SHARD_TEXT_BYTES, num_shards_for, part_of
from t5x_code.data.caching.shard_writer import ShardSummary, write_shard
from t5x_code.data.caching.store_fingerprints import store_fingerprints
from t5x_code.data.declarations import SPLITS, SourceDeclaration, TaskDeclaration
from t5x_code.data.decontamination import Decontaminator, load_decontaminator
from t5x_code.data.sources.source import no_readable_document, parts_of, readable_documents, source_kind
from t5x_code.data.token_store import shard_folder
from t5x_code.errors import UserError
from t5x_code.tokens.tokenizer import Tokenizer

SKIPPED = "skipped "  # before the reason, among the counts; bytes are counted by split
COUNTS, SUMMARIES = "counts", "summaries"
HashedBytes = tuple[bytes, bytes]  # a document's hash and bytes


def build_store_with_beam(
    task: TaskDeclaration,
    tokenizer: Tokenizer,
    root: epath.PathLike,
    *,
    runner: str,
    options: Sequence[str] = (),
    mbpp: str | None = None,
    overwrite: bool = False,
    shard_text_bytes: int = SHARD_TEXT_BYTES,
) -> epath.Path:
    """Makes `<root>/<task>/{train,validation,tokenizer}`, as `build.build_store` does.

    Args:
        task: what to read and how.
        tokenizer: makes the tokens.
        root: folder of token stores that every worker sees.
        runner: Beam's name, such as DirectRunner, DataflowRunner, FlinkRunner, SparkRunner.
        options: of the runner, `name=value` each.
        mbpp: MBPP's JSONL file, to keep its problems out of the store.
        overwrite: replace a store of that name.
        shard_text_bytes: text per shard at most.

    Raises:
        UserError: as `build_store`; the runner is unknown or fails.
    """
    target = epath.Path(root) / task.name
    if target.exists() and not overwrite:
        raise UserError(f"token store {target} exists; add --overwrite to make it again")
    tokenizer.refuse_unlocked()
    fingerprints = store_fingerprints(task, tokenizer)
    decontaminator = load_decontaminator(mbpp)
    os.environ["PYTHONPATH"] = import_path()  # workers are processes of their own
    pipeline_options = PipelineOptions([f"--runner={runner}", *(f"--{option}" for option in options)])
    try:
        with temporary_folder(target, seen_by_all=True) as work:
            counts = _count(task, str(work / COUNTS), pipeline_options)
            skipped = Counter({k.removeprefix(SKIPPED): n for k, n in counts.items() if k.startswith(SKIPPED)})
            if not any(counts[split] for split in SPLITS):
                raise no_readable_document(task, skipped)
            num_shards = {split: num_shards_for(counts[split], shard_text_bytes) for split in SPLITS}
            _write(task, tokenizer, decontaminator, str(work), num_shards, pipeline_options)
            for split in SPLITS:
                summaries = [_read_summary(work / SUMMARIES / split, shard) for shard in range(num_shards[split])]
                store = epath.Path(work / "store" / split)
                write_manifest(store, task, split, summaries, skipped, tokenizer, decontaminator, fingerprints)
            tokenizer.save(work / "store" / TOKENIZER_FOLDER)
            publish(work / "store", target, overwrite)
    except OSError as error:
        raise UserError(f"cannot write token store {target} ({error}); nothing was left there") from error
    return target


def _count(task: TaskDeclaration, file: str, options: PipelineOptions) -> Counter:
    """Bytes of text by split, and what was skipped by reason."""
    _run(
        options,
        lambda pipeline: (
            pipeline
            | "Parts" >> beam.Create(parts_of(task.source))
            | "Spread" >> beam.Reshuffle()
            | "Count" >> beam.FlatMap(_count_part, task)
            | "Sum" >> beam.CombinePerKey(sum)
            | "Whole" >> beam.combiners.ToList()
            | "Tell" >> beam.Map(lambda counts, file: epath.Path(file).write_text(json.dumps(dict(counts))), file)
        ),
    )
    return Counter(json.loads(epath.Path(file).read_text()))


def _write(
    task: TaskDeclaration,
    tokenizer: Tokenizer,
    decontaminator: Decontaminator,
    work: str,
    num_shards: dict[str, int],
    options: PipelineOptions,
) -> None:
    """All shards of both splits, those without a document too."""
    shards = [((split, shard), None) for split, count in num_shards.items() for shard in range(count)]

    def build(pipeline: beam.Pipeline) -> Any:
        documents = (
            pipeline
            | "Parts" >> beam.Create(parts_of(task.source))
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.FlatMap(_documents_by_shard, task, num_shards)
        )
        return (
            (documents, pipeline | "Shards" >> beam.Create(shards))
            | beam.Flatten()
            | "By shard" >> beam.GroupByKey()
            | "Write"
            >> beam.ParDo(_WriteShard(tokenizer, decontaminator, work, bool(source_kind(task.source).part_kinds)))
        )

    _run(options, build)


def _run(options: PipelineOptions, build: Callable[[beam.Pipeline], Any]) -> None:
    """Runs a pipeline to its end; what a worker refuses comes back as its one line."""
    try:
        with beam.Pipeline(options=options) as pipeline:
            build(pipeline)
    except (UserError, OSError):
        raise
    except Exception as error:  # Beam wraps what its workers raise in many ways, with their trace as text
        lines = [line for line in str(error).splitlines() if line.strip()]
        refusals = [line.partition("UserError: ")[2] for line in lines if "UserError: " in line]
        reason = refusals[-1] if refusals else f"the runner failed: {lines[-1] if lines else type(error).__name__}"
        raise UserError(reason[:400]) from error


def _read(part: SourceDeclaration, task: TaskDeclaration, skipped: Counter) -> Iterator[tuple[str, bytes, bytes]]:
    """Split, hash and bytes of each document of a part of the source."""
    return hashed(task, readable_documents(dataclasses.replace(task, source=part), skipped))


def _count_part(part: SourceDeclaration, task: TaskDeclaration) -> Iterable[tuple[str, int]]:
    skipped: Counter = Counter()
    num_bytes: Counter = Counter(dict.fromkeys(SPLITS, 0))
    for split, _, data in _read(part, task, skipped):
        num_bytes[split] += len(data)
    return [*num_bytes.items(), *((SKIPPED + reason, count) for reason, count in skipped.items())]


def _documents_by_shard(
    part: SourceDeclaration, task: TaskDeclaration, num_shards: dict[str, int]
) -> Iterator[tuple[tuple[str, int], HashedBytes]]:
    for split, digest, data in _read(part, task, Counter()):
        yield (split, part_of(digest, num_shards[split])), (digest, data)


class _WriteShard(beam.DoFn):
    """Sorts, tokenizes and writes one shard; written again where a runner tries again."""

    def __init__(self, tokenizer: Tokenizer, decontaminator: Decontaminator, work: str, parted: bool):
        self._tokenizer, self._decontaminator, self._work, self._parted = tokenizer, decontaminator, work, parted

    def process(self, element: tuple[tuple[str, int], Iterable[HashedBytes | None]]) -> None:
        (split, shard), documents = element
        store = epath.Path(self._work) / "store" / split
        if shard_folder(store, shard).exists():
            shard_folder(store, shard).rmtree()
        kept = sorted(document for document in documents if document is not None)
        summary = write_shard(store, shard, kept, self._tokenizer, self._decontaminator, parted=self._parted)
        folder = epath.Path(self._work) / SUMMARIES / split
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(shard)).write_text(json.dumps(dataclasses.asdict(summary)))


def _read_summary(folder: epath.Path, shard: int) -> ShardSummary:
    return ShardSummary(**json.loads((folder / str(shard)).read_text()))
