"""The tasks and mixtures that come with the package, and the short form `KIND:PATH` for a user's own files."""

import difflib
import hashlib
import re
from collections.abc import Mapping
from types import MappingProxyType

from t5x_code.data.declarations import (
    CODE_MODALITY,
    TEXT_MODALITY,
    MixtureDeclaration,
    SourceDeclaration,
    TaskDeclaration,
)
from t5x_code.errors import UserError

# The languages of the released CodeGen2 models (model card).
STACK_LANGUAGES = (
    "c,c++,c-sharp,dart,go,java,javascript,kotlin,lua,php,python,ruby,rust,scala,shell,sql,swift,typescript,vue"
)
PATH_KINDS = ("jsonl", "parquet", "text_files", "tfds")
MODALITIES = MappingProxyType({"text": TEXT_MODALITY, "code": CODE_MODALITY})

PYTHON_STDLIB = TaskDeclaration("python_stdlib", SourceDeclaration("python_stdlib"))
PYTHON_DOCS = TaskDeclaration("python_docs", SourceDeclaration("python_docs"), modality=TEXT_MODALITY)
THE_STACK = TaskDeclaration(
    "the_stack",
    SourceDeclaration("parquet", "the_stack/data/*/*.parquet", (("lang", STACK_LANGUAGES),)),
    text_field="content",
)
THE_PILE = TaskDeclaration("the_pile", SourceDeclaration("jsonl", "the_pile/train/*.jsonl.zst"), modality=TEXT_MODALITY)

TASKS: Mapping[str, TaskDeclaration] = MappingProxyType(
    {task.name: task for task in (PYTHON_STDLIB, PYTHON_DOCS, THE_STACK, THE_PILE)}
)
MIXTURES: Mapping[str, MixtureDeclaration] = MappingProxyType(
    {
        "code_nl": MixtureDeclaration("code_nl", ((PYTHON_STDLIB, 1.0), (PYTHON_DOCS, 1.0))),
        "stack_pile": MixtureDeclaration("stack_pile", ((THE_STACK, 1.0), (THE_PILE, 1.0))),
    }
)


def declaration_for(name: str) -> MixtureDeclaration:
    """The mixture of a name.

    Args:
        name: a built-in mixture; a built-in task, which stands for a mixture of itself; or `KIND:PATH[?options]` with
            KIND one of jsonl, parquet, text_files, tfds. Options are those of the source (`lang=python,go`,
            `suffix=.py`), and `field=`, the field of the document, and `modality=text|code`. A built-in task may be
            told where its files lie: `the_stack:/data/stack/*/*.parquet`.

    Raises:
        UserError: an unknown name, with those that exist.
    """
    if name in MIXTURES:
        return MIXTURES[name]
    head, colon, path = name.partition(":")
    if head in TASKS and (not colon or TASKS[head].source.path):
        task = TASKS[head]
        source = SourceDeclaration(task.source.kind, path or task.source.path, task.source.options)
        task = TaskDeclaration(**{**vars(task), "source": source})
    elif colon and head in PATH_KINDS:
        task = _task_of_path(head, path)
    else:
        known = [*MIXTURES, *TASKS, *(f"{kind}:PATH" for kind in PATH_KINDS)]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"unknown task or mixture {name}; {hint}There are {', '.join(known)}")
    return MixtureDeclaration(task.name, ((task, 1.0),))


def _task_of_path(kind: str, text: str) -> TaskDeclaration:
    # A question mark is also a wildcard: options are only what looks like name=value after the last one.
    match = re.fullmatch(r"(.*)\?(\w+=[^?]*)", text, re.DOTALL)
    path, query = match.groups() if match else (text, "")
    if not path:
        raise UserError(f"{kind}: has no path; write {kind}:PATH")
    options = dict(pair.split("=", 1) for pair in query.split("&")) if query else {}
    field = options.pop("field", "content" if kind == "parquet" else "text")
    modality = options.pop("modality", "code")
    if modality not in MODALITIES:
        raise UserError(f"{kind}:{text}: modality {modality} is none of {', '.join(MODALITIES)}")
    stem = re.sub(r"[^A-Za-z0-9]+", "_", path.rstrip("/").rpartition("/")[2].partition(".")[0]).strip("_") or "data"
    name = f"{kind}_{stem}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    source = SourceDeclaration(kind, path, tuple(sorted(options.items())))
    return TaskDeclaration(name, source, text_field=field, modality=MODALITIES[modality])
