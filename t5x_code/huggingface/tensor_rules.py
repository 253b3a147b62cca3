"""Where each of our parameters lies in a checkpoint, as data, and the two functions that follow it there and back.

Ours has inputs before outputs and heads as an axis of their own; a checkpoint's matrix has outputs before inputs
(torch's Linear) or inputs before outputs (GPT-2's Conv1D, embeddings), heads merged, and sometimes several projections
in one tensor. A rule says which.

Legend: O outputs, I inputs of a checkpoint's matrix, each one merged axis.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class TensorRule:
    """One tensor of a checkpoint, or one of each layer."""

    theirs: str  # its name; {} is the layer's number
    ours: tuple[str, ...]  # paths of our parameters, in the order in which their outputs follow each other in it
    inputs_first: bool = False
    blocks: int = 1  # its outputs are this many blocks, each holding its share of the heads of every one of `ours`

    @property
    def is_layered(self) -> bool:
        """Whether there is one such tensor per layer."""
        return "{}" in self.theirs


def rule(theirs: str, *ours: str, inputs_first: bool = False, blocks: int = 1) -> TensorRule:
    """A `TensorRule`, written short."""
    return TensorRule(theirs, ours, inputs_first, blocks)


def with_biases(*rules: TensorRule) -> tuple[TensorRule, ...]:
    """Each rule of a `weight`, and the same for its `bias`."""
    biases = [
        dataclasses.replace(
            kernel,
            theirs=kernel.theirs.removesuffix("weight") + "bias",
            ours=tuple(path.removesuffix("kernel").removesuffix("scale") + "bias" for path in kernel.ours),
        )
        for kernel in rules
    ]
    return (*rules, *biases)


def their_shape(rule: TensorRule, shapes: Sequence[Shape]) -> Shape:
    """Shape of the checkpoint's tensor, of the shapes of our parameters (of one layer, the vocabulary not padded)."""
    sizes = [_sizes(path, shape) for path, shape in zip(rule.ours, shapes, strict=True)]
    outputs = sum(math.prod(outputs) for _, outputs in sizes)
    inputs = [math.prod(sizes[0][0])] if sizes[0][0] else []
    return (*inputs, outputs) if rule.inputs_first else (outputs, *inputs)


def split_tensor(rule: TensorRule, tensor: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
    """Our parameters of a checkpoint's tensor; views of it, but for what lies in several blocks.

    Args:
        rule: the tensor's.
        tensor: of `their_shape`.
        shapes: of our parameters.
    """
    tensor_OxI = tensor.T if rule.inputs_first else tensor
    parts, start = [], 0
    for path, shape in zip(rule.ours, shapes, strict=True):
        inputs, outputs = _sizes(path, shape)
        rows = math.prod(outputs) // rule.blocks
        by_block = tensor_OxI.reshape(rule.blocks, tensor_OxI.shape[0] // rule.blocks, *inputs)
        part = by_block[:, start : start + rows].reshape(*outputs, *inputs)
        parts.append(np.moveaxis(part, range(len(outputs)), range(len(inputs), len(shape))))
        start += rows
    return parts


def join_tensor(rule: TensorRule, parts: Sequence[np.ndarray]) -> np.ndarray:
    """The checkpoint's tensor of our parameters; the inverse of `split_tensor`."""
    by_block = []
    for path, part in zip(rule.ours, parts, strict=True):
        inputs, outputs = _sizes(path, part.shape)
        rows = math.prod(outputs) // rule.blocks
        outputs_first = np.moveaxis(part, range(len(inputs), part.ndim), range(len(outputs)))
        by_block.append(outputs_first.reshape(rule.blocks, rows, *([math.prod(inputs)] if inputs else [])))
    joined = by_block[0] if len(by_block) == 1 else np.concatenate(by_block, axis=1)
    tensor_OxI = joined.reshape(-1, *joined.shape[2:])
    return tensor_OxI.T if rule.inputs_first else tensor_OxI


def _sizes(path: str, shape: Shape) -> tuple[Shape, Shape]:
    """The input and the output axes of one of our parameters."""
    if not path.endswith("kernel"):
        return (), tuple(shape)
    num_inputs = 2 if path.endswith("attention/out/kernel") else 1
    return tuple(shape[:num_inputs]), tuple(shape[num_inputs:])
