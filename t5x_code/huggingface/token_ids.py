"""The ids that a Hugging Face folder names: what stands before a text, what ends one, what fills a row."""

import json
from pathlib import Path
from typing import Any

from t5x_code.errors import UserError
from t5x_code.huggingface.family import HfConfig
from t5x_code.tokens.tokenizer import Tokenizer

NAMES = ("bos_token_id", "eos_token_id", "pad_token_id")
BEGIN_TOKENS = "begin_tokens"  # what the tokenizer's template puts before a text
GENERATION_FILE = "generation_config.json"


def read_token_ids(folder: Path, hf: HfConfig, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """What `ModelDescription.extra` keeps of a released model, as plain JSON.

    Args:
        folder: whose generation_config.json, if there is one, is believed before its config.json.
        hf: its config.json.
        tokenizer: the folder's, if it has one.

    Raises:
        UserError: generation_config.json is damaged.
    """
    path = folder / GENERATION_FILE
    try:
        named = json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(named, dict):
        raise UserError(f"{path} is no JSON object; download it again")
    found = {name: named.get(name, hf.get(name)) for name in NAMES}
    kept = {name: value for name, value in found.items() if _ids(value)}
    begin = list(tokenizer.begin_tokens) if tokenizer is not None else []
    return kept | ({BEGIN_TOKENS: begin} if begin else {})


def stop_tokens(extra: dict[str, Any], tokenizer: Tokenizer) -> tuple[int, ...]:
    """What ends a text of a released model. An id of ordinary text, as CodeGen2's config.json names one, does not."""
    return tuple(token for token in _ids(extra.get("eos_token_id")) if tokenizer.is_special(token))


def written_token_ids(extra: dict[str, Any], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """What config.json shall say: what the released model said, and eod where its tokenizer has no such control token.

    Args:
        extra: of the model's description.
        tokenizer: that is written beside, if there is one.
    """
    named = {name: extra[name] for name in NAMES if name in extra}
    if tokenizer is None:
        return named
    kept = {name: value for name, value in named.items() if all(map(tokenizer.is_special, _ids(value)))}
    return dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.special_tokens.eod) | kept


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return values if all(isinstance(token, int) and not isinstance(token, bool) for token in values) else []
