"""A model with what it takes to talk to it, as its description says: the one way from model.json to text."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.sharding import Mesh

from t5x_code.checkpoints.model_directory import MODEL_FILE, ModelDescription
from t5x_code.errors import UserError
from t5x_code.huggingface.token_ids import BEGIN_TOKENS, stop_tokens
from t5x_code.inference.infilling import TextModel
from t5x_code.objectives.pair_codec import PREFIX_LM, Codec, PairCodec, codec_of
from t5x_code.tokens.modality import CODE_MODALITY
from t5x_code.tokens.tokenizer import Tokenizer

FILE_END_TEXT = "<file_sep>"  # of StarCoder2: what follows is another file


def text_model(
    description: ModelDescription,
    params: Any,
    tokenizer: Tokenizer,
    *,
    name: str = "",
    mesh: Mesh | None = None,
    int8: bool = False,
) -> TextModel:
    """Prompts are laid out as the model was trained on them, and it writes only what it may.

    Args:
        description: what model.json says, or will say once a run has written it.
        params: the model's.
        tokenizer: the one that it was trained with.
        name: which model and checkpoint, for what is made with it.
        mesh: what the parameters are laid out on; None: one device.
        int8: read weights rounded to 8 bits when generating.

    Raises:
        UserError: what model.json says beside the config is damaged.
    """
    try:
        codec, forbidden = codec_of(tokenizer, description.extra)
        begin = tuple(map(int, description.extra.get(BEGIN_TOKENS, ())))
        control_ids = _control_ids(codec, tokenizer)
    except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
        of_model = f"{MODEL_FILE} of {name}" if name else MODEL_FILE
        raise UserError(f"{of_model} is damaged: its extra cannot be read ({error}); restore it") from error
    file_end = [control_ids[FILE_END_TEXT]] if FILE_END_TEXT in control_ids else []
    return TextModel(
        description.config,
        params,
        codec,
        begin=(tokenizer.special_tokens.eod,) if description.begin_document else begin,
        name=name,
        mesh=mesh,
        int8=int8,
        stop_tokens=(*stop_tokens(description.extra, tokenizer), *file_end),
        forbidden_tokens=forbidden,
        control_ids=control_ids,
        prefix_length=_prefix_length(codec, description.extra),
    )


def _control_ids(codec: Codec, tokenizer: Tokenizer) -> dict[str, int]:
    """Ids of the control tokens by their texts, as the model writes them."""
    found = {text: token for text, token in tokenizer.vocabulary().items() if tokenizer.is_special(token)}
    if isinstance(codec, Tokenizer) or codec.tables is None:
        return found
    return {text: int(codec.tables.ids[CODE_MODALITY, token]) for text, token in found.items()}


def _prefix_length(codec: Codec, extra: dict[str, Any]) -> Callable[[np.ndarray], int]:
    """How much of a prompt is read both ways: of a prefix language model all, or of a pair what stood there so."""
    if not extra.get(PREFIX_LM):
        return lambda prompt_N: 0
    return codec.prefix_length if isinstance(codec, PairCodec) else len
