"""Python's words as entries of a tokenizer, for partial separation: taken whole, nothing else changed, and back."""

import builtins
import inspect
import json
import keyword
import textwrap
import token

import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_code.errors import UserError
from t5x_code.tokens import train_bpe
from t5x_code.tokens.modality import describe_split, split_vocabulary
from t5x_code.tokens.python_words import python_forms, python_words, takes_forms, with_forms
from t5x_code.tokens.special_tokens import PAIR_TEXTS
from t5x_code.tokens.tokenizer import Tokenizer

SOURCE = inspect.getsource(textwrap)


@pytest.fixture(scope="module")
def plain():
    return train_bpe.train([SOURCE], 600, 5, PAIR_TEXTS)


@pytest.fixture(scope="module")
def extended(plain):
    return plain.with_python_words()


def test_the_list_and_its_size():
    words = python_words()
    assert {*keyword.kwlist, "+=", "->", "print", "isinstance", "append", "match"} <= set(words)
    assert not {"ValueError", "_", "copyright"} & set(words) and 150 < len(words) < 260


def test_the_list_is_the_same_in_every_interpreter(monkeypatch):
    """Python 3.12 has a token more, and a notebook puts functions of its own among the builtins."""
    before = python_words()
    monkeypatch.setattr(builtins, "display", print, raising=False)
    monkeypatch.setattr(token, "EXACT_TOKEN_TYPES", {**token.EXACT_TOKEN_TYPES, "!": 54})
    assert python_words() == before and len(before) == 188


def test_each_form_that_a_vocabulary_lacks_adds_two_rows(plain, extended):
    lacking = 2 * len(python_words()) - len(python_forms(plain.vocabulary()))
    assert lacking > 100 and extended.vocab_size == plain.vocab_size + lacking
    forms = python_forms(extended.vocabulary())
    assert len(forms) == 2 * len(python_words())
    special = extended.special_tokens
    tables = split_vocabulary("partial", extended.vocabulary(), special.all_ids, extended.vocab_size)
    assert tables.vocab_size == plain.vocab_size + lacking + len(forms)
    new = extended.vocabulary()["Ġfrozenset"]
    assert new >= plain.vocab_size and tables.base_ids[tables.ids[1, new]] == tables.ids[0, new] == new
    assert f"{len(forms)} of {extended.vocab_size:,} rows doubled" in describe_split(tables, extended.vocabulary())
    assert extended.with_python_words() is extended


def test_control_tokens_and_other_ids_stay(plain, extended):
    assert extended.special_tokens == plain.special_tokens
    assert plain.vocabulary().items() <= extended.vocabulary().items()
    again = Tokenizer.from_json(json.dumps(json.loads(extended._json)), "again")
    assert again.fingerprint == extended.fingerprint != plain.fingerprint
    for text in ("<sep> <|endoftext|><mask_1>", *PAIR_TEXTS):
        assert not np.isin(extended.encode(text), extended.special_tokens.all_ids).any()
        assert extended.decode(extended.encode(text)) == text


def test_tokens_that_were_added_to_a_model_keep_their_ids(plain):
    """Behind the model's own entries, where new entries of the model would push them back."""
    description = json.loads(train_bpe.train([SOURCE], 600, 5)._json)
    appended = Tokenizer.from_json(json.dumps(description), "a test").with_pair_tokens()
    extended = appended.with_python_words()
    assert appended.special_tokens.pair.python >= 600 and extended.special_tokens == appended.special_tokens
    assert min(extended.encode("frozenset")) == extended.vocabulary()["frozenset"] >= appended.vocab_size


def test_a_word_is_one_entry_where_it_stands_alone_and_no_part_of_another(plain, extended):
    vocabulary = extended.vocabulary()
    ids = extended.encode("x = frozenset(isdigit)\n").tolist()
    assert vocabulary["Ġfrozenset"] in ids and vocabulary["isdigit"] in ids
    for text in ("myfrozensetting = 1", "isdigits", "x//==y"):
        np.testing.assert_array_equal(extended.encode(text), plain.encode(text))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(st.sampled_from([*python_words(), " ", "\n", "    "]), st.text(max_size=5)), max_size=20))
def test_text_comes_back(extended, parts):
    text = "".join(parts)
    ids = extended.encode(text)
    assert extended.decode(ids) == text
    special = extended.special_tokens.all_ids
    tables = split_vocabulary("partial", extended.vocabulary(), special, extended.vocab_size + 9)
    np.testing.assert_array_equal(tables.base_ids[tables.ids[1][ids]], ids)


def test_transformers_reads_the_same_ids(extended, tmp_path):
    extended.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = SOURCE + "\nx = frozenset(memoryview(y))\n"
    np.testing.assert_array_equal(theirs.encode(text, add_special_tokens=False), extended.encode(text))
    assert theirs.decode(theirs.encode(text)) == text


def test_the_released_tokenizer(shared_data):
    released = Tokenizer.load(str(shared_data / "codegen2_tokenizer"))
    extended = released.with_python_words()
    assert 50 < extended.vocab_size - released.vocab_size < 150
    assert extended.special_tokens == released.special_tokens
    text = "def f(x):\n    if isinstance(x, tuple):\n        return frozenset(x)\n"
    assert len(extended.encode(text)) < len(released.encode(text)) and extended.decode(extended.encode(text)) == text


def test_a_tokenizer_of_gpt2s_days_is_taken_for_what_it_is(plain, extended):
    """Its model has merges but no type."""
    description = json.loads(plain._json)
    del description["model"]["type"]
    with_words, _ = with_forms(description)
    assert takes_forms(description)
    assert Tokenizer.from_json(json.dumps(with_words), "old").vocabulary() == extended.vocabulary()
    del description["model"]["merges"]
    assert not takes_forms(description)


def test_other_kinds_of_tokenizers(plain):
    """Nothing is added where a text is not cut into words; refused where a control token's text would be one word."""
    description = json.loads(plain._json)
    whole = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    uncut = tokenizers.Tokenizer.from_str(plain._json)
    uncut.pre_tokenizer = whole
    with pytest.raises(UserError, match="takes the text <"):
        Tokenizer.from_json(uncut.to_str(), "uncut").with_python_words()
    metaspace = description | {"decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"}}
    other = Tokenizer.from_json(json.dumps(metaspace), "other")
    assert other.with_python_words() is other
