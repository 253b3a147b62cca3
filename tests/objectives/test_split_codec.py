"""A model with a split vocabulary reads and writes the rows for code, whatever it was trained on."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from t5x_code.checkpoints.model_directory import ModelDescription
from t5x_code.evaluation.teacher_forced import count_bytes
from t5x_code.inference.generation import GenerationConfig
from t5x_code.inference.infilling import complete, infill
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import init_params
from t5x_code.models.modality import plain_params
from t5x_code.recipes.text_model import text_model
from t5x_code.tokens.modality import TEXT_MODALITY, split_vocabulary
from t5x_code.tokens.tokenizer import Tokenizer

CODE = "def f(x):\n    if x is None:\n        return 'ß'\n    return x + 1\n"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(str(Path(__file__).resolve().parents[1] / "golden" / "tokenizer"))


@pytest.fixture(scope="module", params=["full", "partial"])
def tables(tokenizer, request):
    return split_vocabulary(
        request.param, tokenizer.vocabulary(), tokenizer.special_tokens.all_ids, tokenizer.vocab_size
    )


@pytest.fixture(scope="module")
def models(tokenizer, tables):
    """The split model, and the plain one of its rows for code."""
    config = TransformerConfig(
        2, 64, 4, 4, 16, 128, tables.vocab_size, max_length=128, rotary_dim=8, dtype="float32", initializer_range=0.2
    )
    params = init_params(config, jax.random.key(0))
    plain = plain_params(config, jax.tree.map(np.asarray, params), tables.base_vocab_size, tables.sources)
    of_base = dataclasses.replace(config, vocab_size=tables.base_vocab_size)
    return (
        text_model(ModelDescription(config, extra={"modality": tables.to_json()}), params, tokenizer),
        text_model(ModelDescription(of_base), plain, tokenizer),
    )


def test_it_writes_what_the_plain_model_of_its_rows_for_code_writes(models):
    generation = GenerationConfig(max_new_tokens=16)
    of_split, of_plain = (complete(model, [CODE, "x = 1\n"], generation) for model in models)
    assert [[s.text for s in samples] for samples in of_split] == [[s.text for s in samples] for samples in of_plain]
    assert all(samples[0].text for samples in of_split)
    of_split, of_plain = (infill(model, [(CODE, "\ny = 2\n")], generation) for model in models)
    assert of_split[0][0].text == of_plain[0][0].text


def test_code_survives_and_counts_by_its_own_bytes(models, tables, tokenizer):
    model, _ = models
    ids_N = model.tokenizer.encode(CODE)
    assert ids_N.max() >= tables.base_vocab_size and not np.isin(ids_N, model.forbidden_tokens).any()
    assert model.tokenizer.decode(ids_N) == CODE
    ones_1xN = np.ones((1, len(ids_N)))
    assert count_bytes(model.tokenizer, ids_N[None], ones_1xN) == len(CODE.encode())
    of_text_N = tables.ids[TEXT_MODALITY, tokenizer.encode(CODE)]
    assert model.tokenizer.decode(of_text_N) == CODE  # the rows of a text's targets are read too
    for text in ("a", " b"):
        assert model.tokenizer.decode_continuation(model.tokenizer.encode_continuation(text), CODE) == text
