"""A long text in pieces whose tokens, one after another, are the text's own. A tokenizer takes 150 bytes of memory for
each byte that it is given at once.

A cut is made between two lines, and only where the tokenizer, shown what stands around it, gives the same tokens with
the cut and without. One that marks where a text begins, as SentencePiece does, never does: it is given the text whole.
Shape legend: N tokens of a text.
"""

import itertools
import re
from collections.abc import Callable, Iterator

import numpy as np

LONG_TEXT = 1 << 20  # characters; no other text is cut
PIECE = 1 << 18  # characters at least
PIECES_AT_ONCE = 16
SHOWN = 256  # characters before and behind a cut
TRIES = 16  # cuts that are tried before the rest is left whole
# White space behind a line's end may be a token together with it, white space before it too.
LINE_START = re.compile(r"(?<=\S\n)(?=\S)")


def encode_in_pieces(text: str, encode_batch: Callable[[list[str]], list[np.ndarray]]) -> np.ndarray:
    """Token ids [N] of a text, of which the tokenizer is given a few pieces at once."""
    pieces = cut(text, lambda piece: encode_batch([piece])[0])
    ids: list[np.ndarray] = []
    while some := list(itertools.islice(pieces, PIECES_AT_ONCE)):
        ids += encode_batch(some)
    return np.concatenate(ids)


def cut(text: str, encode: Callable[[str], np.ndarray]) -> Iterator[str]:
    """The text in pieces, one at least."""
    start = 0
    while len(text) - start > PIECE:
        candidates = itertools.islice(LINE_START.finditer(text, start + PIECE), TRIES)
        end = next((match.start() for match in candidates if _is_neutral(text, match.start(), encode)), None)
        if end is None:
            break
        yield text[start:end]
        start = end
    yield text[start:]


def _is_neutral(text: str, place: int, encode: Callable[[str], np.ndarray]) -> bool:
    """Whether a cut leaves the tokens around it as they are."""
    before, behind = text[max(0, place - SHOWN) : place], text[place : place + SHOWN]
    return np.array_equal(encode(before + behind), np.concatenate([encode(before), encode(behind)]))
