"""From model.json to text: what ends one beside the end of a document, and what is damaged in one line."""

import json

import pytest

from t5x_code.checkpoints.model_directory import ModelDescription
from t5x_code.errors import UserError
from t5x_code.models.config import TransformerConfig
from t5x_code.recipes.text_model import text_model
from t5x_code.tokens.tokenizer import Tokenizer

FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)


@pytest.fixture(scope="module")
def tokenizer_with(shared_data):
    """CodeGen2's, with `<file_sep>` as the token 51200, special or not."""
    description = json.loads((shared_data / "codegen2_tokenizer" / "tokenizer.json").read_text())

    def make(special: bool) -> Tokenizer:
        added = {"id": 51200, "content": "<file_sep>", "special": special, **FLAGS}
        return Tokenizer({**description, "added_tokens": [*description["added_tokens"], added]}, "a test")

    return make


def of(tokenizer, **extra):
    return text_model(ModelDescription(TransformerConfig(), extra=extra), None, tokenizer, name="/models/a, step 3")


def test_a_file_ends_where_the_next_begins(tokenizer_with):
    """StarCoder2 ends a file with `<file_sep>`, a special token that no decoded text shows."""
    model = of(tokenizer_with(special=True), eos_token_id=50256)
    assert model.stop_tokens == (50256, 51200)
    assert (model.control_ids["<file_sep>"], model.control_ids["<eom>"]) == (51200, 50300)
    shown = of(tokenizer_with(special=False))  # the text shows it
    assert shown.stop_tokens == () and "<file_sep>" not in shown.control_ids


@pytest.mark.parametrize(
    "extra", [{"pairs": 3}, {"pairs": {}}, {"pairs": {"layout": "pangu"}, "modality": [1]}, {"begin_tokens": 3}]
)
def test_what_model_json_says_beside_the_config_may_be_damaged(tokenizer_with, extra):
    with pytest.raises(UserError, match=r"model\.json of /models/a, step 3 is damaged: its extra cannot be read"):
        of(tokenizer_with(special=False), **extra)
