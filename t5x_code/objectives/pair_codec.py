"""Text in and out for a model of docstring-code pairs: prompts in its layout, ids of its split vocabulary, lines back.

A prompt that is a function up to its docstring (HumanEval's are) is given as the pair's docstring and signature, and
what of its body stands behind the docstring (as in incremental pass@k) as the beginning of the pair's body; any other
text is code. The model's own tokens are code: it may predict no row of text, and they become lines again.
"""

import ast
import dataclasses
import functools
import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from t5x_code.errors import UserError
from t5x_code.objectives.split_codec import SplitCodec
from t5x_code.objectives.text_to_code import TextToCode
from t5x_code.source_code.linearisation import linearise, linearise_function, restore_lines
from t5x_code.tokens.modality import CODE_MODALITY, TEXT_MODALITY, ModalityTables
from t5x_code.tokens.special_tokens import MARKS, SpecialTokens
from t5x_code.tokens.tokenizer import Tokenizer

_HEADER = re.compile(r"(async\s+)?def\b|\)")  # a function's, or the last line of one over several
PAIRS, MODALITY, PREFIX_LM = "pairs", "modality", "prefix_lm"  # keys of what model.json says beside the config


@dataclasses.dataclass(frozen=True)
class PairCodec:
    """Stands in a tokenizer's place where a model writes and reads text."""

    tokenizer: Tokenizer
    layout: str  # of `TextToCode`
    tables: ModalityTables | None

    @property
    def special_tokens(self) -> SpecialTokens:
        """Those of the tokenizer: both modalities share them."""
        return self.tokenizer.special_tokens

    def encode(self, text: str) -> np.ndarray:
        """Final ids [N] int32 of a code, its docstrings among it.

        Raises:
            UserError: the text holds a mark.
        """
        _refuse_marks(text)
        return self._ids(text, CODE_MODALITY)

    # A prompt is no more than its function.
    encode_continuation = encode

    def prefix_length(self, prompt_N: np.ndarray) -> int:
        """Tokens of a prompt up to `<python>`, which prefix_code_clm reads both ways; 0 of one that is no pair."""
        (ends,) = np.nonzero(prompt_N == self.special_tokens.pair.python)
        return int(ends[0]) + 1 if len(ends) else 0

    def encode_prompt(self, text: str) -> np.ndarray:
        """Final ids [N] int32 of what is to be gone on with, laid out as a pair where it is a function's beginning.

        The indentation of a line that it only begins is left to the model, which writes it as marks.

        Raises:
            UserError: as `encode`.
        """
        _refuse_marks(text)
        if not _last_line(text).strip(" "):
            text = text.rstrip(" ")
        function = split_prompt(text)
        if function is None:
            return self.encode(text)
        signature, docstring, body = function
        code = linearise_function(signature, body, *MARKS)
        signature_N, body_N = (self._marked_ids(part, CODE_MODALITY) for part in code)
        docstring_N = self._ids(docstring, TEXT_MODALITY)
        return TextToCode(layout=self.layout).prompt(docstring_N, signature_N, body_N, self.special_tokens)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of code, or of pairs one after the other: each part's lines are indented from its first on."""
        pair = self.special_tokens.pair
        is_end_N = np.isin(ids, (pair.begin, pair.comments, pair.python, self.special_tokens.eod))
        parts = np.split(np.asarray(ids, np.int64), np.flatnonzero(is_end_N) + 1)
        return "".join(restore_lines(self._marked_text(part), *MARKS) for part in parts)

    def decode_continuation(self, ids: Sequence[int], behind: str = "") -> str:
        """Text of what the model wrote; lines are indented from the level on that the prompt's code ends with."""
        function = split_prompt(behind)
        code = behind if function is None else function[0] + function[2]
        text = restore_lines(self._marked_text(ids), *MARKS, behind=code)
        # A body begins on a line of its own, also behind a docstring's last line.
        return f"\n{text}" if code.endswith("\n") and not behind.endswith("\n") else text

    def _marked_text(self, ids: Sequence[int]) -> str:
        base = np.asarray(ids, np.int64)
        if self.tables is not None:
            base = self.tables.base_ids[base]
        return self.tokenizer.decode_marked(base)

    def _ids(self, text: str, modality: int) -> np.ndarray:
        return self._marked_ids(linearise(text, *MARKS), modality)

    def _marked_ids(self, marked: str, modality: int) -> np.ndarray:
        (base_N,) = self.tokenizer.encode_marked_batch([marked])
        return base_N if self.tables is None else self.tables.ids[modality, base_N]


