"""Whole models in and out: a Hugging Face folder to a model directory or onto a mesh, and back."""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh

from t5x_code.buckets import in_bucket
from t5x_code.checkpoints.model_directory import (
    TOKENIZER_FOLDER,
    ModelDescription,
    abstract_params,
    read_description,
    refuse_other_shapes,
    write_model_directory,
)
from t5x_code.checkpoints.model_step import Damage, with_params
from t5x_code.checkpoints.streaming import LazyArray, place, read_arrays
from t5x_code.errors import UserError
from t5x_code.huggingface.codegen import CODEGEN
from t5x_code.huggingface.families import family_by_name, family_of_config, family_of_hf_config
from t5x_code.huggingface.family import Family, HfConfig, read_config, write_config
from t5x_code.huggingface.parameters import are_plain, lazy_params, their_shapes, their_tensors
from t5x_code.huggingface.safetensors_file import write_safetensors
from t5x_code.huggingface.token_ids import read_token_ids, written_token_ids
from t5x_code.huggingface.weights_folder import WeightsFolder
from t5x_code.models.config import TransformerConfig
from t5x_code.progress import progress_bar
from t5x_code.tokens.tokenizer import TOKENIZER_FILE, Tokenizer

CONFIG_FILE = "config.json"
TOKENIZER_FILES = (
    TOKENIZER_FILE,
    "tokenizer_config.json",
    "chat_template.jinja",  # which transformers 5 writes beside it
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)


def import_model(
    source: str, target: str, family: str | None = None, mp_num: int | None = None, dtype: str = "float32"
) -> ModelDescription:
    """Makes a model directory of a Hugging Face folder.

    Args:
        source: folder with config.json, safetensors or pytorch_model.bin, and the tokenizer's files, if it has any.
        target: the model directory; must not exist.
        family: a name of `FAMILIES`; None: as config.json says.
        mp_num: layout of a CodeGen checkpoint whose config.json does not say it; None: as the released models have it.
        dtype: one of `DTYPES`, that the parameters are stored in. They are computed with as float32 all the same.

    Raises:
        UserError: something is missing, damaged or of another family, or the target exists.
    """
    folder = local_folder(source)
    found, hf = _read_config(folder, family, mp_num)
    description = _describe(folder, found, hf)
    if epath.Path(target).exists():
        raise UserError(f"{target} exists; choose another folder or remove it")
    weights = WeightsFolder(folder)
    params = lazy_params(found, description.config, hf, weights)
    total = sum(int(np.prod(array.shape)) for array in params.values()) * np.dtype(dtype).itemsize
    with tempfile.TemporaryDirectory() as tokenizer_folder, progress_bar(total=total, desc="import", unit="B") as bar:
        for name in TOKENIZER_FILES:
            if (folder / name).is_file():
                shutil.copy(folder / name, tokenizer_folder)
        tree = flax.traverse_util.unflatten_dict(params, sep="/")

        def on_piece(num_bytes: int) -> None:
            weights.release()
            bar.update(num_bytes)

        write_model_directory(target, description, tree, tokenizer_folder, np.dtype(dtype), on_piece)
    return description


def describe_folder(source: str) -> ModelDescription:
    """What a Hugging Face folder's model is; its weights are not read.

    Raises:
        UserError: as `import_model`, of all but the weights.
    """
    folder = local_folder(source)
    return _describe(folder, *_read_config(folder))


def load_onto_mesh(source: str, mesh: Mesh | None) -> tuple[ModelDescription, dict[str, Any]]:
    """Reads a Hugging Face folder straight onto devices, each its own share, as float32.

    Args:
        source: as in `import_model`.
        mesh: the devices; None: the first.

    Raises:
        UserError: as `import_model`, or a parameter does not divide over the mesh.
    """
    folder = local_folder(source)
    found, hf = _read_config(folder)
    description = _describe(folder, found, hf)
    weights = WeightsFolder(folder)
    params = flax.traverse_util.unflatten_dict(lazy_params(found, description.config, hf, weights), sep="/")

    def place_one(leaf: jax.ShapeDtypeStruct, array: LazyArray) -> jax.Array:
        placed = place(array, np.float32, leaf.sharding)
        weights.release()
        return placed

    return description, jax.tree.map(place_one, abstract_params(description.config, mesh), params)


