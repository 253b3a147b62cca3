"""A long text's tokens are the same piece by piece, whatever cuts texts into words, and no piece is much too long."""

import inspect
import json
import pickle
import textwrap

import numpy as np
import pytest
import tokenizers
from tokenizers import pre_tokenizers

from t5x_code.tokens import long_text, train_bpe
from t5x_code.tokens.long_text import LONG_TEXT, PIECE, cut
from t5x_code.tokens.tokenizer import Tokenizer

SOURCES = [inspect.getsource(module) for module in (textwrap, json.decoder, pickle)]
# What GPT-4, Llama 3 and Qwen2 cut words by: the end of a line may belong to the signs before it.
SIGNS_TAKE_LINE_ENDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXTS = [
    *SOURCES,
    "a)\nb\n\nc \nd\n e\n\n\nß\n你好\n你好)\n<|endoftext|>\n'\n's\n1\n22\n\t\n\tx\n\x00\n" * 9,
    "one line " * 99,
    "",
]


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return train_bpe.train(SOURCES, vocab_size=600, num_masks=5)


def with_words_cut_by(pre_tokenizer: pre_tokenizers.PreTokenizer) -> Tokenizer:
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = pre_tokenizer
    bpe.decoder = tokenizers.decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(TEXTS, trainer)
    return Tokenizer.from_json(bpe.to_str(), "a test")


@pytest.mark.parametrize("family", ["small", "codegen2", "signs take line ends", "begins with a space", "one word"])
def test_tokens_are_the_same_in_pieces(monkeypatch, request, family):
    if family == "small":
        tokenizer = request.getfixturevalue("small")
    elif family == "codegen2":
        tokenizer = Tokenizer.load(str(request.getfixturevalue("shared_data") / "codegen2_tokenizer"))
    elif family == "signs take line ends":
        split = pre_tokenizers.Split(tokenizers.Regex(SIGNS_TAKE_LINE_ENDS), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer = with_words_cut_by(pre_tokenizers.Sequence([split, byte_level]))
    else:
        begins = family == "begins with a space"
        tokenizer = with_words_cut_by(pre_tokenizers.ByteLevel(add_prefix_space=begins, use_regex=begins))
    whole = [tokenizer.encode(text) for text in TEXTS]
    for piece in (1, 40, 700):
        monkeypatch.setattr("t5x_code.tokens.tokenizer.LONG_TEXT", piece)
        monkeypatch.setattr(long_text, "PIECE", piece)
        for expected, ids in zip(whole, tokenizer.encode_batch(TEXTS), strict=True):
            np.testing.assert_array_equal(ids, expected)


def test_no_piece_is_much_longer_than_it_has_to_be(small):
    text = "".join(SOURCES) * 20
    assert len(text) > LONG_TEXT
    pieces = list(cut(text, small.encode))
    assert "".join(pieces) == text
    assert max(map(len, pieces)) < 1.5 * PIECE
    np.testing.assert_array_equal(small.encode_batch(["a", text, "b"])[1], small.encode(text))
