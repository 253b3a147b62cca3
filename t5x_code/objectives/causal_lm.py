"""Causal language modelling: predict each token from those before it."""

import dataclasses
from typing import ClassVar

import numpy as np

from t5x_code.objectives.example import Example, Layout, Row
from t5x_code.objectives.segments import lay_out, plain_segment


@dataclasses.dataclass(frozen=True)
class CausalLM:
    """Every token of the row, each document's `eod` included, is a target with weight 1."""

    name: ClassVar[str] = "causal_lm"  # for metrics and streams
    is_causal: ClassVar[bool] = True

    def raw_length(self, layout: Layout, document_lengths_N: np.ndarray) -> int:
        """L: a row of the store becomes as many targets."""
        return layout.length

    def __call__(self, row: Row, layout: Layout, rng: np.random.Generator) -> Example:
        """Lays the row's pieces out as they are; draws nothing from `rng`."""
        return lay_out([plain_segment(piece) for piece in row.pieces], layout)
