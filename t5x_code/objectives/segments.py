"""Lays segments side by side into one Example: the last step of every objective.

Shape legend: L sequence length, N targets of a segment, P segments of a row.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from t5x_code.objectives.example import Example, Layout, Piece
from t5x_code.tokens.modality import CODE_MODALITY, ModalityTables


@dataclasses.dataclass(frozen=True)
class Segment:
    """The targets of one piece, and the token that is read before the first of them.

    The model reads `[lead] + targets[:-1]`, so that every token of a piece is a target exactly once and `eod`, the lead
    at a document's start, serves as beginning-of-text.
    """

    lead: int
    targets_N: np.ndarray  # int32, N >= 1
    weights_N: np.ndarray | None = None  # float32 loss weights, None: all 1
    prefix_length: int = 0  # that many of the first input tokens, N at most, see each other both ways
    inputs_N: np.ndarray | None = None  # int32, the tokens that are read, where they are not `[lead] + targets[:-1]`
    modality_N: np.ndarray | int = CODE_MODALITY  # of the targets


def plain_segment(piece: Piece) -> Segment:
    """A piece as it is, with a loss on every token."""
    return Segment(piece.lead, piece.tokens_N, modality_N=piece.modality)


def lay_out(segments: Sequence[Segment], layout: Layout) -> Example:
    """Makes the Example of a row.

    Segments stand side by side from index 0. The rest is padding: zero in every field, so that a padded token sees
    nothing. With `isolate_documents` each segment sees only itself and its positions start at 0. Without it the whole
    row is one segment, and a prefix also sees everything before it.

    Args:
      segments: P segments, each of at least one target, of at most L targets together.
      layout: the recipe's length L and isolation.

    Raises:
      ValueError: the segments do not fit, which is an error of the objective that made them.
    """
    length = layout.length
    lengths_P = np.array([len(segment.targets_N) for segment in segments], np.int64)
    ends_P = np.cumsum(lengths_P)
    starts_P = ends_P - lengths_P
    used = int(lengths_P.sum())
    if used > length:
        raise ValueError(f"{len(segments)} segments of {used} targets do not fit a row of {length}")
    targets_L = np.zeros(length, np.int32)
    inputs_L = np.zeros(length, np.int32)
    loss_weights_L = np.zeros(length, np.float32)
    loss_weights_L[:used] = 1.0
    modality_L = np.zeros(length, np.int32) if layout.modality else None
    if segments:
        np.concatenate([segment.targets_N for segment in segments], out=targets_L[:used])
        inputs_L[1:used] = targets_L[: used - 1]
        inputs_L[starts_P] = [segment.lead for segment in segments]
    segment_ids_L, attend_from_L, attend_to_L = _causal_intervals(lengths_P, layout)
    positions_L = np.arange(length, dtype=np.int32) - attend_from_L
    positions_L[used:] = 0
    for segment, start, end in zip(segments, starts_P.tolist(), ends_P.tolist(), strict=True):
        if segment.weights_N is not None:
            loss_weights_L[start:end] = segment.weights_N
        if segment.inputs_N is not None:
            inputs_L[start:end] = segment.inputs_N
        if modality_L is not None:
            modality_L[start:end] = segment.modality_N
        if segment.prefix_length:
            prefix_end = start + segment.prefix_length
            attend_to_L[start:prefix_end] = prefix_end
    return Example(
        inputs_L=inputs_L,
        targets_L=targets_L,
        loss_weights_L=loss_weights_L,
        positions_L=positions_L,
        segment_ids_L=segment_ids_L,
        attend_from_L=attend_from_L,
        attend_to_L=attend_to_L,
        target_modality_L=modality_L,
    )


def _causal_intervals(lengths_P: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Segment ids, attend_from and attend_to of a row in which each token sees its segment up to itself, int32 [L]."""
    segment_ids_L = np.zeros(layout.length, np.int32)
    attend_from_L = np.zeros(layout.length, np.int32)
    attend_to_L = np.zeros(layout.length, np.int32)
    used = int(lengths_P.sum())
    if layout.isolate_documents:
        segment_ids_L[:used] = np.repeat(np.arange(1, len(lengths_P) + 1), lengths_P)
        attend_from_L[:used] = np.repeat(np.cumsum(lengths_P) - lengths_P, lengths_P)
    else:
        segment_ids_L[:used] = 1
    attend_to_L[:used] = np.arange(1, used + 1)
    return segment_ids_L, attend_from_L, attend_to_L


def split_ids(example: Example, tables: ModalityTables) -> Example:
    """The example in the ids of a vocabulary that is split by modality.

    An input has the modality of the target before it; the first of a segment is a shared token, or continues a document
    of the same modality.
    """
    ids_2xV, modality_L = tables.ids, example.target_modality_L
    input_modality_L = np.roll(modality_L, 1)
    starts_L = example.attend_from_L == np.arange(len(modality_L))
    input_modality_L[starts_L] = modality_L[starts_L]
    return dataclasses.replace(
        example,
        inputs_L=ids_2xV[input_modality_L, example.inputs_L],
        targets_L=ids_2xV[modality_L, example.targets_L],
    )
