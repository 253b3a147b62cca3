"""The model directory: one layout after training and after import; sampling, evaluation and export read nothing else.

`model.json` (what the model is), `tokenizer/`, `checkpoints/<step>/`; a run adds its recipe, command and metrics.
"""

import dataclasses
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import tensorstore as ts
from etils import epath
from jax.sharding import Mesh, SingleDeviceSharding

from t5x_code.buckets import in_bucket
from t5x_code.checkpoints.manager import read_item
from t5x_code.checkpoints.model_step import CHECKPOINTS_FOLDER, find_params
from t5x_code.checkpoints.streaming import LazyArray, read_arrays, write_step
from t5x_code.errors import UserError
from t5x_code.models.config import RopeScaling, TransformerConfig
from t5x_code.models.decoder import logical_axes, param_shapes
from t5x_code.models.modality import VocabularySplit, split_params
from t5x_code.models.vocabulary import resize_vocabulary
from t5x_code.parallel.rules import param_shardings

MODEL_FILE, TOKENIZER_FOLDER = "model.json", "tokenizer"
MODALITY = "modality"  # in a description's `extra`: the tables of a vocabulary that is split by modality


@dataclasses.dataclass(frozen=True)
class ModelDescription:
    """What has to be known to use a model's parameters."""

    config: TransformerConfig
    family: str | None = None  # whose Hugging Face layout it is exported to; None: the one that can say its config
    begin_document: bool = True  # prompts are led by the end-of-document token, as each document was in training
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)  # plain JSON, such as tables of a split vocabulary

    def to_json(self) -> str:
        """Text of `model.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def read_description(folder: epath.PathLike) -> ModelDescription:
    """Reads `model.json`.

    Raises:
        UserError: the folder is no model directory, or its description is damaged or unknown to this version.
    """
    path = epath.Path(folder) / MODEL_FILE
    try:
        fields = json.loads(path.read_text())
        config = fields.pop("config")
        config["window_pattern"] = tuple(config["window_pattern"])
        if config.get("rope_scaling"):
            config["rope_scaling"] = RopeScaling(**config["rope_scaling"])
        description = ModelDescription(config=TransformerConfig(**config), **fields)
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not the description of a model; remove it or restore the file") from None
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} is no model directory: it has no {MODEL_FILE} (a Hugging Face folder becomes one by "
            "launch/convert.py import)"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} cannot be read by this version: {error}") from error
    if not isinstance(description.extra, dict):
        raise UserError(f"{path} is damaged: its extra is {description.extra!r}, not an object; restore it")
    return description


def start_run_directory(
    folder: epath.PathLike,
    description: ModelDescription,
    save_tokenizer: Callable[[str], None] | None,
    texts: dict[str, str],
) -> None:
    """Makes a run's folder, or renews what it says of the run; checkpoints and metrics stay.

    Args:
        folder: MODEL_DIR.
        description: becomes `model.json`.
        save_tokenizer: writes a tokenizer's files into a local folder that it is given.
        texts: further files by name, such as `config.gin` and `command.txt`.

    Raises:
        UserError: the folder cannot be written: read-only, no room, a file in its place.
    """
    folder = epath.Path(folder)
    try:
        (folder / CHECKPOINTS_FOLDER).mkdir(parents=True, exist_ok=True)
        if save_tokenizer is not None:
            with tempfile.TemporaryDirectory() as local:
                save_tokenizer(local)
                _copy_folder(Path(local), folder / TOKENIZER_FOLDER)
        for name, text in {**texts, MODEL_FILE: description.to_json()}.items():
            _write_whole(folder / name, text.encode())
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write to the run's folder {folder}: {reason}; set MODEL_DIR to another") from error


def write_model_directory(
    folder: epath.PathLike,
    description: ModelDescription,
    params: Any,
    tokenizer_folder: str | Path,
    dtype: np.dtype = np.float32,
    on_progress: Callable[[int], None] = lambda num_bytes: None,
) -> None:
    """Writes a whole model directory at step 0, as converters do: under a temporary name, then renamed.

    In a bucket, where folders are not renamed, it bears its name from the beginning and is a model directory by its
    `model.json`, which is written last.

    Args:
        folder: must not exist yet.
        description: becomes `model.json`.
        params: as `init_params` makes them; NumPy or JAX arrays, or `LazyArray`s, which are never here as a whole.
        tokenizer_folder: its files are copied, if it has any.
        dtype: that the parameters are stored in; they are restored as float32.
        on_progress: called with the bytes just written.

    Raises:
        UserError: the folder exists or cannot be written.
    """
    folder = epath.Path(folder)
    if folder.exists():
        raise UserError(f"{folder} exists; choose another folder or remove it")
    unfinished = folder if in_bucket(folder) else folder.parent / f"{folder.name}.unfinished"
    is_whole = False
    try:
        if unfinished.exists():
            unfinished.rmtree()
        leaves = flax.traverse_util.flatten_dict(params, sep="/")
        lazy = {path: _as_lazy(leaf) for path, leaf in leaves.items()}
        write_step(unfinished / CHECKPOINTS_FOLDER / "0", lazy, dtype, {"step": 0}, on_progress)
        start_run_directory(unfinished, description, lambda to: _copy_local(tokenizer_folder, to), {})
        if not in_bucket(folder):
            unfinished.rename(folder)
        is_whole = True
    except (OSError, ValueError) as error:  # TensorStore says ValueError of a full disk
        raise UserError(f"cannot write {folder}: {getattr(error, 'strerror', None) or error}") from error
    finally:
        if not is_whole and unfinished.exists():
            unfinished.rmtree()


def _as_lazy(leaf: Any) -> LazyArray:
    return leaf if isinstance(leaf, LazyArray) else LazyArray(leaf.shape, np.asarray(leaf).__getitem__)


def read_model_directory(
    folder: epath.PathLike, step: int | None = None, mesh: Mesh | None = None
) -> tuple[ModelDescription, Any]:
    """Reads a model: its description and its parameters, or their average where the run kept one; not the optimizer.

    Args:
        folder: a model directory.
        step: a checkpoint; None: the newest that is whole.
        mesh: parameters are laid out on it; None: on the first device.

    Raises:
        UserError: no model directory, no such step, no step that is whole, or one that `model.json` does not describe.
    """
    description = read_description(folder)
    return description, read_params(folder, description.config, step, mesh)[1]


def read_params(
    folder: epath.PathLike, config: TransformerConfig, step: int | None = None, mesh: Mesh | None = None
) -> tuple[int, Any]:
    """The step that is read and its parameters, or their average where the run kept one.

    Args:
        folder: a model directory.
        config: what its `model.json` says.
        step: a checkpoint; None: the newest that is whole.
        mesh: parameters are laid out on it; None: on the first device.

    Raises:
        UserError: no such step, no step that is whole, or its parameters are not those of `config`; names the first
            that differs.
    """
    checkpoints = epath.Path(folder) / CHECKPOINTS_FOLDER
    step, item = find_params(folder, step)
    refuse_other_shapes(checkpoints / str(step), read_arrays(checkpoints, step, item), config)
    return step, read_item(checkpoints, step, item, abstract_params(config, mesh))


def refuse_other_shapes(step: epath.Path, arrays: Mapping[str, ts.TensorStore], config: TransformerConfig) -> None:
    """Raises a UserError unless a step's arrays, opened and not read, are the parameters of `config`."""
    ours, theirs = _shapes(config), {path: array.shape for path, array in arrays.items()}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            shapes = f"{theirs.get(name, 'absent')} there, {MODEL_FILE} says {ours.get(name, 'absent')}"
            raise UserError(
                f"{step} is damaged or of another model: parameter {name} is {shapes}; restore the "
                f"{MODEL_FILE} that it was written with"
            )


