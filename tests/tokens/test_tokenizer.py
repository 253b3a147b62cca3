"""The special-token contract, against the real CodeGen2 tokenizer and against transformers."""

import inspect
import json
import pickle
import textwrap

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_code.errors import UserError
from t5x_code.tokens import train_bpe
from t5x_code.tokens.special_tokens import EOD_TEXT, SpecialTokens
from t5x_code.tokens.tokenizer import Tokenizer

CONTROL_SPELLINGS = 'def f(x):\n    return "<|endoftext|>", <mask_1>, <sep> <eom>\n\t\t<mask_899> <dummy_1>' + " " * 40
# Of CodeGen, Llama, Llama 3, PanGu-Coder, DeepSeek and Seed-Coder.
OF_FAMILIES = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eot>")
OF_FAMILIES += ("<\uff5cend\u2581of\u2581sentence\uff5c>", "<[end\u2581of\u2581sentence]>")
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
    drop(tmp_path, {"<mask_1>"})
    assert Tokenizer.load(str(tmp_path)).special_tokens.infill == ()
    drop(tmp_path, {EOD_TEXT})
    with pytest.raises(UserError, match="no token that ends a document"):
        Tokenizer.load(str(tmp_path))


@pytest.mark.parametrize("eod_text", OF_FAMILIES)
def test_another_familys_tokenizer_is_taken_and_extended(tmp_path, eod_text):
    """It has no tokens of infilling, and its own text for the end of a document; neither comes out of encoding."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    plain = tokenizers.Tokenizer(tokenizers.models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = tokenizers.decoders.ByteLevel()
    plain.add_special_tokens([eod_text])
    plain.save(str(tmp_path / "tokenizer.json"))
    theirs = Tokenizer.load(str(tmp_path))
    assert theirs.special_tokens == SpecialTokens(256)
    extended = theirs.with_infill_tokens(3)
    assert extended.special_tokens.eod == 256 and len(extended.special_tokens.masks) == 3
    assert extended.special_tokens.sep == theirs.vocab_size and extended.vocab_size == theirs.vocab_size + 5
    text = f"a = '{eod_text}'  # <sep> <mask_1> <eom>"
    for tokenizer in (theirs, extended, pickle.loads(pickle.dumps(extended))):
        assert not {256, *extended.special_tokens.infill} & set(tokenizer.encode(text).tolist())
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert extended.with_infill_tokens(3) is extended
    with pytest.raises(UserError, match="has 3 masks already"):
        extended.with_infill_tokens(4)


def test_a_tokenizer_whose_model_has_a_control_token_for_a_word_makes_no_store(tmp_path):
    words = [("<unk>", 0.0), ("</s>", -1.0), ("a", -1.0), (" ", -1.0)]
    plain = tokenizers.Tokenizer(tokenizers.models.Unigram(words, 0))
    plain.add_special_tokens(["</s>"])
    plain.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer.load(str(tmp_path))  # it may be read with, as its model was trained so
    with pytest.raises(UserError, match="takes the text </s> for that token"):
        loaded.refuse_unlocked()


def test_unreadable_tokenizers_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        Tokenizer.load(str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        Tokenizer.load(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        Tokenizer.load(str(tmp_path))
    for text in ("[]", "null", '{"added_tokens": null}', '{"added_tokens": [{"id": 1}]}'):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(UserError, match="no list of tokens"):
            Tokenizer.load(str(tmp_path))
    (tmp_path / "tokenizer.json").write_bytes(b"\xff")
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.load(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a Hugging Face fast tokenizer"):
        Tokenizer.load(str(tmp_path))
