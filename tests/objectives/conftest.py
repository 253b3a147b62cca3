"""Real text for the objectives: modules of the standard library, tokenized, cut into rows as a store would be."""

import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from t5x_code.objectives.example import Layout, Piece, Row
from t5x_code.source_code.linearisation import linearise
from t5x_code.source_code.pairs import extract_pairs
from t5x_code.tokens import train_bpe
from t5x_code.tokens.characters import TokenCharacters
from t5x_code.tokens.special_tokens import FIM_TEXTS, MARKS, PAIR_TEXTS
from t5x_code.tokens.tokenizer import Tokenizer

FOLDERS = ("json", "email", "unittest", "asyncio", "logging")
HOSTILE = [
    "",
    "x",
    "\n",
    "a " * 400,  # one token, again and again
    "<mask_1> <sep> <eom> <|endoftext|> <fim_middle> <NEW_LINE> <python> [MASK]",
    "é你🙂 " * 30,  # characters of several tokens
]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    return [path.read_text() for path in files]


@pytest.fixture(scope="session")
def tokenizer(texts) -> Tokenizer:
    return train_bpe.train(texts[:30], 1200, 100, (*PAIR_TEXTS, *FIM_TEXTS))


@pytest.fixture(scope="session")
def layout(tokenizer) -> Layout:
    return Layout(2048, tokenizer.special_tokens, True, tokenizer.vocab_size, TokenCharacters(tokenizer))


@pytest.fixture(scope="session")
def documents(texts, tokenizer) -> list[np.ndarray]:
    """Token ids with eod: whole modules, their first lines, and texts that ask for trouble."""
    heads = [text[: 40 * (number % 30)] for number, text in enumerate(texts)]
    eod = np.array([tokenizer.special_tokens.eod], np.int32)
    return [np.concatenate([ids, eod]) for ids in tokenizer.encode_batch([*HOSTILE, *heads, *texts, *heads])]


@pytest.fixture(scope="session")
def pair_rows(texts, tokenizer) -> list[Row]:
    """Rows of three docstring-function pairs each, with the texts that they were made from as `pair_texts` tells."""
    pairs = [pair for text in texts for pair in extract_pairs(text, Counter())]
    pieces = []
    for pair in pairs[:900]:
        mark = next(iter(MARKS))
        lines = linearise(pair.signature + pair.body, *MARKS).split(mark)
        count = pair.signature.count("\n")
        parts = [linearise(pair.docstring, *MARKS), mark.join([*lines[:count], ""]), mark.join(lines[count:])]
        ids = tokenizer.encode_marked_batch(parts)
        tokens_N = np.concatenate([*ids, [tokenizer.special_tokens.eod]]).astype(np.int32)
        if len(tokens_N) <= 600:
            ends = np.cumsum([len(part) for part in ids])
            pieces.append(
                Piece(tokenizer.special_tokens.eod, tokens_N, True, True, 1, ends, np.arange(3, dtype=np.uint8))
            )
    return [Row(tuple(pieces[i : i + 3])) for i in range(0, len(pieces) - 2, 3)]
