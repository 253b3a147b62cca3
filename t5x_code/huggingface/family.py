"""What a family is to the converters, and how its config.json is read and written.

A family's file says, as data, which field of ours is which field of theirs, and which tensor holds which parameter.
"""

import dataclasses
import inspect
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any

from t5x_code.errors import UserError
from t5x_code.field_types import fits
from t5x_code.huggingface.tensor_rules import TensorRule
from t5x_code.models.config import RopeScaling, TransformerConfig

HfConfig = Mapping[str, Any]  # a parsed config.json

DTYPES = ("float32", "bfloat16", "float16")  # that parameters may be stored in
# How a model is computed, stored or begun, not what it is: config.json need not say these fields of ours.
UNSAID = ("dtype", "remat", "scan_layers", "attention", "loss_chunk", "vocab_multiple", "initializer_range")
ROTARY = ("rotary_dim", "rope_base", "rope_scaling")  # say nothing where nothing rotates
# Of each kind of scaling: our fields, and theirs.
SCALING_FIELDS: Mapping[str, Mapping[str, str]] = {
    "llama3": {
        "factor": "factor",
        "low_frequency_factor": "low_freq_factor",
        "high_frequency_factor": "high_freq_factor",
        "original_length": "original_max_position_embeddings",
    },
    "linear": {"factor": "factor"},
}
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "gelu": "gelu"}


@dataclasses.dataclass(frozen=True)
class Family:
    """How the models of one family are mapped."""

    name: str
    model_types: tuple[str, ...]  # of config.json; the first is written
    config_from_hf: Callable[[HfConfig], TransformerConfig]
    config_to_hf: Callable[[TransformerConfig], dict[str, Any]]
    tensor_rules: Callable[[TransformerConfig, HfConfig], tuple[TensorRule, ...]]
    architecture: str | None = None  # transformers' class
    ignored: tuple[str, ...] = ()  # endings of constants that older checkpoints carry


def read_config(family: Family, hf: HfConfig) -> TransformerConfig:
    """Our config of a family's config.json.

    Raises:
        UserError: it is another family's, lacks something, or asks for what the decoder does not have.
    """
    model_type = hf.get("model_type")
    if model_type not in family.model_types:
        wanted = " or ".join(map(repr, family.model_types))
        raise UserError(f"config.json has model_type {model_type!r}, not {wanted}; choose another --family")
    refuse_unless(hf, "is_causal", True)  # transformers 5 attends both ways if it is false, in any family
    try:
        config = family.config_from_hf(hf)
        _check_types(config)
        return config
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:  # a text where a number belongs, no heads
        raise UserError(f"config.json cannot be read as {family.name}'s: {error}") from error


def _check_types(config: TransformerConfig | RopeScaling) -> None:
    """Raises TypeError, by our name of the field, for what JSON may have for a whole number, a finite one or a flag."""
    hints = typing.get_type_hints(type(config))
    for name, value in vars(config).items():
        if isinstance(value, RopeScaling):
            _check_types(value)
        if not fits(value, hints[name]) or (isinstance(value, float) and not math.isfinite(value)):
            raise TypeError(f"{name} is {value!r}: it must be of type {inspect.formatannotation(hints[name])}")


def write_config(family: Family, config: TransformerConfig) -> dict[str, Any]:
    """The config.json of a decoder.

    Raises:
        UserError: the family has no such decoder; names the first difference.
    """
    hf = {"model_type": family.model_types[0]}
    if family.architecture:
        hf["architectures"] = [family.architecture]
    hf |= family.config_to_hf(config)
    said = family.config_from_hf(hf)
    for name in (field.name for field in dataclasses.fields(TransformerConfig)):
        if name in UNSAID or (name in ROTARY and not config.rotates):
            continue
        what = "window_of_layer" if name == "window_pattern" else name
        ours, theirs = getattr(config, what), getattr(said, what)
        if ours != theirs:
            raise UserError(f"the model has {what} {ours}, {family.name} has {theirs}; choose another --family")
    return hf


