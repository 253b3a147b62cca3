"""A model whose vocabulary is split by modality, as a plain one: its code rows in the place of those they came from."""

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from etils import epath

from t5x_code.checkpoints.model_directory import (
    MODALITY,
    TOKENIZER_FOLDER,
    read_description,
    read_model_directory,
    write_model_directory,
)
from t5x_code.errors import UserError
from t5x_code.models.modality import plain_params


def write_plain_model(source: epath.PathLike, target: epath.PathLike, step: int | None = None) -> None:
    """Makes a model directory that knows nothing of modalities and is, on code, the same model.

    Args:
        source: a model directory whose `model.json` holds modality tables.
        target: must not exist.
        step: a checkpoint; None: the newest that is whole.

    Raises:
        UserError: the source is no such model directory, or the target cannot be written.
    """
    if MODALITY not in read_description(source).extra:
        raise UserError(f"{source} has one vocabulary for text and code already; leave --plain out")
    description, params = read_model_directory(source, step=step)
    tables = description.extra[MODALITY]
    base_vocab_size, sources = tables["base_vocab_size"], tuple(tables["sources"])
    params = plain_params(description.config, jax.tree.map(np.asarray, params), base_vocab_size, sources)
    extra = {name: value for name, value in description.extra.items() if name != MODALITY}
    config = dataclasses.replace(description.config, vocab_size=base_vocab_size)
    with _local_copy(epath.Path(source) / TOKENIZER_FOLDER) as tokenizer_folder:
        write_model_directory(
            target, dataclasses.replace(description, config=config, extra=extra), params, tokenizer_folder
        )


@contextmanager
def _local_copy(folder: epath.Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as local:
        for path in folder.iterdir() if folder.exists() else ():
            (Path(local) / path.name).write_bytes(path.read_bytes())
        yield Path(local)
