"""Where the characters of a token sequence lie, so that a text can be cut inside a token.

Shape legend: V entries of the vocabulary, N tokens of a text.
"""

import codecs
import functools

import numpy as np

from t5x_code.tokens.tokenizer import Tokenizer

_Utf8 = codecs.getincrementaldecoder("utf-8")


class TokenCharacters:
    """The characters of every token of a byte-level tokenizer."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._bytes = tokenizer.token_bytes()
        self._texts = [_whole_text(raw) for raw in self._bytes]
        self._lengths_V = np.array([len(text) for text in self._texts], np.int64)
        self._in_part_V = np.array([not text and bool(raw) for text, raw in zip(self._texts, self._bytes, strict=True)])
        self._halves = functools.lru_cache(maxsize=1 << 16)(self._encode_halves)

    def draw_cuts(self, text_N: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int]]:
        """Two points uniform over the characters of a text, ends included.

        A token that a point lies in is replaced by the tokens of its two halves; where those are more than three, the
        point moves before the token, as where a tokenizer leads every text with a space. A character of several tokens
        counts at its last one.

        Returns:
            The text's tokens, which decode to the same text, and the points between two of them, ascending.
        """
        ends_N = self._ends(text_N)
        num_characters = int(ends_N[-1])
        if num_characters == 0:  # bytes of no whole character
            return text_N, (0, len(text_N))
        first, second = np.sort(rng.integers(0, num_characters + 1, 2)).tolist()
        # The later point first: the earlier one is then one of the text before it, whatever its token was cut into.
        text_N, after = self._cut(text_N, ends_N, second)
        if first == second:
            return text_N, (after, after)
        ends_N = self._ends(text_N[:after])
        # Halves may hold fewer whole characters than their token, or the token is not cut and the point in it moves.
        first = min(first, int(ends_N[-1])) if after else 0
        before_N, before = self._cut(text_N[:after], ends_N, first)
        return np.concatenate([before_N, text_N[after:]]), (before, len(before_N))

    def _ends(self, text_N: np.ndarray) -> np.ndarray:
        """The number of whole characters up to each token's end, of which those before the border count."""
        lengths_N = self._lengths_V[text_N]
        in_part_N = np.flatnonzero(self._in_part_V[text_N])
        decoder, waiting, last = _Utf8(errors="replace"), 0, -2
        for at in in_part_N.tolist():
            if at != last + 1:  # tokens between were whole characters
                decoder.reset()
                waiting = 0
            waiting += len(decoder.decode(self._bytes[text_N[at]]))
            if not decoder.getstate()[0]:
                lengths_N[at], waiting = waiting, 0
            last = at
        return np.cumsum(lengths_N)

    def _cut(self, text_N: np.ndarray, ends_N: np.ndarray, point: int) -> tuple[np.ndarray, int]:
        """The text with a token border at a character, and the number of tokens before it."""
        index = int(ends_N.searchsorted(point, "left"))
        if point == 0:
            return text_N, 0
        begin = int(ends_N[index - 1]) if index else 0
        offset, token = point - begin, int(text_N[index])
        if point == ends_N[index]:
            return text_N, index + 1
        if self._in_part_V[token]:  # of several characters, of which the first began before it
            return text_N, int(ends_N.searchsorted(begin, "left")) + 1 if begin else 0
        halves = self._halves(token, offset)
        if halves is None:
            return text_N, index
        left, right = halves
        return np.concatenate([text_N[:index], left, right, text_N[index + 1 :]]), index + len(left)

    def _encode_halves(self, token: int, offset: int) -> tuple[np.ndarray, np.ndarray] | None:
        text = self._texts[token]
        left, right = self._tokenizer.encode(text[:offset]), self._tokenizer.encode(text[offset:])
        is_short = len(left) + len(right) <= 3
        return (left, right) if is_short and self._tokenizer.decode(np.concatenate([left, right])) == text else None


def _whole_text(raw: bytes) -> str:
    """Of a token that is no part of characters; of others, as of control tokens, none."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return ""
