"""The data types on both sides of an objective: a Row of the token store in, an Example for the model out.

Shape legend: L sequence length, N tokens of a row, P pieces of a row, C code slots of a row, D documents of a store,
Q parts of documents.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import numpy as np

from t5x_code.tokens.characters import TokenCharacters
from t5x_code.tokens.modality import CODE_MODALITY, ModalityTables
from t5x_code.tokens.special_tokens import SpecialTokens


@dataclasses.dataclass(frozen=True)
class Piece:
    """One document's part of a row."""

    lead: int  # the token before the piece: eod at a document's start, else the document's previous token
    tokens_N: np.ndarray  # int32; a complete document ends with eod
    is_start: bool  # begins at its document's first token
    is_end: bool  # ends with its document's eod
    modality: int = CODE_MODALITY  # of its text
    # Only of a whole document that consists of parts; see data/document.py.
    part_ends: np.ndarray | None = None  # int64 [Q], exclusive ends within tokens_N
    part_kinds: np.ndarray | None = None  # uint8 [Q]
    group: int = 0  # hash of what documents have in common, such as the problem that they solve


@dataclasses.dataclass(frozen=True)
class DocumentTable:
    """The sizes of all documents of a store, in its order. Whole documents are packed into rows by these."""

    lengths_D: np.ndarray  # int64, eod included
    first_parts: np.ndarray  # int64 [D + 1]: document d has the parts [first_parts[d], first_parts[d + 1])
    part_lengths_Q: np.ndarray  # int64
    part_kinds_Q: np.ndarray  # uint8
    kind_names: tuple[str, ...]  # what the kinds are called; empty where documents have no parts


@dataclasses.dataclass(frozen=True)
class Row:
    """Consecutive tokens of a token store, cut at document ends; or, for a `PackingObjective`, whole documents."""

    pieces: tuple[Piece, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of all pieces, leads not counted."""
        return sum(len(piece.tokens_N) for piece in self.pieces)


@dataclasses.dataclass(frozen=True)
class Layout:
    """What all objectives of a recipe share."""

    length: int  # L
    special_tokens: SpecialTokens
    isolate_documents: bool = True  # documents of one row do not see each other; pairs and solutions never do
    vocab_size: int = 0  # entries of the tokenizer
    characters: TokenCharacters | None = None  # of the tokenizer, where it is byte-level
    modality: ModalityTables | None = None  # of a vocabulary that is split by modality


@dataclasses.dataclass(frozen=True)
class Example:
    """One row as the model is shown it.

    Token i sees the keys k with `attend_from[i] <= k < attend_to[i]`: one interval per token covers causal, prefix-LM,
    packing and padding. `targets[i]` is the token to predict after `inputs[i]` has been read.
    """

    inputs_L: np.ndarray  # int32, 0 where padded
    targets_L: np.ndarray  # int32, 0 where padded
    loss_weights_L: np.ndarray  # float32, 0 where nothing is to be learned
    positions_L: np.ndarray  # int32, restart at 0 in each segment
    segment_ids_L: np.ndarray  # int32, 1, 2, ..; 0 = padding
    attend_from_L: np.ndarray  # int32
    attend_to_L: np.ndarray  # int32, = attend_from where padded: sees nothing
    target_modality_L: np.ndarray | None = None  # int32, 0 text, 1 code: the softmax set of the target
    pool_ids_L: np.ndarray | None = None  # int32, code slot of the token, -1 none
    code_pair_C: np.ndarray | None = None  # int32, pair that the code belongs to
    code_problem_C: np.ndarray | None = None  # int32, problem that the code solves
    code_role_C: np.ndarray | None = None  # int32, 0 empty, 1 query, 2 accepted, 3 negative

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields that are set, named without their shape suffix: one row of a batch."""
        fields = {f.name.rsplit("_", 1)[0]: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: array for name, array in fields.items() if array is not None}


@runtime_checkable
class Objective(Protocol):
    """A frozen dataclass, one per file of this folder. Its `repr` is its fingerprint.

    One whose tokens never see later ones may say so by `is_causal = True`, which lets kernels leave out half of the
    work: it has to hold for every row.
    """

    @property
    def name(self) -> str:
        """Short name for metrics and streams, such as `causal_lm`."""

    def raw_length(self, layout: Layout, document_lengths_N: np.ndarray) -> int:
        """Tokens of the store that one row takes, so that its Example fills, and fits, `layout.length`."""

    def __call__(self, row: Row, layout: Layout, rng: np.random.Generator) -> Example:
        """Makes the example. All randomness comes from `rng`, keyed by seed, task, objective, epoch and row."""


@runtime_checkable
class PackingObjective(Protocol):
    """An objective whose rows hold whole documents, packed by the size that each takes."""

    @property
    def name(self) -> str:
        """Short name for metrics and streams."""

    @property
    def max_documents(self) -> int | None:
        """Documents that a row may hold; None: as many as fit."""

    def packed_lengths(self, layout: Layout, documents: DocumentTable) -> np.ndarray:
        """Places that each document takes in a row at most, int64 [D]; one that takes more than L is left out.

        Raises:
          UserError: the documents lack the parts that the objective needs.
        """

    def __call__(self, row: Row, layout: Layout, rng: np.random.Generator) -> Example:
        """Makes the example, as an `Objective` does."""
