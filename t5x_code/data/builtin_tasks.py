"""The tasks and mixtures that come with the package, and the short form `KIND:PATH` for a user's own files."""

import dataclasses
import difflib
import hashlib
import re
from collections.abc import Mapping
from types import MappingProxyType

from etils import epath

from t5x_code.data.declarations import (
    TRAIN,
    MixtureDeclaration,
    SourceDeclaration,
    TaskDeclaration,
)
from t5x_code.data.manifest import Manifest
from t5x_code.data.sources.source import source_kind
from t5x_code.errors import UserError
from t5x_code.tokens.modality import CODE_MODALITY, MODALITY_NAMES, TEXT_MODALITY

# The languages of the released CodeGen2 models (model card).
STACK_LANGUAGES = (
    "c,c++,c-sharp,dart,go,java,javascript,kotlin,lua,php,python,ruby,rust,scala,shell,sql,swift,typescript,vue"
)
PATH_KINDS = ("jsonl", "jsonl_pairs", "parquet", "problems", "text_files", "tfds")
SHARED_OPTIONS = ("field", "modality")

# Small corpora hold out more, for a steady validation loss.
PYTHON_STDLIB = TaskDeclaration("python_stdlib", SourceDeclaration("python_stdlib"), validation_fraction=0.04)
PYTHON_DOCS = TaskDeclaration(
    "python_docs", SourceDeclaration("python_docs"), validation_fraction=0.04, modality=TEXT_MODALITY
)
# Docstrings and functions; a function is never in both splits, but near copies of one may be.
PYTHON_PAIRS = TaskDeclaration("python_pairs", SourceDeclaration("python_pairs"), validation_fraction=0.04)
# Functions of the library with what is made of them: the part of NTP+ that needs no problems with several solutions.
NTP_PLUS = TaskDeclaration("ntp_plus", SourceDeclaration("python_functions"), validation_fraction=0.05)
THE_STACK = TaskDeclaration(
    "the_stack",
    SourceDeclaration("parquet", "the_stack/data/*/*.parquet", (("lang", STACK_LANGUAGES),)),
    text_field="content",
)
THE_PILE = TaskDeclaration("the_pile", SourceDeclaration("jsonl", "the_pile/train/*.jsonl.zst"), modality=TEXT_MODALITY)

TASKS: Mapping[str, TaskDeclaration] = MappingProxyType(
    {task.name: task for task in (PYTHON_STDLIB, PYTHON_DOCS, PYTHON_PAIRS, NTP_PLUS, THE_STACK, THE_PILE)}
)
MIXTURES: Mapping[str, MixtureDeclaration] = MappingProxyType(
    {
        "code_nl": MixtureDeclaration("code_nl", ((PYTHON_STDLIB, 1.0), (PYTHON_DOCS, 1.0))),
        "stack_pile": MixtureDeclaration("stack_pile", ((THE_STACK, 1.0), (THE_PILE, 1.0))),
    }
)


def declaration_for(name: str, stores: epath.PathLike | None = None) -> MixtureDeclaration:
    """The mixture of a name.

    Args:
        name: a built-in mixture; a built-in task, which stands for a mixture of itself; or `KIND:PATH[?options]` with
            KIND one of `PATH_KINDS`. Options are those of the source (`lang=python,go`, `suffix=.py`), and `field=`,
            the field of the document, and `modality=text|code`. A built-in task may be told where its files lie:
            `the_stack:/data/stack/*/*.parquet`.
        stores: folder of token stores; the name of a store there, such as one made from a SeqIO task, is known too.

    Raises:
        UserError: an unknown name, with those that exist.
    """
    if name in MIXTURES:
        return MIXTURES[name]
    if stores is not None and (store := epath.Path(stores) / name / TRAIN).exists():
        return _single(TaskDeclaration.from_json(Manifest.read(store).declaration))
    head, colon, path = name.partition(":")
    if head in TASKS and (not colon or TASKS[head].source.path):
        task = TASKS[head]
        source = SourceDeclaration(task.source.kind, path or task.source.path, task.source.options)
        task = dataclasses.replace(task, source=source)
    elif colon and head in PATH_KINDS:
        task = _task_of_path(head, path)
    else:
        known = [*MIXTURES, *TASKS, *(f"{kind}:PATH" for kind in PATH_KINDS)]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"unknown task or mixture {name}; {hint}there are {', '.join(known)}")
    return _single(task)


def spell(task: TaskDeclaration) -> str:
    """What a person writes for a task: `declaration_for` gives it back."""
    source = task.source
    if task.name in TASKS:
        return task.name if source == TASKS[task.name].source else f"{task.name}:{source.path}"
    options = dict(source.options) | {"field": task.text_field, "modality": MODALITY_NAMES[task.modality]}
    options = {name: value for name, value in options.items() if value != _default(source.kind, name)}
    query = "&".join(f"{name}={value}" for name, value in sorted(options.items()))
    return f"{source.kind}:{source.path}" + (f"?{query}" if query else "")


def _single(task: TaskDeclaration) -> MixtureDeclaration:
    return MixtureDeclaration(task.name, ((task, 1.0),))


def _task_of_path(kind: str, text: str) -> TaskDeclaration:
    # A question mark is also a wildcard: options are only what looks like name=value after the last one.
    match = re.fullmatch(r"(.*)\?(\w+=[^?]*)", text, re.DOTALL)
    path, query = match.groups() if match else (text, "")
    if not path:
        raise UserError(f"{kind}: has no path; write {kind}:PATH")
    options = dict(pair.partition("=")[::2] for pair in query.split("&")) if query else {}
    field = options.pop("field", _default(kind, "field"))
    modality = options.pop("modality", _default(kind, "modality"))
    if modality not in MODALITY_NAMES:
        raise UserError(f"{kind}:{text}: modality {modality} is none of {', '.join(MODALITY_NAMES)}")
    source = SourceDeclaration(kind, path, tuple(sorted(options.items())))
    known = source_kind(source).options
    unknown = [name for name in options if name not in known]
    if unknown:
        raise UserError(f"{kind}:{text}: unknown option {unknown[0]}; there are {', '.join([*known, *SHARED_OPTIONS])}")
    task = TaskDeclaration("", source, text_field=field, modality=MODALITY_NAMES.index(modality))
    stem = re.sub(r"[^A-Za-z0-9]+", "_", path.rstrip("/").rpartition("/")[2].partition(".")[0]).strip("_") or "data"
    digest = hashlib.sha256(spell(task).encode()).hexdigest()
    return dataclasses.replace(task, name=f"{kind}_{stem}_{digest[:8]}")


def _default(kind: str, option: str) -> str | None:
    if option == "field":
        return "content" if kind == "parquet" else "text"
    return MODALITY_NAMES[CODE_MODALITY] if option == "modality" else None
