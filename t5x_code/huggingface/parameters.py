"""Our parameters of a checkpoint's tensors and back, by a family's rules, one tensor at a time.

Legend: N layers, V vocabulary padded to `vocab_multiple`.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import flax.traverse_util
import numpy as np
import tensorstore as ts

from t5x_code.checkpoints.chunk_files import is_plain
from t5x_code.checkpoints.streaming import Index, LazyArray, read_layers, read_whole
from t5x_code.errors import UserError
from t5x_code.huggingface.family import Family, HfConfig
from t5x_code.huggingface.tensor_rules import Shape, TensorRule, join_tensor, split_tensor, their_shape
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import param_shapes
from t5x_code.models.lora import adapter_paths, merge_kernel

LAYERED = "layers/"  # how the paths of stacked parameters begin
MOST_NAMED = 3  # tensors that an error names


def lazy_params(
    family: Family, config: TransformerConfig, hf: HfConfig, tensors: Mapping[str, np.ndarray]
) -> dict[str, LazyArray]:
    """Our parameters by path, which read a checkpoint's tensors when they are asked for.

    Args:
        family: the checkpoint's.
        config: `read_config` of its config.json.
        hf: its config.json.
        tensors: by their names in the checkpoint, memory-mapped best.

    Raises:
        UserError: a tensor is missing, left over, of another shape than the config says, or a second head that
            differs from the embedding it is tied to.
    """
    shapes = shapes_by_path(config, padded=False)
    rules = [rule for rule in family.tensor_rules(config, hf) if set(rule.ours) <= shapes.keys()]
    _check_names(family, config, rules, tensors)
    padded = shapes_by_path(config, padded=True)
    params = {}
    for rule in rules:
        of_one = [_shape_of_one(path, shapes) for path in rule.ours]
        _check_shapes(rule, config, tensors, their_shape(rule, of_one))
        split = functools.partial(_split, rule, tensors, of_one)
        for part, path in enumerate(rule.ours):
            params[path] = LazyArray(padded[path], _reader(path, padded[path], split, part))
    return params


def their_shapes(family: Family, config: TransformerConfig, hf: HfConfig) -> list[tuple[str, Shape]]:
    """Names and shapes of the checkpoint's tensors, in the order in which `their_tensors` makes them."""
    shapes = shapes_by_path(config, padded=False)
    named = []
    for rule in family.tensor_rules(config, hf):
        if set(rule.ours) <= shapes.keys():
            shape = their_shape(rule, [_shape_of_one(path, shapes) for path in rule.ours])
            named += [(name, shape) for name in _names(rule, config)]
    return named


def their_tensors(
    family: Family, config: TransformerConfig, hf: HfConfig, arrays: Mapping[str, ts.TensorStore]
) -> Iterator[np.ndarray]:
    """The checkpoint's tensors of our parameters, each valid as layers of `read_layers` are; inverse of `lazy_params`.

    Args:
        family: what they become.
        config: of the parameters.
        hf: `write_config` of it.
        arrays: our parameters by path, opened; adapters among them are merged into their kernels.
    """
    shapes = shapes_by_path(config, padded=False)
    for rule in family.tensor_rules(config, hf):
        if not set(rule.ours) <= shapes.keys():
            continue
        if rule.is_layered:
            for parts in zip(*(_read_layers(arrays, path, config) for path in rule.ours), strict=True):
                yield join_tensor(rule, parts)
        else:
            yield join_tensor(rule, [_read(arrays, path, shapes[path], config) for path in rule.ours])


def are_plain(arrays: Mapping[str, ts.TensorStore]) -> bool:
    """Whether all that `their_tensors` reads lies in plain files."""
    return all(is_plain(array, layered=path.startswith(LAYERED)) for path, array in arrays.items())


