"""Text in and out for a model whose vocabulary is split by modality: what it reads and writes is code.

Legend: N tokens.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from t5x_code.tokens.modality import CODE_MODALITY, ModalityTables
from t5x_code.tokens.special_tokens import SpecialTokens
from t5x_code.tokens.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class SplitCodec:
    """Stands in a tokenizer's place, by the rows for code. A model of docstring-code pairs has a `PairCodec`."""

    tokenizer: Tokenizer
    tables: ModalityTables

    @property
    def special_tokens(self) -> SpecialTokens:
        """Those of the tokenizer: both modalities share them."""
        return self.tokenizer.special_tokens

    def encode(self, text: str) -> np.ndarray:
        """Final ids [N] int32 of a code."""
        return self.tables.ids[CODE_MODALITY, self.tokenizer.encode(text)]

    encode_prompt = encode  # nothing is laid out

    def encode_continuation(self, text: str) -> np.ndarray:
        """Final ids [N] int32 of a code that goes on behind another."""
        return self.tables.ids[CODE_MODALITY, self.tokenizer.encode_continuation(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of final ids of either modality, control tokens left out."""
        return self.tokenizer.decode(self._base_ids(ids))

    def decode_continuation(self, ids: Sequence[int], behind: str = "") -> str:
        """Text of final ids that go on behind others, which say this text."""
        return self.tokenizer.decode_continuation(self._base_ids(ids), behind)

    def _base_ids(self, ids: Sequence[int]) -> list[int]:
        return self.tables.base_ids[np.asarray(ids, np.int64)].tolist()