def load_initial_params(
    folder: epath.PathLike, config: TransformerConfig, mesh: Mesh | None = None, split: VocabularySplit | None = None
) -> Any:
    """Parameters to start another run from; of a model that `split` has not split yet, its rows are copied.

    Where this run's vocabulary is larger before any split, as when tokens are added, each new token's row is the mean
    of the old ones. Adapters are left out where only this run has them.

    Raises:
        UserError: no model there, its vocabulary is split in another way, or its parameters have other shapes; names
            the first that differs.
    """
    refuse_other_model(folder, config, split)
    description = read_description(folder)
    base, alike = _as_there(description, config, split)
    params = read_model_directory(folder, mesh=mesh)[1]
    if alike != base:
        shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract_params(base, mesh))
        resize = functools.partial(resize_vocabulary, config=base, old_size=alike.vocab_size)
        params = jax.jit(resize, out_shardings=shardings)(params)
    return split_params(base, params, split.sources) if is_split_here(description, split) else params


def refuse_other_model(
    folder: epath.PathLike,
    config: TransformerConfig,
    split: VocabularySplit | None = None,
    knows_vocabulary: bool = True,
) -> None:
    """Raises a UserError unless `load_initial_params` can make what `config` wants of the model there; reads none of
    its parameters.

    Args:
        folder: a model directory.
        config: of the model that starts from it.
        split: of its vocabulary, if it is split by modality.
        knows_vocabulary: False before it is known how the vocabulary will be split: all else is compared.
    """
    description = read_description(folder)
    there = description.config
    base, alike = _as_there(description, config, split)
    if knows_vocabulary:
        _refuse_other_split(folder, description, split)
        if base.vocab_size < there.vocab_size:
            sizes = f"a vocabulary of {there.vocab_size}, this recipe of {base.vocab_size}"
            raise UserError(f"cannot start from {folder}: it has {sizes}; set TransformerConfig.vocab_size")
    theirs, ours = _shapes(there), _shapes(alike)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            shapes = f"{theirs.get(name, 'absent')} there, {ours.get(name, 'absent')} in this recipe"
            raise UserError(f"cannot start from {folder}: parameter {name} is {shapes}; make the models agree")
    _refuse_other_meaning(folder, there, base)


