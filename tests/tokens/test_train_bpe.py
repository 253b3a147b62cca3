"""The byte-level BPE trained on a corpus."""

import inspect
import textwrap

import pytest

from t5x_code.errors import UserError
from t5x_code.tokens import train_bpe

TEXTS = [inspect.getsource(textwrap), inspect.getsource(inspect)]


def test_training_is_deterministic_and_fills_the_vocabulary():
    first, second = (train_bpe.train(TEXTS, vocab_size=1000, num_masks=7) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert first.vocab_size == 1000
    assert len(first.special_tokens.masks) == 7


def test_other_text_gives_another_tokenizer():
    assert train_bpe.train(TEXTS[:1], 600, 5).fingerprint != train_bpe.train(TEXTS[1:], 600, 5).fingerprint


def test_indentation_is_one_token_with_its_newline():
    tokenizer = train_bpe.train(TEXTS, vocab_size=1000, num_masks=7)
    for depth in (4, 8, 12):
        assert [tokenizer.decode([i]) for i in tokenizer.encode("\n" + " " * depth + "return")] == [
            "\n" + " " * (depth - 1),
            " return",
        ]


def test_vocabulary_without_room_is_refused():
    with pytest.raises(UserError, match="at least 359"):
        train_bpe.train(TEXTS, vocab_size=358, num_masks=100)
