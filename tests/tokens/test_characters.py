"""A text cut inside tokens stays the text, with the released CodeGen2 tokenizer."""

import json

import numpy as np

from t5x_code.tokens.characters import TokenCharacters
from t5x_code.tokens.tokenizer import Tokenizer

# Two Han characters of the one are tokens that break within a character, so that a cut behind them leaves no character
# in which another cut could lie.
LONG_TOKENS = ("龍喚士", "龍契士")


def test_two_cuts_in_one_token_keep_the_text(shared_data):
    tokenizer = Tokenizer.load(str(shared_data / "codegen2_tokenizer"))
    characters = TokenCharacters(tokenizer)
    for text in LONG_TOKENS:
        ids = tokenizer.encode(text)
        assert len(ids) == 1
        for seed in range(40):
            cut, (first, second) = characters.draw_cuts(ids, np.random.default_rng(seed))
            assert 0 <= first <= second <= len(cut)
            parts = [tokenizer.decode(part) for part in np.split(cut, (first, second))]
            assert tokenizer.decode(cut) == "".join(parts) == text


def test_a_tokenizer_that_leads_with_a_space_cuts_no_word(shared_data):
    description = json.loads((shared_data / "codegen2_tokenizer" / "tokenizer.json").read_text())
    description["pre_tokenizer"]["add_prefix_space"] = True
    tokenizer = Tokenizer.from_json(json.dumps(description), "a test")
    characters = TokenCharacters(tokenizer)
    ids = tokenizer.encode("return first_value")
    for seed in range(40):
        cut, _ = characters.draw_cuts(ids, np.random.default_rng(seed))
        assert tokenizer.decode(cut) == tokenizer.decode(ids)


def test_cuts_are_even_over_characters_of_several_tokens(shared_data):
    tokenizer = Tokenizer.load(str(shared_data / "codegen2_tokenizer"))
    characters = TokenCharacters(tokenizer)
    text = "一二三四五六七八九十 x"
    ids = tokenizer.encode(text)
    assert len(ids) == 18
    counts = np.zeros(len(text) + 1)
    for seed in range(3000):
        cut, (first, second) = characters.draw_cuts(ids, np.random.default_rng(seed))
        before, between, behind = (tokenizer.decode(part) for part in np.split(cut, (first, second)))
        assert before + between + behind == text
        counts[len(before)] += 1
        counts[len(before + between)] += 1
    assert np.abs(counts / counts.sum() - 1 / len(counts)).max() < 0.02