def _as_there(
    description: ModelDescription, config: TransformerConfig, split: VocabularySplit | None
) -> tuple[TransformerConfig, TransformerConfig]:
    """The config without what this run adds to the model there (rows of a split, adapters); and with its vocabulary."""
    there = description.config
    copies_rows = is_split_here(description, split)
    base = dataclasses.replace(config, vocab_size=split.base_vocab_size) if copies_rows else config
    if not there.lora_rank:
        base = dataclasses.replace(base, lora_rank=0)
    return base, dataclasses.replace(base, vocab_size=there.vocab_size, vocab_multiple=there.vocab_multiple)


def is_split_here(description: ModelDescription, split: VocabularySplit | None) -> bool:
    """Whether `split` splits the vocabulary of a model that has one for text and code so far."""
    return split is not None and MODALITY not in description.extra


def _refuse_other_split(folder: epath.PathLike, there: ModelDescription, split: VocabularySplit | None) -> None:
    """Raises a UserError where rows of a split vocabulary would be taken for those of other tokens."""
    tables = there.extra.get(MODALITY)
    if tables is None:
        return
    if split is None or (split.base_vocab_size, split.sources) != (tables["base_vocab_size"], tuple(tables["sources"])):
        rows = f"{len(tables['sources'])} rows for code beside {tables['base_vocab_size']}"
        here = "not" if split is None else f"otherwise ({len(split.sources)} beside {split.base_vocab_size})"
        raise UserError(
            f"cannot start from {folder}: its vocabulary is split by modality ({rows}), this recipe's {here}; set "
            f"MODALITY_SEPARATION={tables['separation']!r} and its TOKENIZER, or make it a plain model by "
            "launch/convert.py export --plain and import"
        )


def _refuse_other_meaning(folder: epath.PathLike, there: TransformerConfig, ours: TransformerConfig) -> None:
    """Raises a UserError where the same weights would mean something else."""
    fields = ["position_encoding", "mlp", "scale_attention"]  # whose choices may have parameters of the same shapes
    fields += ["rotary_dim"] if ours.rotates else []
    fields += ["lora_alpha"] if there.lora_rank else []
    for name in fields:
        if getattr(there, name) != getattr(ours, name):
            values = f"{getattr(there, name)} there, {getattr(ours, name)} in this recipe"
            raise UserError(f"cannot start from {folder}: {name} is {values}; set TransformerConfig.{name}")


def abstract_params(config: TransformerConfig, mesh: Mesh | None) -> Any:
    """Shapes, types and shardings of a model's parameters; on the first device where there is no mesh."""
    shapes = param_shapes(config)
    if mesh is None:
        first = SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: first, shapes)
    else:
        shardings = param_shardings(logical_axes(config), shapes, mesh)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
    )


def _shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    paths = jax.tree_util.tree_flatten_with_path(param_shapes(config))[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in paths}


def _copy_local(source: str | Path, target: str) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)


def _copy_folder(local: Path, target: epath.Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(local.iterdir()):
        if path.is_file():
            _write_whole(target / path.name, path.read_bytes())


def _write_whole(path: epath.Path, content: bytes) -> None:
    """A file with this content, or the one before: never half of it."""
    unfinished = path.parent / f"{path.name}.unfinished"
    unfinished.write_bytes(content)
    unfinished.replace(path)
