"""A task of a user's own SeqIO module. Imports TensorFlow when read."""

import hashlib
import importlib
import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from t5x_code.data.declarations import TRAIN, SourceDeclaration
from t5x_code.data.quiet_tensorflow import quiet_tensorflow
from t5x_code.errors import UserError

if TYPE_CHECKING:
    import seqio

SEQIO = "seqio"
FEATURE = "targets"


def state(source: SourceDeclaration) -> list[str]:
    """The task's name and its module's source text, read without running it. The data behind it is not watched."""
    module, _, name = source.path.partition(":")
    spec = _find(module)
    return [name, hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()]


def documents(source: SourceDeclaration, text_field: str, skipped: Counter) -> Iterator[str]:
    """The text of each example's `targets`.

    Raises:
        UserError: an example whose tokens are not what its text encodes to, such as one with control tokens inside or
            cut between two bytes: a store holds the tokens of texts.
    """
    module, _, name = source.path.partition(":")
    task = get_task(module, name)
    tokenizer = task.output_features[FEATURE].vocabulary.tokenizer
    eod = tokenizer.special_tokens.eod
    dataset = task.get_dataset(sequence_length=None, split=TRAIN, shuffle=False, use_cached=False)
    for number, example in enumerate(dataset.as_numpy_iterator()):
        ids = example[FEATURE].tolist()
        while ids and ids[-1] == eod:
            ids.pop()
        text = tokenizer.decode(ids)
        if tokenizer.encode(text).tolist() != ids:
            raise UserError(
                f"SeqIO task {name}, example {number}: its targets are not the tokens of a text; leave control tokens "
                "and cutting to the objectives"
            )
        yield text


def get_task(module: str, name: str) -> "seqio.Task":
    """Imports a module and returns the task of that name.

    Raises:
        UserError: SeqIO is not installed, the module does not import, or there is no such task.
    """
    _find(module)
    try:
        with quiet_tensorflow():
            import seqio
    except ImportError as error:
        raise UserError("SeqIO tasks need SeqIO and TensorFlow; pip install 't5x_code[data]'") from error
    try:
        importlib.import_module(module)
    except Exception as error:  # whatever a user's module does
        raise UserError(f"module {module} does not import ({type(error).__name__}: {error})") from error
    if name not in seqio.TaskRegistry.names():
        known = ", ".join(sorted(seqio.TaskRegistry.names())) or "none"
        raise UserError(f"module {module} registers no SeqIO task {name}; there are {known}")
    return seqio.TaskRegistry.get(name)


def _find(module: str) -> importlib.machinery.ModuleSpec:
    """Finds a module on the Python path or in the working folder, without running it."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    except Exception as error:  # whatever the package does that the module is part of: it is imported
        raise UserError(f"module {module} does not import ({type(error).__name__}: {error})") from error
    if spec is None or spec.origin is None:
        raise UserError(f"module {module} is not on the Python path nor in the working folder")
    return spec
