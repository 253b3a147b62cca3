"""A model with what it takes to talk to it, as its description says: the one way from model.json to text."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.sharding import Mesh

from t5x_code.checkpoints.model_directory import ModelDescription
from t5x_code.huggingface.token_ids import BEGIN_TOKENS, stop_tokens
from t5x_code.inference.infilling import TextModel
from t5x_code.objectives.pair_codec import PREFIX_LM, PairCodec, codec_of
from t5x_code.tokens.tokenizer import Tokenizer


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
    """
    codec, forbidden = codec_of(tokenizer, description.extra)
    begin = (tokenizer.special_tokens.eod,) if description.begin_document else description.extra.get(BEGIN_TOKENS, ())
    return TextModel(
        description.config,
        params,
        codec,
        begin=tuple(begin),
        name=name,
        mesh=mesh,
        int8=int8,
        stop_tokens=stop_tokens(description.extra, tokenizer),
        forbidden_tokens=forbidden,
        prefix_length=_prefix_length(codec, description.extra),
    )


def _prefix_length(codec: Tokenizer | PairCodec, extra: dict[str, Any]) -> Callable[[np.ndarray], int]:
    """How much of a prompt is read both ways: of a prefix language model all, or of a pair what stood there so."""
    if not extra.get(PREFIX_LM):
        return lambda prompt_N: 0
    return codec.prefix_length if isinstance(codec, PairCodec) else len