Codec = Tokenizer | SplitCodec | PairCodec


def codec_of(tokenizer: Tokenizer, extra: dict[str, Any]) -> tuple[Codec, tuple[int, ...]]:
    """What reads and writes text for a model, and the ids that it may not write: text's rows that have a copy for code.

    A codec where model.json says that the model was trained on pairs, or has a split vocabulary; else the tokenizer.
    """
    tables = ModalityTables.from_json(extra[MODALITY]) if MODALITY in extra else None
    forbidden = () if tables is None else tuple(np.flatnonzero(~tables.allowed[CODE_MODALITY]).tolist())
    if PAIRS in extra:
        return PairCodec(tokenizer, extra[PAIRS]["layout"], tables), forbidden
    return (tokenizer if tables is None else SplitCodec(tokenizer, tables)), forbidden


@functools.lru_cache(maxsize=1024)  # whatever the model writes is looked at many times on its way
def split_prompt(prompt: str) -> tuple[str, str, str] | None:
    """A function's signature, its docstring, and what is begun of the body; None for any other text.

    What stands before the function, such as imports, is left out: no pair of training shows any.
    """
    lines = prompt.split("\n")
    for end in _possible_ends(lines):
        function = _function_without_body("\n".join(lines[:end]))
        if function is not None:
            statement = function.body[0]
            body = "\n".join(lines[statement.end_lineno :])
            start = min(node.lineno for node in (function, *function.decorator_list))
            signature = "\n".join(lines[start - 1 : statement.lineno - 1]) + "\n"
            return signature, ast.get_docstring(function), body if body.strip() else _last_line(body)
    return None


def _refuse_marks(text: str) -> None:
    if any(mark in text for mark in MARKS):
        raise UserError("a text holds one of the control characters \\x1c, \\x1d and \\x1e; remove them")


def _last_line(text: str) -> str:
    return text.rpartition("\n")[2]


def _possible_ends(lines: list[str]) -> list[int]:
    """How many lines a docstring may end, the most first: all, or those of the last function with a quote in the last.

    A body that is begun need not parse, nor be any lines but indented ones.
    """
    header = next((at for at in reversed(range(len(lines))) if lines[at].strip() and not lines[at][0].isspace()), 0)
    within = range(len(lines) - 1, header + 1, -1) if _HEADER.match(lines[header]) else ()
    return [len(lines), *(end for end in within if lines[end - 1].count('"') + lines[end - 1].count("'"))]


def _function_without_body(text: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The function that a text ends with, where a docstring is all that it holds so far."""
    for indentation in _indentations(text.split("\n")):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes
                body = ast.parse(f"{text.rstrip()}\n{indentation}pass\n").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        function = body[-1] if body else None
        is_function = isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        if is_function and len(function.body) == 2 and ast.get_docstring(function) is not None:
            return function
    return None


def _indentations(lines: list[str]) -> list[str]:
    """What the lines of a body may begin with whose docstring is one of the texts that begin a line."""
    stripped = [(line, line.lstrip()) for line in lines]
    found = [line[: len(line) - len(rest)] for line, rest in stripped if rest.lstrip("rRuU")[:1] in ('"', "'")]
    return list(dict.fromkeys(reversed(found)))
