"""A tokenizer of bytes, a small model that reads them, and how it is asked in tests of evaluations."""

import jax
import numpy as np

from t5x_code.evaluation.request import Sampled
from t5x_code.inference.infilling import TextModel
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import init_params
from t5x_code.tokens.special_tokens import SpecialTokens

SAMPLED = Sampled(temperature=1.0, num_samples=2, max_new_tokens=8, batch_size=4)


class ByteTokenizer:
    """One token per byte, then the control tokens."""

    special_tokens = SpecialTokens(eod=256, sep=257, eom=258, masks=(259, 260))

    def encode(self, text):
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def decode(self, ids, behind=""):
        return bytes(i for i in ids if i < 256).decode(errors="replace")

    encode_prompt, encode_continuation, decode_continuation = encode, encode, decode


def byte_model(max_length: int = 96) -> TextModel:
    config = TransformerConfig(
        num_layers=1, model_dim=16, num_heads=2, num_kv_heads=2, head_dim=8, mlp_dim=32, vocab_size=261,
        max_length=max_length, rotary_dim=4, dtype="float32", initializer_range=0.5,
    )  # fmt: skip
    return TextModel(config, init_params(config, jax.random.key(0)), ByteTokenizer(), begin=(256,), name="a")
