"""A vocabulary with rows of its own for code: making the rows, choosing the softmax, and going back to a plain model.

Legend: D model, V vocabulary padded, W entries of a split vocabulary, U entries that can be predicted.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from t5x_code.models.config import TransformerConfig

Params = dict[str, Any]
# The arrays with an entry per token, by their path, and the axis of the entries.
VOCABULARY_AXES = {("embedding", "kernel"): 0, ("head", "kernel"): 1, ("head", "bias"): 0}


@dataclasses.dataclass(frozen=True, eq=False)
class VocabularySplit:
    """How a vocabulary is split by modality, as far as a model is concerned."""

    base_vocab_size: int
    sources: tuple[int, ...]  # the n-th new row, a copy of this one, has the id base_vocab_size + n
    allowed_2xW: np.ndarray  # bool: what a target of each modality competes with
    target_modalities: tuple[int, ...]  # that targets of the recipe have

    @property
    def vocab_size(self) -> int:
        """W."""
        return self.base_vocab_size + len(self.sources)

    @property
    def num_predicted(self) -> int:
        """U: entries that logits are made for."""
        if len(self.target_modalities) > 1:
            return self.vocab_size
        return int(self.allowed_2xW[self.target_modalities[0]].sum())


def split_config(config: TransformerConfig, split: VocabularySplit) -> TransformerConfig:
    """The config of the split model, from that of its base."""
    return dataclasses.replace(config, vocab_size=split.vocab_size)


def split_params(config: TransformerConfig, params: Params, sources: tuple[int, ...]) -> Params:
    """A base model's parameters with the rows of its vocabulary copied: the split model's before any step.

    Args:
        config: the base model's.
        params: the base model's.
        sources: the row that each new row is a copy of.
    """
    rows = np.concatenate([np.arange(config.vocab_size), np.array(sources, np.int64)])
    size = dataclasses.replace(config, vocab_size=len(rows)).padded_vocab_size
    return _take_rows(params, rows, size)


def plain_params(config: TransformerConfig, params: Params, base_vocab_size: int, sources: tuple[int, ...]) -> Params:
    """A split model's parameters as a plain model's: the code rows take the place of those that they were copied from.

    Args:
        config: the split model's.
        params: the split model's.
        base_vocab_size: entries of the plain model.
        sources: as in `split_params`.
    """
    rows = np.arange(base_vocab_size)
    rows[list(sources)] = np.arange(base_vocab_size, base_vocab_size + len(sources))
    size = dataclasses.replace(config, vocab_size=base_vocab_size).padded_vocab_size
    return _take_rows(params, rows, size)


def predicted_head(
    split: VocabularySplit, multiple: int, kernel_DxV: jax.Array, bias_V: jax.Array, targets_BxL: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, int]:
    """The columns of the head that can be predicted, where all targets have the same modality.

    If a recipe has only code targets, the text rows need no logits: full separation then costs no more than none.

    Args:
        split: with one target modality.
        multiple: the part is padded to a multiple of this.
        kernel_DxV: of `decoder.head_weights`.
        bias_V: likewise.
        targets_BxL: ids.

    Returns:
        Kernel and bias with U entries, the targets' places among them, and U before padding.
    """
    (modality,) = split.target_modalities
    (ids_U,) = np.nonzero(split.allowed_2xW[modality])
    num_ids = len(ids_U)
    places_W = np.zeros(split.vocab_size, np.int32)
    places_W[ids_U] = np.arange(num_ids)
    ids_U = np.pad(ids_U, (0, -num_ids % multiple), mode="edge")
    kernel_DxU = jnp.take(kernel_DxV, ids_U, axis=1, indices_are_sorted=True)
    return kernel_DxU, bias_V[ids_U], jnp.asarray(places_W)[targets_BxL], num_ids


def _take_rows(params: Params, rows: np.ndarray, padded_size: int) -> Params:
    """The parameters with these rows of the vocabulary, then zeros up to the padded size."""
    result = {name: dict(part) if name in ("embedding", "head") else part for name, part in params.items()}
    for (room, name), axis in VOCABULARY_AXES.items():
        if name in result.get(room, {}):
            array = result[room][name].take(rows, axis=axis)
            padding = [(0, 0)] * array.ndim
            padding[axis] = (0, padded_size - len(rows))
            pad = np.pad if isinstance(array, np.ndarray) else jnp.pad
            result[room][name] = pad(array, padding)
    return result
