"""NTP+ (arXiv 2404.08885): next-token prediction on code, and codes side by side for a contrastive term.

Each document of the task becomes three or more isolated segments of a row: the query, one accepted code that does the
same, and hard negatives, which are broken and therefore carry no next-token loss. Which of a document's variants are
taken is drawn anew in each epoch. Pairs, roles and what is pooled are our definition, as the paper does not give them.

Shape legend: L sequence length, C code slots of a row, D documents of a store, Q parts of a document.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from t5x_code.errors import UserError
from t5x_code.objectives.example import DocumentTable, Example, Layout, Piece, Row
from t5x_code.objectives.segments import Segment, lay_out

# The parts of a document of codes, by number: the query `code`, another solution `pos`, changed queries (listed in
# source_code/transformations.py) and two verdicts. `pos` and changed queries may be absent, `pos` and `lsh` repeated.
CODE_KINDS = ("code", "pos", "obf", "lsh", "tsh", "kwr", "syr", "equivalent", "different")
ACCEPTED_KINDS, BROKEN_KINDS = ("pos", "obf"), ("lsh", "tsh", "kwr", "syr")
QUERY, ACCEPTED, NEGATIVE = 1, 2, 3  # `code_role`; 0 is an empty slot


@dataclasses.dataclass(frozen=True)
class NtpPlus:
    """Queries, each with an accepted code and hard negatives."""

    name: ClassVar[str] = "ntp_plus"  # for metrics and streams
    is_causal: ClassVar[bool] = True

    accepted: tuple[str, ...] = ACCEPTED_KINDS  # one of those that the document has is drawn
    negatives: tuple[str, ...] = BROKEN_KINDS  # likewise, for each negative
    negatives_per_query: int = 1
    max_queries: int = 8  # of a row: C is this times (2 + negatives_per_query)

    def __post_init__(self):
        check_kinds(self.accepted, ACCEPTED_KINDS, "NtpPlus.accepted")
        if self.negatives or self.negatives_per_query:
            check_kinds(self.negatives, BROKEN_KINDS, "NtpPlus.negatives")
        if self.max_queries < 1 or self.negatives_per_query < 0:
            raise UserError(
                f"NtpPlus: max_queries {self.max_queries} must be 1 or more, "
                f"negatives_per_query {self.negatives_per_query} 0 or more"
            )

    @property
    def max_documents(self) -> int:
        """The most queries of a row: every document is one."""
        return self.max_queries

    @property
    def slots(self) -> int:
        """C: code slots of a row."""
        return self.max_queries * (2 + self.negatives_per_query)

    def packed_lengths(self, layout: Layout, documents: DocumentTable) -> np.ndarray:
        """Tokens that each document takes at most, each code with an eod, int64 [D]; more than L if it lacks a code.

        Raises:
          UserError: the task is not one of codes.
        """
        check_documents(documents, self.name)
        query_D, accepted_D, negative_D = (
            longest_part(documents, kinds) for kinds in (("code",), self.accepted, self.negatives)
        )
        lacks_D = (accepted_D == 0) | ((negative_D == 0) & (self.negatives_per_query > 0))
        lengths_D = query_D + accepted_D + 2 + self.negatives_per_query * (negative_D + 1)
        return np.where(lacks_D, layout.length + 1, lengths_D)

    def __call__(self, row: Row, layout: Layout, rng: np.random.Generator) -> Example:
        """Draws each document's accepted code and negatives, and lays the row out."""
        codes: list[np.ndarray] = []
        roles, pairs, problems = [], [], []
        for number, piece in enumerate(row.pieces):
            chosen = [(QUERY, only_part(piece, "code")), (ACCEPTED, draw_part(piece, self.accepted, rng))]
            chosen += [(NEGATIVE, draw_part(piece, self.negatives, rng)) for _ in range(self.negatives_per_query)]
            for role, code in chosen:
                codes.append(code)
                roles.append(role)
                pairs.append(number)
                problems.append(piece.group % 2**31)
        eod = layout.special_tokens.eod
        segments = [
            Segment(eod, np.append(code, eod), np.full(len(code) + 1, role != NEGATIVE, np.float32))
            for code, role in zip(codes, roles, strict=True)
        ]
        # Codes never see each other, whatever plain documents do.
        example = lay_out(segments, dataclasses.replace(layout, isolate_documents=True))
        empty = [0] * (self.slots - len(codes))
        return dataclasses.replace(
            example,
            pool_ids_L=self._pool_ids(codes, layout.length),
            code_pair_C=np.array(pairs + empty, np.int32),
            code_problem_C=np.array(problems + empty, np.int32),
            code_role_C=np.array(roles + empty, np.int32),
        )

    def _pool_ids(self, codes: Sequence[np.ndarray], length: int) -> np.ndarray:
        """The slot of each input token that is code; the eod that leads a code in is none."""
        pool_ids_L = np.full(length, -1, np.int32)
        start = 0
        for slot, code in enumerate(codes):
            pool_ids_L[start + 1 : start + 1 + len(code)] = slot
            start += len(code) + 1
        return pool_ids_L


def check_kinds(kinds: Sequence[str], known: Sequence[str], where: str) -> None:
    """Raises a UserError unless kinds are among those known, one at least."""
    unknown = [kind for kind in kinds if kind not in known]
    if unknown or not kinds:
        raise UserError(f"{where} is {tuple(kinds)}: choose of {', '.join(known)}, one at least")


def check_documents(documents: DocumentTable, name: str) -> None:
    """Raises a UserError unless a store holds codes with their variants."""
    if documents.kind_names != CODE_KINDS:
        raise UserError(
            f"{name} needs a task of codes with their variants, ntp_plus or problems:FILE.jsonl; this one holds other "
            "documents"
        )


def longest_part(documents: DocumentTable, kinds: Sequence[str]) -> np.ndarray:
    """Tokens of each document's longest part of some kinds, int64 [D], 0 without one."""
    numbers = [CODE_KINDS.index(kind) for kind in kinds]
    lengths_Q = np.where(np.isin(documents.part_kinds_Q, numbers), documents.part_lengths_Q, 0)
    longest_D = np.zeros(len(documents.lengths_D), np.int64)
    document_Q = np.repeat(np.arange(len(longest_D)), np.diff(documents.first_parts))
    np.maximum.at(longest_D, document_Q, lengths_Q)
    return longest_D


def parts_of(piece: Piece, kinds: Sequence[str]) -> list[np.ndarray]:
    """The tokens of a document's parts of some kinds, in its order; empty ones are left out."""
    numbers = [CODE_KINDS.index(kind) for kind in kinds]
    starts_Q = np.concatenate([[0], piece.part_ends[:-1]])
    return [
        piece.tokens_N[start:end]
        for start, end, kind in zip(starts_Q, piece.part_ends, piece.part_kinds, strict=True)
        if kind in numbers and end > start
    ]


def only_part(piece: Piece, kind: str) -> np.ndarray:
    """The tokens of the part that every document has once."""
    (tokens_N,) = parts_of(piece, (kind,))
    return tokens_N


def draw_part(piece: Piece, kinds: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Tokens of one part: first a kind among those that the document has, then one of that kind."""
    present = [parts for kind in kinds if (parts := parts_of(piece, (kind,)))]
    parts = present[rng.integers(len(present))]
    return parts[rng.integers(len(parts))]
