"""Equivalence as text: two codes, one after the other, and the words that say whether they do the same.

A baseline for NTP+: the same pairs, learned by next-token prediction alone. With probability one half a pair is
equivalent; otherwise its second code is broken, or is that of another document of the row, and carries no loss.

Shape legend: D documents of a store.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from t5x_code.objectives.example import DocumentTable, Example, Layout, Piece, Row
from t5x_code.objectives.ntp_plus import (
    ACCEPTED_KINDS,
    BROKEN_KINDS,
    check_documents,
    check_kinds,
    draw_part,
    longest_part,
    only_part,
    parts_of,
)
from t5x_code.objectives.segments import Segment, lay_out


@dataclasses.dataclass(frozen=True)
class EquivalenceText:
    """`query candidate verdict eod`, one segment per document."""

    name: ClassVar[str] = "equivalence_text"  # for metrics and streams
    is_causal: ClassVar[bool] = True
    max_documents: ClassVar[None] = None  # as many as fit

    accepted: tuple[str, ...] = ACCEPTED_KINDS
    negatives: tuple[str, ...] = BROKEN_KINDS
    other_problem: float = 0.5  # of the rejected pairs, the share whose candidate is of another problem where one fits

    def __post_init__(self):
        check_kinds(self.accepted, ACCEPTED_KINDS, "EquivalenceText.accepted")
        check_kinds(self.negatives, BROKEN_KINDS, "EquivalenceText.negatives")

    def packed_lengths(self, layout: Layout, documents: DocumentTable) -> np.ndarray:
        """Tokens that each document takes at most, its eod included, int64 [D]; more than L if it lacks a candidate.

        Raises:
          UserError: the task is not one of codes.
        """
        check_documents(documents, self.name)
        accepted_D, negative_D = longest_part(documents, self.accepted), longest_part(documents, self.negatives)
        verdict_D = longest_part(documents, ("equivalent", "different"))
        lengths_D = longest_part(documents, ("code",)) + np.maximum(accepted_D, negative_D) + verdict_D + 1
        return np.where((accepted_D == 0) | (negative_D == 0), layout.length + 1, lengths_D)

    def __call__(self, row: Row, layout: Layout, rng: np.random.Generator) -> Example:
        """Draws each document's candidate and lays the pairs out."""
        eod = layout.special_tokens.eod
        segments = []
        for piece in row.pieces:
            is_accepted = rng.random() < 0.5
            query = only_part(piece, "code")
            candidate = draw_part(piece, self.accepted if is_accepted else self.negatives, rng)
            if not is_accepted and rng.random() < self.other_problem:
                candidate = self._of_another(piece, row, len(query), candidate)
            verdict = only_part(piece, "equivalent" if is_accepted else "different")
            targets = np.concatenate([query, candidate, verdict, [eod]]).astype(np.int32)
            weights = np.ones(len(targets), np.float32)
            weights[len(query) : len(query) + len(candidate)] = is_accepted
            segments.append(Segment(eod, targets, weights))
        return lay_out(segments, dataclasses.replace(layout, isolate_documents=True))

    def _of_another(self, piece: Piece, row: Row, length: int, candidate: np.ndarray) -> np.ndarray:
        """The code of another problem of the row whose length is the nearest, so that length tells nothing; `candidate`
        where none has room."""
        room = max(map(len, parts_of(piece, (*self.accepted, *self.negatives))))
        codes = [only_part(other, "code") for other in row.pieces if other.group != piece.group]
        return min(
            (code for code in codes if len(code) <= room), key=lambda code: abs(len(code) - length), default=candidate
        )
