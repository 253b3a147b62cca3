"""A vocabulary split by modality: code gets rows of its own (EACL 2024, arXiv 2402.05783).

*Full* separation gives every ordinary token a second id for its occurrences in code, *partial* separation only the
tokens of Python itself. Special tokens keep one id for both. The split is a remapping of ids after tokenization: text
keeps the old ids, so that a model's new rows can start as copies of the old.

Partial separation doubles every form of Python's words (python_words.py). `Tokenizer.with_python_words` first adds the
forms that the tokenizer lacks; each of those thus brings two rows.

Shape legend: V entries of the base vocabulary, W entries of the split one.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from t5x_code.errors import UserError, check_choice
from t5x_code.tokens.python_words import python_forms, python_words

TEXT_MODALITY = 0
CODE_MODALITY = 1
MODALITY_NAMES = ("text", "code")  # by these numbers
Separation = Literal["none", "partial", "full"]


@dataclasses.dataclass(frozen=True)
class ModalityTables:
    """How a base vocabulary is split. Plain numbers, kept in `model.json`."""

    separation: str
    base_vocab_size: int  # V
    sources: tuple[int, ...]  # base id of each new row; the n-th new row has the id V + n and stands for code

    @property
    def vocab_size(self) -> int:
        """W: the base vocabulary and the new rows."""
        return self.base_vocab_size + len(self.sources)

    @functools.cached_property
    def ids(self) -> np.ndarray:
        """Final ids by modality and base id, int32 [2, V]."""
        ids_2xV = np.tile(np.arange(self.base_vocab_size, dtype=np.int32), (2, 1))
        ids_2xV[CODE_MODALITY, list(self.sources)] = np.arange(self.base_vocab_size, self.vocab_size)
        return ids_2xV

    @functools.cached_property
    def base_ids(self) -> np.ndarray:
        """Base id of each final id, int32 [W]: what a tokenizer decodes."""
        return np.concatenate([np.arange(self.base_vocab_size), np.array(self.sources, np.int64)]).astype(np.int32)

    @functools.cached_property
    def allowed(self) -> np.ndarray:
        """Ids that a target of each modality competes with, bool [2, W]: its own rows and the shared ones."""
        allowed_2xW = np.ones((2, self.vocab_size), bool)
        allowed_2xW[TEXT_MODALITY, self.base_vocab_size :] = False
        allowed_2xW[CODE_MODALITY, list(self.sources)] = False
        return allowed_2xW

    def to_json(self) -> dict[str, Any]:
        """As a JSON object that `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "ModalityTables":
        """Inverse of `to_json`."""
        return cls(**{**fields, "sources": tuple(fields["sources"])})


def split_vocabulary(
    separation: Separation, vocabulary: dict[str, int], special_ids: Sequence[int], base_vocab_size: int
) -> ModalityTables | None:
    """The split of a vocabulary; None for `none`.

    Args:
        separation: how much of it is duplicated.
        vocabulary: the tokenizer's entries, byte-level or SentencePiece, with their ids.
        special_ids: entries that both modalities share.
        base_vocab_size: rows of the unsplit model; those past the vocabulary are never duplicated.

    Raises:
        UserError: unknown separation, or the vocabulary holds none of Python's tokens.
    """
    check_choice("MODALITY_SEPARATION", separation, get_args(Separation))
    if separation == "none":
        return None
    shared = set(special_ids)
    if separation == "full":
        sources = sorted(set(vocabulary.values()) - shared)
    else:
        forms = python_forms(vocabulary)
        sources = sorted({vocabulary[form] for form in forms} - shared)
        if not sources:
            raise UserError("the tokenizer holds none of Python's tokens; use MODALITY_SEPARATION='full' or 'none'")
    return ModalityTables(separation, base_vocab_size, tuple(sources))


def describe_split(tables: ModalityTables, vocabulary: dict[str, int]) -> str:
    """One line for the log."""
    words = python_words()
    return (
        f"modality separation {tables.separation}: {len(tables.sources):,} of {tables.base_vocab_size:,} rows doubled"
        + (
            f", for {len(words)} Python words of which the vocabulary holds {len(python_forms(vocabulary))} forms"
            if tables.separation == "partial"
            else ""
        )
    )
