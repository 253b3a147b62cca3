"""Text in and out for a model of docstring-code pairs: prompts in its layout, ids of its split vocabulary, lines back.

A prompt that is a function up to its docstring (HumanEval's are) is given as the pair's docstring and signature; any
other text is code. The model's own tokens are code: it may predict no row of text, and they become lines again.
"""

import ast
import dataclasses
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from t5x_code.objectives.text_to_code import TextToCode
from t5x_code.source_code.linearisation import linearise, restore_lines
from t5x_code.tokens.modality import CODE_MODALITY, TEXT_MODALITY, ModalityTables
from t5x_code.tokens.special_tokens import MARKS, SpecialTokens
from t5x_code.tokens.tokenizer import Tokenizer

PAIRS, MODALITY = "pairs", "modality"  # keys of what model.json says beside the config


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

    @property
    def forbidden_tokens(self) -> tuple[int, ...]:
        """Ids that are no code: the rows of text that have a copy for code."""
        if self.tables is None:
            return ()
        return tuple(np.flatnonzero(~self.tables.allowed[CODE_MODALITY]).tolist())

    def encode(self, text: str) -> np.ndarray:
        """Final ids [N] int32 of a prompt."""
        function = split_prompt(text)
        if function is None:
            return self._ids(text, CODE_MODALITY)
        signature, docstring = function
        parts = self._ids(docstring, TEXT_MODALITY), self._ids(signature, CODE_MODALITY)
        return TextToCode(layout=self.layout).prompt(*parts, self.special_tokens)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of what the model wrote; lines are indented from the first on."""
        base = np.asarray(ids, np.int64)
        if self.tables is not None:
            base = self.tables.base_ids[base]
        return restore_lines(self.tokenizer.decode_marked(base), *MARKS)

    # What the model writes begins a line, and a prompt is no more than its function.
    encode_continuation, decode_continuation = encode, decode

    def _ids(self, text: str, modality: int) -> np.ndarray:
        (base_N,) = self.tokenizer.encode_marked_batch([linearise(text, *MARKS)])
        return base_N if self.tables is None else self.tables.ids[modality, base_N]


def codec_of(tokenizer: Tokenizer, extra: dict[str, Any]) -> tuple[Tokenizer | PairCodec, tuple[int, ...]]:
    """What reads and writes text for a model, and the ids that it may not write.

    A codec where model.json says that the model was trained on pairs, else the tokenizer itself.
    """
    if PAIRS not in extra:
        return tokenizer, ()
    tables = ModalityTables.from_json(extra[MODALITY]) if MODALITY in extra else None
    codec = PairCodec(tokenizer, extra[PAIRS]["layout"], tables)
    return codec, codec.forbidden_tokens


def split_prompt(prompt: str) -> tuple[str, str] | None:
    """The text before a function's docstring, and the docstring, of a prompt that ends with it; else None."""
    try:
        body = ast.parse(prompt.rstrip() + "\n    pass\n").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    function = body[-1] if body else None
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    docstring = ast.get_docstring(function)
    if docstring is None or len(function.body) != 2:
        return None
    lines = prompt.split("\n")
    return textwrap.dedent("\n".join(lines[: function.body[0].lineno - 1]) + "\n"), docstring
