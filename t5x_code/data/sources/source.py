"""One door to all sources: documents, what was skipped counted by reason, and a fingerprint of their files."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from etils import epath

from t5x_code.buckets import read_span, size_of
from t5x_code.data.declarations import SourceDeclaration, TaskDeclaration
from t5x_code.data.document import Document, edit_texts, text_of
from t5x_code.data.manifest import fingerprint_of
from t5x_code.data.preprocessors import find_preprocessors
from t5x_code.data.sources import (
    jsonl,
    pairs,
    parquet,
    problems,
    python_docs,
    python_stdlib,
    seqio_task,
    text_files,
    tfds,
)
from t5x_code.data.sources.files import WILDCARDS, SourceFile, is_of_bucket, of_each
from t5x_code.errors import UserError
from t5x_code.objectives.ntp_plus import CODE_KINDS
from t5x_code.objectives.text_to_code import PAIR_KINDS
from t5x_code.surrogates import holds_surrogates

HASHED_BYTES = 256 << 20  # at most so much of a source is read to know its state
END_BYTES = 1 << 20  # at a file's beginning, and at its end, by which with its size a file of a larger source is known


@dataclasses.dataclass(frozen=True)
class SourceKind:
    """How one kind of source is read, and how its state is known."""

    documents: Callable[[SourceDeclaration, str, Counter], Iterator[Document]]
    state: Callable[[SourceDeclaration], list]  # JSON: whatever the documents depend on
    options: tuple[str, ...] = ()  # that it takes
    state_needs_tensorflow: bool = False
    files: Callable[[SourceDeclaration], list[SourceFile]] | None = None  # each readable by itself, where there are any
    part_kinds: tuple[str, ...] = ()  # what the parts of its documents are called by number; empty: plain texts
    transformations: tuple[str, ...] = ()  # name@version of what it makes of its texts


def _state_of_files(files: Callable[[SourceDeclaration], list[SourceFile]]) -> Callable[[SourceDeclaration], list]:
    def state(source: SourceDeclaration) -> list:
        found = files(source)
        paths = [file.path for file in found]
        sizes = [file.num_bytes for file in found]
        if None in sizes:
            sizes = of_each(size_of, paths)
        total = sum(sizes)
        # Not by their times, which a copy does not keep.
        end_bytes = total if total < HASHED_BYTES else min(END_BYTES, HASHED_BYTES // (2 * len(found)))
        by_path = dict(zip(paths, sizes, strict=True))
        known_by = of_each(lambda path: _content_hash(path, by_path[path], end_bytes), paths)
        return [[file.name, size, known] for file, size, known in zip(found, sizes, known_by, strict=True)]

    return state


def _content_hash(path: epath.Path, size: int, end_bytes: int) -> str:
    """Of the first and the last `end_bytes` of a file; of all of it where it has no more."""
    spans = [(0, size)] if size <= 2 * end_bytes else [(0, end_bytes), (size - end_bytes, size)]
    digest = hashlib.blake2b(digest_size=16)
    try:
        for start, stop in spans:
            digest.update(read_span(path, start, stop) if stop > start else b"")
        return digest.hexdigest()
    except OSError as error:
        if is_of_bucket(error, path):
            raise
        return "not readable"


SOURCES: Mapping[str, SourceKind] = MappingProxyType(
    {
        "python_stdlib": SourceKind(python_stdlib.documents, _state_of_files(python_stdlib.files)),
        "python_docs": SourceKind(python_docs.documents, _state_of_files(python_docs.files)),
        "jsonl": SourceKind(jsonl.documents, _state_of_files(jsonl.files), files=jsonl.files),
        "parquet": SourceKind(parquet.documents, _state_of_files(parquet.files), ("lang",), files=parquet.files),
        "text_files": SourceKind(
            text_files.documents, _state_of_files(text_files.files), ("suffix",), files=text_files.files
        ),
        "python_pairs": SourceKind(
            pairs.library_documents, _state_of_files(python_stdlib.files), part_kinds=PAIR_KINDS
        ),
        "jsonl_pairs": SourceKind(
            pairs.jsonl_documents,
            _state_of_files(jsonl.files),
            ("docstring", "code"),
            part_kinds=PAIR_KINDS,
            files=jsonl.files,
        ),
        "python_functions": SourceKind(
            problems.library_documents,
            _state_of_files(python_stdlib.files),
            ("limit",),
            part_kinds=CODE_KINDS,
            transformations=problems.TRANSFORMATIONS,
        ),
        "problems": SourceKind(
            problems.file_documents,
            _state_of_files(problems.files),
            ("limit",),
            part_kinds=CODE_KINDS,
            transformations=problems.TRANSFORMATIONS,
        ),
        "tfds": SourceKind(tfds.documents, tfds.state, ("split", "data_dir"), state_needs_tensorflow=True),
        "seqio": SourceKind(seqio_task.documents, seqio_task.state),
    }
)


def source_kind(source: SourceDeclaration) -> SourceKind:
    """The kind's functions, or a UserError that lists the kinds."""
    if source.kind not in SOURCES:
        raise UserError(f"unknown kind of source {source.kind}; there are {', '.join(SOURCES)}")
    return SOURCES[source.kind]


def read_documents(task: TaskDeclaration, skipped: Counter) -> Iterator[Document]:
    """Documents of a task after its preprocessors, in the order of the source.

    Args:
        task: whose source to read.
        skipped: counts what was left out, by reason; grows while the documents are read.

    Raises:
        UserError: a path is missing, a file is damaged, or, at the end, not one document was readable.
    """
    found = False
    for document in readable_documents(task, skipped):
        found = True
        yield document
    if not found:
        raise no_readable_document(task, skipped)


def readable_documents(task: TaskDeclaration, skipped: Counter) -> Iterator[Document]:
    """As `read_documents`, for a part of a source, which may have none."""
    preprocessors = find_preprocessors(task.preprocessors)
    for document in source_kind(task.source).documents(task.source, task.text_field, skipped):
        document = edit_texts(document, preprocessors)
        text = text_of(document)
        if not text.strip():
            skipped["empty"] += 1
        elif holds_surrogates(text):
            skipped["not UTF-8"] += 1
        else:
            yield document


def no_readable_document(task: TaskDeclaration, skipped: Counter) -> UserError:
    """What is raised where a whole source has none."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(skipped.items())) or "it is empty"
    kind, advice = task.source.kind, ""
    if any(reason.startswith("no field") for reason in skipped):
        is_pairs = kind == "jsonl_pairs"
        advice = f"; name {'them' if is_pairs else 'it'}, as in {kind}:PATH?"
        advice += "docstring=doc&code=body" if is_pairs else "field=content"
    return UserError(
        f"task {task.name}: its source {kind}:{task.source.path} has no readable document ({reasons}){advice}"
    )


def parts_of(source: SourceDeclaration) -> list[SourceDeclaration]:
    """Sources that together give the documents of one, to be read by different workers: one per file where it can."""
    list_files = source_kind(source).files
    if list_files is None:
        return [source]
    paths = [str(file.path) for file in list_files(source)]
    if any(sign in path for path in paths for sign in WILDCARDS):  # such a name would be taken for a pattern
        return [source]
    return [dataclasses.replace(source, path=path) for path in paths]


def source_fingerprint(source: SourceDeclaration) -> str:
    """Hex digest of what the documents come from: kind, options and files, but not where the files lie."""
    return fingerprint_of([source.kind, source.options, source_kind(source).state(source)])
