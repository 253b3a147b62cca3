"""Opens a model to ask it: a model directory, or a Hugging Face folder as it stands, on the devices that serve it."""

import jax
from etils import epath
from jax.sharding import Mesh

from t5x_code.checkpoints.manager import absolute_path
from t5x_code.checkpoints.model_directory import MODEL_FILE, TOKENIZER_FOLDER, read_description, read_params
from t5x_code.errors import UserError
from t5x_code.huggingface.conversion import CONFIG_FILE, describe_folder, load_onto_mesh
from t5x_code.inference.infilling import TextModel
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import count_params
from t5x_code.parallel.mesh import MeshConfig, make_mesh
from t5x_code.recipes.memory import device_memory_bytes
from t5x_code.recipes.text_model import text_model
from t5x_code.terminal import say
from t5x_code.tokens.tokenizer import Tokenizer

BYTES_TO_SERVE = 8  # per parameter: as it is stored, as it is computed with, and as much room for caches


def open_model(
    folder: str, step: int | None = None, *, int8: bool = False, num_prompts: int | None = None
) -> TextModel:
    """Reads a model with its tokenizer.

    Args:
        folder: a model directory, or a Hugging Face folder.
        step: a checkpoint; None: the newest that is whole.
        int8: read weights rounded to 8 bits when generating.
        num_prompts: that it will be asked; None: many. Fewer than there are devices are served by one of them, where
            the model fits it: several would wait for each other's parameters at every token.

    Raises:
        UserError: no model, one that is damaged, or a step of a Hugging Face folder, which has none.
    """
    path = epath.Path(folder)
    if not (path / MODEL_FILE).exists() and (path / CONFIG_FILE).exists():
        if step is not None:
            raise UserError(f"{folder} is a Hugging Face folder, which has no steps; leave out --step")
        mesh = serving_mesh(describe_folder(folder).config, num_prompts)
        description, params = load_onto_mesh(folder, mesh)
        tokenizer = Tokenizer.load(folder)
        return text_model(description, params, tokenizer, name=str(absolute_path(path)), mesh=mesh, int8=int8)
    description = read_description(path)
    mesh = serving_mesh(description.config, num_prompts)
    step, params = read_params(path, description.config, step, mesh)
    tokenizer = Tokenizer.load(str(path / TOKENIZER_FOLDER))
    name = f"{absolute_path(path)}, step {step}"
    return text_model(description, params, tokenizer, name=name, mesh=mesh, int8=int8)


def serving_mesh(config: TransformerConfig, num_prompts: int | None = None) -> Mesh | None:
    """The attached devices that a model is laid out on; None: the first alone.

    Those are as many as divide the model's width evenly; where that leaves some idle it is said.

    Args:
        config: the decoder.
        num_prompts: as in `open_model`.
    """
    devices = jax.devices()
    if num_prompts is not None and num_prompts < len(devices):
        memory = device_memory_bytes()
        if memory is None or BYTES_TO_SERVE * count_params(config) <= memory:
            return None
    count = next(count for count in range(len(devices), 0, -1) if config.model_dim % count == 0)
    if count < len(devices):
        say(f"{count} of {len(devices)} devices are used: the model's width, {config.model_dim}, divides over no more")
    return make_mesh(MeshConfig(), devices[:count]) if count > 1 else None
