"""The special-token contract, against the real CodeGen2 tokenizer and against transformers."""

import inspect
import json
import pickle
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_code.errors import UserError
from t5x_code.tokens import train_bpe
from t5x_code.tokens.tokenizer import Tokenizer

CONTROL_SPELLINGS = 'def f(x):\n    return "<|endoftext|>", <mask_1>, <sep> <eom>\n\t\t<mask_899> <dummy_1>' + " " * 40
SOURCES = [inspect.getsource(module) for module in (textwrap, json.decoder, pickle)]


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return train_bpe.train(SOURCES, vocab_size=600, num_masks=5)


@pytest.fixture(scope="module")
def codegen2(shared_data) -> Tokenizer:
    return Tokenizer.load(str(shared_data / "codegen2_tokenizer"))


def control_ids(tokenizer: Tokenizer) -> set[int]:
    tokens = tokenizer.special_tokens
    return {tokens.eod, tokens.sep, tokens.eom, *tokens.masks}


def test_codegen2_ids(codegen2):
    tokens = codegen2.special_tokens
    assert (tokens.eod, tokens.sep, tokens.eom, codegen2.vocab_size) == (50256, 50299, 50300, 51200)
    assert tokens.masks == tuple(51200 - k for k in range(1, 900))


def test_codegen2_encodes_as_transformers_does(codegen2, shared_data):
    transformers = pytest.importorskip("transformers")
    oracle = transformers.AutoTokenizer.from_pretrained(str(shared_data / "codegen2_tokenizer"))
    for text in [*SOURCES, "a = 1" + " " * 17 + "#\t\t\t\tß 你好", ""]:
        assert codegen2.encode(text).tolist() == oracle(text)["input_ids"]


def test_control_texts_are_ordinary_text(codegen2, small):
    for tokenizer in (codegen2, small):
        ids = tokenizer.encode(CONTROL_SPELLINGS)
        assert not control_ids(tokenizer) & set(ids.tolist())
        assert tokenizer.decode(ids) == CONTROL_SPELLINGS


def test_decode_leaves_control_tokens_out_unless_asked(small):
    tokens = small.special_tokens
    ids = [*small.encode("a"), tokens.masks[1], *small.encode("b"), tokens.eod]
    assert small.decode(ids) == "ab"
    assert small.decode(ids, keep_special_tokens=True) == "a<mask_2>b<|endoftext|>"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(), max_size=4))
def test_encode_then_decode_is_identity(small, texts):
    for text, ids in zip(texts, small.encode_batch(texts), strict=True):
        assert small.decode(ids) == text
        np.testing.assert_array_equal(ids, small.encode(text))
        assert not control_ids(small) & set(ids.tolist())


def test_save_load_and_pickle_keep_everything(codegen2, small, tmp_path):
    for name, tokenizer in (("codegen2", codegen2), ("small", small)):
        tokenizer.save(tmp_path / name)
        for copy in (Tokenizer.load(str(tmp_path / name)), pickle.loads(pickle.dumps(tokenizer))):
            assert copy.fingerprint == tokenizer.fingerprint
            assert copy.special_tokens == tokenizer.special_tokens
            np.testing.assert_array_equal(copy.encode(SOURCES[0]), tokenizer.encode(SOURCES[0]))
    assert codegen2.fingerprint != small.fingerprint


def test_transformers_reads_a_saved_tokenizer(small, tmp_path):
    transformers = pytest.importorskip("transformers")
    small.save(tmp_path)
    oracle = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert oracle(SOURCES[0])["input_ids"] == small.encode(SOURCES[0]).tolist()
    assert oracle.eos_token_id == small.special_tokens.eod


def drop(tokenizer_folder, texts):
    file = tokenizer_folder / "tokenizer.json"
    description = json.loads(file.read_text())
    description["added_tokens"] = [t for t in description["added_tokens"] if t["content"] not in texts]
    file.write_text(json.dumps(description))


def test_missing_control_tokens_are_named(small, tmp_path):
    small.save(tmp_path)
    drop(tmp_path, {"<mask_3>"})
    with pytest.raises(UserError, match="lacks <mask_3>"):
        Tokenizer.load(str(tmp_path))
    drop(tmp_path, {"<sep>", "<eom>"})
    with pytest.raises(UserError, match="lacks the control tokens <sep> <eom>"):
        Tokenizer.load(str(tmp_path))


def test_unreadable_tokenizers_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Tokenizer.load(str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        Tokenizer.load(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        Tokenizer.load(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a Hugging Face fast tokenizer"):
        Tokenizer.load(str(tmp_path))
