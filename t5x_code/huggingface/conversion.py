"""Whole models in and out: a Hugging Face folder to a model directory, and back."""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from safetensors import SafetensorError

from t5x_code.checkpoints.model_directory import (
    TOKENIZER_FOLDER,
    ModelDescription,
    read_description,
    read_model_directory,
    write_model_directory,
)
from t5x_code.errors import UserError
from t5x_code.huggingface import codegen
from t5x_code.huggingface.safetensors_folder import SafetensorsFolder, write_safetensors
from t5x_code.models.config import TransformerConfig
from t5x_code.models.lora import merge_adapters
from t5x_code.tokens.tokenizer import Tokenizer

CONFIG_FILE = "config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)

HfConfig = dict[str, Any]  # a parsed config.json
Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Family:
    """How the models of one family are mapped."""

    config_from_hf: Callable[[HfConfig], TransformerConfig]
    config_to_hf: Callable[[TransformerConfig, int | None, int], HfConfig]  # of a config, an mp_num, the eod
    params_from_hf: Callable[[TransformerConfig, Mapping[str, np.ndarray], HfConfig], Params]
    params_to_hf: Callable[[TransformerConfig, Params, HfConfig], Iterator[tuple[str, np.ndarray]]]


FAMILIES = {
    "codegen": Family(
        config_from_hf=codegen.config_from_hf,
        config_to_hf=lambda config, mp_num, eod: codegen.config_to_hf(config, mp_num or codegen.DEFAULT_MP_NUM, eod),
        params_from_hf=lambda config, tensors, hf: codegen.params_from_hf(config, tensors, codegen.find_mp_num(hf)),
        params_to_hf=lambda config, params, hf: codegen.params_to_hf(config, params, hf["mp_num"]),
    )
}


def import_model(family: str, source: str, target: str, mp_num: int | None = None) -> ModelDescription:
    """Makes a model directory of a Hugging Face folder.

    Args:
        family: a name of `FAMILIES`.
        source: folder with config.json, the tokenizer's files and safetensors.
        target: the model directory; must not exist.
        mp_num: layout of a CodeGen checkpoint whose config.json does not say it; None: as the released models have it.

    Raises:
        UserError: something is missing, damaged or of another family, or the target exists.
    """
    mapping, folder = _find_family(family), Path(source)
    hf = _read_config(folder) | ({"mp_num": mp_num} if mp_num else {})
    config = mapping.config_from_hf(hf)
    tokenizer = Tokenizer.load(str(folder))
    if tokenizer.vocab_size > config.vocab_size:
        sizes = f"{tokenizer.vocab_size} tokens, its config.json says vocab_size {config.vocab_size}"
        raise UserError(f"the tokenizer in {source} has {sizes}; they do not belong together")
    if epath.Path(target).exists():
        raise UserError(f"{target} exists; choose another folder or remove it")
    params = mapping.params_from_hf(config, SafetensorsFolder(folder), hf)
    # The released models read text without a token before it.
    description = ModelDescription(config, family=family, begin_document=False)
    with tempfile.TemporaryDirectory() as tokenizer_folder:
        for name in TOKENIZER_FILES:
            if (folder / name).is_file():
                shutil.copy(folder / name, tokenizer_folder)
        write_model_directory(target, description, params, tokenizer_folder)
    return description


def export_model(source: str, target: str, mp_num: int | None = None, step: int | None = None) -> ModelDescription:
    """Makes a Hugging Face folder, float32, of a model directory: under a temporary name, then renamed.

    Args:
        source: the model directory.
        target: a local folder; must not exist.
        mp_num: layout of a CodeGen checkpoint; None: the one of the class built into transformers.
        step: a checkpoint; None: the newest that is whole.

    Raises:
        UserError: no model directory, its family has no such layout, or the target exists or cannot be written.
    """
    folder = Path(target)
    if folder.exists():
        raise UserError(f"{target} exists; choose another folder or remove it")
    description = read_description(source)
    mapping = _find_family(description.family)
    unfinished = folder.parent / f"{folder.name}.unfinished"
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        for path in (epath.Path(source) / TOKENIZER_FOLDER).iterdir():
            (unfinished / path.name).write_bytes(path.read_bytes())
        eod = Tokenizer.load(str(unfinished)).special_tokens.eod
        config, params = merge_adapters(*_read_model(source, step))
        hf = mapping.config_to_hf(config, mp_num, eod)
        write_safetensors(unfinished, mapping.params_to_hf(config, params, hf))
        (unfinished / CONFIG_FILE).write_text(json.dumps(hf, indent=2) + "\n")
        unfinished.rename(folder)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot export {source} to {target}: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return description


def _read_model(source: str, step: int | None) -> tuple[TransformerConfig, Params]:
    description, params = read_model_directory(source, step=step)
    return description.config, params


def _find_family(name: str) -> Family:
    if name not in FAMILIES:
        raise UserError(f"there is no family {name!r}; choose one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _read_config(folder: Path) -> HfConfig:
    path = folder / CONFIG_FILE
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give the folder of a Hugging Face model") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); download it again") from error
