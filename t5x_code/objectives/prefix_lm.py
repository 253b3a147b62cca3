"""Prefix language modelling: a prefix of each document is read both ways, the loss is on what follows it.

Token i of a document, its lead counted, sees token j where `j <= i or (i < P and j < P)`; P is the prefix' length.
Targets inside the prefix carry no loss, for they are seen; those from the P-th token on do (arXiv 2305.02309).

Shape legend: N tokens of a piece.
"""

import dataclasses
from typing import ClassVar, Literal, get_args

import numpy as np

from t5x_code.errors import check_choice
from t5x_code.objectives.example import Example, Layout, Piece, Row
from t5x_code.objectives.segments import Segment, lay_out

PrefixDistribution = Literal["uniform", "uniform_half", "long"]


@dataclasses.dataclass(frozen=True)
class PrefixLM:
    """One prefix per document, its length drawn from the named distribution.

    `uniform`: U{0..n-1} for a document of n tokens; `uniform_half`: U{0..n/2}; `long`: what follows the prefix is U{1..
    n/2}, a quarter on average (UL2's S-denoiser, arXiv 2205.05131). The paper names none [ours].
    """

    name: ClassVar[str] = "prefix_lm"  # for metrics and streams

    prefix: PrefixDistribution = "uniform"

    def __post_init__(self):
        check_choice("PrefixLM.prefix", self.prefix, get_args(PrefixDistribution))

    def raw_length(self, layout: Layout, document_lengths_N: np.ndarray) -> int:
        """L: a row of the store becomes as many targets."""
        return layout.length

    def __call__(self, row: Row, layout: Layout, rng: np.random.Generator) -> Example:
        """Draws a prefix for each piece and lays them out."""
        return lay_out([self.segment(piece, rng) for piece in row.pieces], layout)

    def segment(self, piece: Piece, rng: np.random.Generator) -> Segment:
        """The piece behind a drawn prefix."""
        return prefix_segment(piece, self.draw_length(len(piece.tokens_N), rng))

    def draw_length(self, num_tokens: int, rng: np.random.Generator) -> int:
        """P of a document of so many tokens, its lead counted: something is always left to predict."""
        if self.prefix == "uniform":
            return int(rng.integers(num_tokens))
        half = num_tokens // 2
        if self.prefix == "uniform_half":
            return int(rng.integers(half + 1))
        return num_tokens + 1 - int(rng.integers(1, max(half, 1) + 1))


def prefix_segment(piece: Piece, prefix_length: int) -> Segment:
    """The piece with its first `prefix_length` inputs, the lead included, read both ways."""
    weights_N = np.ones(len(piece.tokens_N), np.float32)
    weights_N[: max(0, prefix_length - 1)] = 0.0
    return Segment(piece.lead, piece.tokens_N, weights_N, prefix_length, modality_N=piece.modality)