def _read_layers(arrays: Mapping[str, ts.TensorStore], path: str, config: TransformerConfig) -> Iterator[np.ndarray]:
    """The layers of one of our parameters, one by one."""
    adapters = adapter_paths(path)
    if not adapters or not set(adapters) <= arrays.keys():
        yield from read_layers(arrays[path])
        return
    for kernel, *of_layer in zip(*(read_layers(arrays[name]) for name in (path, *adapters)), strict=True):
        yield merge_kernel(config, kernel, *of_layer)


def _read(arrays: Mapping[str, ts.TensorStore], path: str, shape: Shape, config: TransformerConfig) -> np.ndarray:
    """One of our parameters that is not stacked, without the vocabulary's padding."""
    array = read_whole(arrays[path], shape)
    adapters = adapter_paths(path)
    if adapters and set(adapters) <= arrays.keys():
        array = merge_kernel(config, array, *(arrays[name].read().result() for name in adapters))
    return array


def shapes_by_path(config: TransformerConfig, padded: bool) -> dict[str, Shape]:
    """Shapes of a decoder's parameters by path, the vocabulary padded or not."""
    config = config if padded else dataclasses.replace(config, vocab_multiple=1)
    tree = param_shapes(config)
    return {path: leaf.shape for path, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()}


def _shape_of_one(path: str, shapes: Mapping[str, Shape]) -> Shape:
    """Shape of a parameter, or of one layer of it."""
    return shapes[path][1:] if path.startswith(LAYERED) else shapes[path]


def _names(rule: TensorRule, config: TransformerConfig) -> list[str]:
    return [rule.theirs.format(n) for n in range(config.num_layers)] if rule.is_layered else [rule.theirs]


def _split(
    rule: TensorRule, tensors: Mapping[str, np.ndarray], shapes: Sequence[Shape], layer: int
) -> list[np.ndarray]:
    return split_tensor(rule, tensors[rule.theirs.format(layer)], shapes)


def _reader(
    path: str, shape: Shape, split: Callable[[int], list[np.ndarray]], part: int
) -> Callable[[Index], np.ndarray]:
    """Reads a slice of one of our parameters; entries of the vocabulary's padding are zero."""

    def read(index: Index) -> np.ndarray:
        ranges = [range(*axis.indices(size)) for axis, size in zip(index, shape, strict=True)]
        if path.startswith(LAYERED):
            pieces = [split(n)[part][index[1:]] for n in ranges[0]]
            return pieces[0][None] if len(pieces) == 1 else np.stack(pieces)
        piece = split(0)[part][index]
        missing = [(0, len(wanted) - size) for wanted, size in zip(ranges, piece.shape, strict=True)]
        return np.pad(piece, missing) if any(after for _, after in missing) else piece

    return read


def _check_names(
    family: Family, config: TransformerConfig, rules: Sequence[TensorRule], tensors: Mapping[str, np.ndarray]
) -> None:
    wanted = {name for rule in rules for name in _names(rule, config)}
    missing = [name for name in sorted(wanted) if name not in tensors]
    if missing:
        raise UserError(f"the checkpoint has no tensor {_listed(missing)}; is it a whole {family.name} checkpoint?")
    left_over = sorted(name for name in tensors if name not in wanted and not name.endswith(family.ignored))
    if config.tie_embeddings and "lm_head.weight" in left_over:
        (embedding,) = (rule.theirs for rule in rules if rule.ours == ("embedding/kernel",))
        if not np.array_equal(tensors["lm_head.weight"], tensors[embedding]):
            raise UserError(f"config.json ties the head to the embedding, but lm_head.weight differs from {embedding}")
        left_over.remove("lm_head.weight")
    if left_over:
        raise UserError(
            f"the checkpoint's tensor {_listed(left_over)} has no place in {family.name} as config.json says it; "
            "choose another --family, or the config.json that came with the checkpoint"
        )


def _check_shapes(
    rule: TensorRule, config: TransformerConfig, tensors: Mapping[str, np.ndarray], wanted: Shape
) -> None:
    for name in _names(rule, config):
        if tensors[name].shape != wanted:
            raise UserError(f"the checkpoint's {name} has shape {tensors[name].shape}, its config.json says {wanted}")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
