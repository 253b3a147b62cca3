"""Tokens of docstring-code pairs, cuts inside tokens, and the split of a vocabulary."""

import inspect
import textwrap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5x_code.errors import UserError
from t5x_code.source_code.linearisation import linearise, restore_lines
from t5x_code.tokens import train_bpe
from t5x_code.tokens.characters import TokenCharacters
from t5x_code.tokens.modality import ModalityTables, describe_split, split_vocabulary
from t5x_code.tokens.python_words import python_words
from t5x_code.tokens.special_tokens import FIM_TEXTS, MARKS, PAIR_TEXTS

SOURCE = inspect.getsource(textwrap)


@pytest.fixture(scope="module")
def plain():
    return train_bpe.train([SOURCE], 700, 5)


@pytest.fixture(scope="module")
def with_all():
    return train_bpe.train([SOURCE], 700, 5, (*PAIR_TEXTS, *FIM_TEXTS))


def test_their_spellings_in_a_text_are_ordinary_text(with_all):
    text = " ".join((*PAIR_TEXTS, *FIM_TEXTS, "<sep>"))
    ids = with_all.encode(text)
    assert not set(ids.tolist()) & set(with_all.special_tokens.all_ids)
    assert with_all.decode(ids) == text


def test_marks_are_the_tokens_of_linearised_code_and_come_back(plain, with_all):
    line = linearise(SOURCE, *MARKS)
    for tokenizer in (plain.with_pair_tokens(), with_all):
        (ids,) = tokenizer.encode_marked_batch([line])
        pair = tokenizer.special_tokens.pair
        assert np.count_nonzero(ids == pair.new_line) == SOURCE.count("\n")
        assert restore_lines(tokenizer.decode_marked(ids), *MARKS) == SOURCE
    with pytest.raises(UserError, match="with_pair_tokens"):
        plain.encode_marked_batch([line])


def test_an_extended_tokenizer_keeps_its_ids(plain):
    extended = plain.with_pair_tokens()
    assert extended.vocab_size == plain.vocab_size + len(PAIR_TEXTS)
    np.testing.assert_array_equal(extended.encode(SOURCE), plain.encode(SOURCE))
    assert extended.with_pair_tokens() is extended


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1, max_size=40), st.integers(0, 2**32))
def test_cuts_at_characters_keep_the_text(with_all, text, seed):
    characters = TokenCharacters.__new__(TokenCharacters)  # the table is the same for every example
    characters.__dict__ = table(with_all).__dict__
    ids = with_all.encode(text)
    cut, (first, second) = characters.draw_cuts(ids, np.random.default_rng(seed))
    assert with_all.decode(cut) == text
    assert 0 <= first <= second <= len(cut) <= len(ids) + 4


_TABLES = {}


def table(tokenizer) -> TokenCharacters:
    return _TABLES.setdefault(id(tokenizer), TokenCharacters(tokenizer))


def test_cuts_are_uniform_over_characters(with_all):
    ids, counts = with_all.encode("a b c d e f g h i j"), np.zeros(20)
    for seed in range(1500):
        cut, (first, _) = table(with_all).draw_cuts(ids, np.random.default_rng(seed))
        counts[len(with_all.decode(cut[:first]))] += 1
    expected = 2 * (20 - np.arange(20)) - 1  # of the smaller of two
    assert np.abs(counts / 1500 - expected / expected.sum()).max() < 0.03


def test_the_split_of_a_vocabulary(with_all):
    vocabulary, special = with_all.vocabulary(), with_all.special_tokens.all_ids
    full, partial = (split_vocabulary(kind, vocabulary, special, 768) for kind in ("full", "partial"))
    assert len(full.sources) == with_all.vocab_size - len(special)
    assert set(partial.sources) < set(full.sources)
    assert vocabulary["Ġreturn"] in partial.sources and vocabulary["Ġtext"] not in partial.sources
    assert f"{len(python_words())} Python words" in describe_split(partial, vocabulary)
    for tables in (full, partial):
        assert ModalityTables.from_json(tables.to_json()) == tables
        ids_2xV, base_W = tables.ids, tables.base_ids
        np.testing.assert_array_equal(base_W[ids_2xV], np.tile(np.arange(768), (2, 1)))
        for modality in (0, 1):
            assert tables.allowed[modality][ids_2xV[modality]].all()
            assert tables.allowed[modality].sum() == 768
        assert (ids_2xV[0] == ids_2xV[1]).sum() == 768 - len(tables.sources)
    assert split_vocabulary("none", vocabulary, special, 768) is None
    with pytest.raises(UserError, match="choose one of none, partial, full"):
        split_vocabulary("half", vocabulary, special, 768)