def export_model(
    source: str,
    target: str,
    family: str | None = None,
    mp_num: int | None = None,
    dtype: str = "float32",
    step: int | None = None,
) -> ModelDescription:
    """Makes a Hugging Face folder of a model directory: under a temporary name, then renamed. Returns the
    description of what was written: adapters are merged, and the family is the one that it was written as.

    Args:
        source: the model directory.
        target: a local folder; must not exist.
        family: a name of `FAMILIES`; None: that of the model directory, else the first that has such a decoder.
        mp_num: layout of a CodeGen checkpoint; None: the one of the class built into transformers.
        dtype: one of `DTYPES`, that the tensors are written in.
        step: a checkpoint; None: the newest that is whole.

    Raises:
        UserError: no model directory, its family has no such layout, or the target exists or cannot be written.
    """
    folder = local_folder(target)
    if folder.exists():
        raise UserError(f"{target} exists; choose another folder or remove it")
    description = read_description(source)
    name = family or description.family
    merged = dataclasses.replace(description.config, lora_rank=0, lora_alpha=TransformerConfig.lora_alpha)
    found = family_by_name(name) if name else family_of_config(merged)
    hf = _with_mp_num(found, write_config(found, merged) | {"torch_dtype": dtype}, mp_num)
    shapes = their_shapes(found, merged, hf)
    unfinished = folder.parent / f"{folder.name}.unfinished"

    def write(checkpoints: epath.Path, step: int, item: str, damage: Damage) -> None:
        arrays = read_arrays(checkpoints, step, item)
        refuse_other_shapes(checkpoints / str(step), arrays, description.config)
        if not are_plain(arrays) and damage():  # TensorStore maps files too, but a disk's error would end the process
            return
        total = sum(int(np.prod(shape)) for _, shape in shapes) * np.dtype(dtype).itemsize
        with progress_bar(total=total, desc="export", unit="B") as bar:
            tensors = their_tensors(found, description.config, hf, arrays)
            counted = _counted(tensors, np.dtype(dtype).itemsize, bar.update)
            write_safetensors(unfinished, shapes, counted, np.dtype(dtype))

    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        hf |= _copy_tokenizer(epath.Path(source) / TOKENIZER_FOLDER, unfinished, description)
        (unfinished / CONFIG_FILE).write_text(json.dumps(hf, indent=2) + "\n")
        with_params(source, step, write)
        unfinished.rename(folder)
    except OSError as error:
        raise UserError(f"cannot export {source} to {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return dataclasses.replace(description, config=merged, family=found.name)


def local_folder(folder: str) -> Path:
    """A Hugging Face folder: its files are mapped into memory, which a bucket's cannot be.

    Raises:
        UserError: it lies in a bucket.
    """
    if in_bucket(folder):
        raise UserError(
            f"{folder} is a Hugging Face folder in a bucket; copy it to or from a local one by "
            "gcloud storage cp --recursive (model directories may lie in buckets)"
        )
    return Path(folder)


def _describe(folder: Path, family: Family, hf: HfConfig) -> ModelDescription:
    """What a released model is: it reads text as its own tokenizer lays it out.

    Raises:
        UserError: config.json is not the family's, or the tokenizer has more tokens than it says.
    """
    config = read_config(family, hf)
    tokenizer = Tokenizer.load(str(folder)) if (folder / TOKENIZER_FILE).is_file() else None
    if tokenizer is not None and not _has_rows_for(tokenizer, config.vocab_size):
        sizes = f"{tokenizer.vocab_size} tokens, its config.json says vocab_size {config.vocab_size}"
        raise UserError(f"the tokenizer in {folder} has {sizes}; they do not belong together")
    extra = read_token_ids(folder, hf, tokenizer)
    return ModelDescription(config, family=family.name, begin_document=False, extra=extra)


def _has_rows_for(tokenizer: Tokenizer, vocab_size: int) -> bool:
    """Whether a model of so many rows has one for each token of a text, and for those that prompts are laid out with.

    Other control tokens may follow, as in a folder of Code Llama 34B: no text becomes one.
    """
    beyond = [token for token in tokenizer.vocabulary().values() if token >= vocab_size]
    return all(tokenizer.is_special(token) and token not in tokenizer.special_tokens.all_ids for token in beyond)


def _copy_tokenizer(source: epath.Path, target: Path, description: ModelDescription) -> dict[str, Any]:
    """Copies what there is of a tokenizer; returns the ids that config.json shall name."""
    for path in source.iterdir() if source.is_dir() else ():
        (target / path.name).write_bytes(path.read_bytes())
    tokenizer = Tokenizer.load(str(target)) if (target / TOKENIZER_FILE).is_file() else None
    if tokenizer is not None and description.begin_document:
        _lead_with_eod(target / TOKENIZER_FILE, tokenizer)
    return written_token_ids(description.extra, tokenizer)


def _lead_with_eod(path: Path, tokenizer: Tokenizer) -> None:
    """Makes the template of a tokenizer.json put the end-of-document token before a text, and nothing else."""
    text, eod = tokenizer.eod_text, tokenizer.special_tokens.eod
    description = json.loads(path.read_bytes())
    before = description.get("post_processor") or {}
    kept = [part for part in before.get("processors", [before]) if part.get("type") == "ByteLevel"]  # of offsets alone
    single = [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    template = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {text: {"id": text, "ids": [eod], "tokens": [text]}},
    }
    description["post_processor"] = {"type": "Sequence", "processors": [*kept, template]} if kept else template
    path.write_text(json.dumps(description))


def _read_config(folder: Path, family: str | None = None, mp_num: int | None = None) -> tuple[Family, HfConfig]:
    """The family of a folder and its config.json; arguments as in `import_model`."""
    path = folder / CONFIG_FILE
    try:
        hf = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the folder of a Hugging Face model") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(hf, dict):
        raise UserError(f"{path} is no JSON object; download it again")
    found = family_by_name(family) if family else family_of_hf_config(hf)
    return found, _with_mp_num(found, hf, mp_num)


def _with_mp_num(family: Family, hf: HfConfig, mp_num: int | None) -> dict[str, Any]:
    """A config.json that says the layout of --mp_num, if one is given.

    Raises:
        UserError: the family has one layout.
    """
    if mp_num is None:
        return dict(hf)
    if family is not CODEGEN:
        raise UserError(f"--mp_num is CodeGen's, the model is {family.name}; leave it out")
    return {**hf, "mp_num": mp_num}


def _counted(tensors: Iterator[np.ndarray], itemsize: int, on_progress: Callable[[int], Any]) -> Iterator[np.ndarray]:
    for tensor in tensors:
        on_progress(tensor.size * itemsize)
        yield tensor