def read_sizes(hf: HfConfig, names: Mapping[str, str]) -> dict[str, int]:
    """Our fields of config.json's; `names` maps ours to theirs.

    Raises:
        UserError: one is missing.
    """
    missing = [theirs for theirs in names.values() if not isinstance(hf.get(theirs), int)]
    if missing:
        raise UserError(f"config.json has no {missing[0]}; take the config.json that came with the checkpoint")
    return {ours: hf[theirs] for ours, theirs in names.items()}


def read_options(hf: HfConfig, names: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Our fields that config.json may leave out; `names` maps ours to theirs and the value that it then has."""
    return {ours: hf.get(theirs, default) for ours, (theirs, default) in names.items()}


def write_fields(config: TransformerConfig, *tables: Mapping[str, str | tuple[str, Any]]) -> dict[str, Any]:
    """The inverse of `read_sizes` and `read_options`, for any of their tables."""
    fields: dict[str, Any] = {}
    for ours, theirs in (pair for table in tables for pair in table.items()):
        name, default = (theirs, None) if isinstance(theirs, str) else theirs
        value = getattr(config, ours)
        fields[name] = default if value is None else value
    return fields


def head_dim_of(hf: HfConfig, width: str, heads: str) -> int:
    """Width of a head that config.json does not say.

    Raises:
        UserError: the heads do not divide the width.
    """
    if hf[width] % hf[heads]:
        raise UserError(f"config.json: {heads} {hf[heads]} does not divide {width} {hf[width]}")
    return hf[width] // hf[heads]


def read_activation(hf: HfConfig, name: str, default: str) -> str:
    """Our `mlp` of an activation function.

    Raises:
        UserError: the decoder does not have it.
    """
    theirs = hf.get(name, default)
    if theirs not in ACTIVATIONS:
        raise UserError(f"config.json: {name} {theirs!r} is not one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[theirs]


def write_activation(config: TransformerConfig, tanh: str) -> str:
    """The name of our `mlp` in a family that calls the tanh approximation `tanh`."""
    return {"gelu_tanh": tanh}.get(config.mlp, config.mlp)


def refuse_unless(hf: HfConfig, name: str, value: Any) -> None:
    """Raises UserError if config.json says something of `name` that the decoder does not have."""
    if hf.get(name, value) != value:
        raise UserError(f"config.json: {name} {hf[name]!r} is not supported; only {value!r} is")


def read_rope(hf: HfConfig) -> dict[str, Any]:
    """Our fields of the rotation, as transformers 4 (`rope_theta`, `rope_scaling`) or 5 (`rope_parameters`) says it.

    As in transformers 5, `rope_scaling` stands for `rope_parameters`, and what either says goes before what stands
    beside them.

    Raises:
        UserError: a kind of scaling that the decoder does not have.
    """
    scaling = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    for said in (hf, scaling):
        refuse_unless(said, "partial_rotary_factor", 1.0)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    base = float(scaling.get("rope_theta", hf.get("rope_theta", 10_000.0)))
    if kind == "default":
        return {"rope_base": base, "rope_scaling": None}
    if kind not in SCALING_FIELDS:
        supported = ", ".join(map(repr, ("default", *SCALING_FIELDS)))
        raise UserError(f"config.json: rope scaling {kind!r} is not supported; only {supported} are")
    fields = SCALING_FIELDS[kind]
    missing = [theirs for theirs in fields.values() if theirs not in scaling]
    if missing:
        raise UserError(f"config.json: its rope scaling has no {missing[0]}")
    said = {ours: scaling[theirs] for ours, theirs in fields.items()}
    return {"rope_base": base, "rope_scaling": RopeScaling(kind=kind, **said)}


def write_rope(config: TransformerConfig) -> dict[str, Any]:
    """The inverse of `read_rope`, in the words of transformers 4, which 5 reads too."""
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_theta": config.rope_base, "rope_scaling": None}
    said = {theirs: getattr(scaling, ours) for ours, theirs in SCALING_FIELDS[scaling.kind].items()}
    return {"rope_theta": config.rope_base, "rope_scaling": {"rope_type": scaling.kind, **said}}
