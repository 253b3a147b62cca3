"""A Hugging Face folder that several files read."""

import pytest
import torch
import transformers
from random_models import save_tokenizer

from t5x_code.tokens.special_tokens import EOD_TEXT, EOM_TEXT, SEP_TEXT, mask_text


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory):
    """A tiny CodeGen as transformers saves it, with a byte-level tokenizer that keeps the special-token contract."""
    folder = tmp_path_factory.mktemp("hf") / "model"
    torch.manual_seed(0)
    config = transformers.CodeGenConfig(vocab_size=300, n_positions=32, n_embd=32, n_layer=2, n_head=4, rotary_dim=4)
    transformers.CodeGenForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder, [EOD_TEXT, SEP_TEXT, EOM_TEXT, mask_text(1), mask_text(2)])
    return folder
