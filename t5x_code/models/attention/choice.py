"""Which way to compute attention: what each needs, and the fastest that a device and a shape allow."""

import dataclasses
import importlib.util
import re

import jax.numpy as jnp

from t5x_code.errors import UserError, check_choice
from t5x_code.models.attention import splash
from t5x_code.models.attention.chunked import QUERY_CHUNK
from t5x_code.models.config import AUTO

MAX_DENSE_SCORES = 1 << 16  # L * S up to which all scores of a head are made at once
MAX_CUDNN_MASK = 1 << 24  # L * S of the largest mask handed to cuDNN: 32 MiB a row
HOPPER = re.compile(r"NVIDIA G?H\d")  # H100, H200, H800, GH200, ..

# The fastest first; "auto" takes the first that has no reason against it and is no worse than what follows.
CANDIDATES = ("splash", "tokamax", "cudnn", "dense", "by_head", "chunked")
CAUSAL_ALONE = ("cudnn_causal", "tokamax_causal")  # see `recipes.attention_choice`
NAMES = (AUTO, *CANDIDATES, *CAUSAL_ALONE)


@dataclasses.dataclass(frozen=True)
class AttentionCase:
    """What the choice depends on: one device's share of the work."""

    platform: str  # cpu, gpu or tpu
    device_kind: str  # as `jax.Device.device_kind` says it
    queries: int
    keys: int
    head_dim: int
    dtype: str
    is_attached: bool  # whether this process has such a device, and is not compiling for one elsewhere


def choose(name: str, case: AttentionCase) -> str:
    """The implementation to use.

    Args:
        name: one of `NAMES`.
        case: where and what on.

    Raises:
        UserError: there is none of that name, or it cannot compute this case; says why.
    """
    refuse_unknown(name)
    if name == AUTO:
        return next(candidate for candidate in CANDIDATES if _suits(candidate, case))
    reason = why_not(name, case)
    if reason is not None:
        raise UserError(f"TransformerConfig.attention is {name!r}, which {reason}; set it to {AUTO!r}")
    return name


def refuse_unknown(name: str) -> None:
    """Raises a UserError unless there is an implementation of that name."""
    check_choice("TransformerConfig.attention", name, NAMES)


def why_not(name: str, case: AttentionCase) -> str | None:
    """The reason why an implementation cannot compute a case; None if it can."""
    if name == "splash":
        return _why_not_splash(case)
    reason = None
    if name in ("tokamax", "tokamax_causal"):
        reason = _why_not_tokamax(case)
    elif name in ("cudnn", "cudnn_causal"):
        reason = _why_not_cudnn(case)
    if reason is None and name in CAUSAL_ALONE and case.queries != case.keys:
        return f"takes whole rows, not {case.queries} queries of {case.keys} (of one device)"
    return reason


def _suits(name: str, case: AttentionCase) -> bool:
    """Whether "auto" may take it."""
    is_cpu = case.platform == "cpu"
    if name == "by_head":
        return is_cpu  # elsewhere heads in turn leave the device idle
    if name == "dense" and is_cpu and case.queries >= QUERY_CHUNK:
        return False  # by_head is faster from one whole chunk on
    pairs = case.queries * case.keys
    limits = {"dense": MAX_DENSE_SCORES, "cudnn": MAX_CUDNN_MASK}
    return why_not(name, case) is None and pairs <= limits.get(name, pairs)


def _why_not_splash(case: AttentionCase) -> str | None:
    if case.platform != "tpu":
        return f"is a kernel for TPUs; this is a {case.device_kind}"
    if splash.tile_size(case.queries, case.keys) is None:
        tile = splash.TILES[-1]
        return f"takes lengths divisible by {tile}, not {case.queries} queries and {case.keys} keys (of one device)"
    if case.keys > splash.MAX_KEYS:
        return f"takes rows of at most {splash.MAX_KEYS} tokens, not {case.keys}"
    return None


def _why_not_tokamax(case: AttentionCase) -> str | None:
    if case.platform != "gpu" or not HOPPER.match(case.device_kind):
        return f"is a kernel for NVIDIA Hopper GPUs; this is a {case.device_kind}"
    if importlib.util.find_spec("tokamax") is None:
        return "needs the package tokamax: pip install -e '.[gpu]'"
    if case.queries % 64 or case.keys % 64:
        return f"takes lengths divisible by 64, not {case.queries} queries and {case.keys} keys (of one device)"
    return _why_not_flash_gpu(case)


def _why_not_cudnn(case: AttentionCase) -> str | None:
    if case.platform != "gpu" or not case.device_kind.startswith("NVIDIA"):
        return f"is for NVIDIA GPUs; this is a {case.device_kind}"
    if case.queries < 2 or case.queries % 2 or case.keys % 2:
        return f"takes even lengths, not {case.queries} queries and {case.keys} keys"
    return _why_not_flash_gpu(case)


def _why_not_flash_gpu(case: AttentionCase) -> str | None:
    if not case.is_attached:
        return f"can only be compiled where its GPU is, and no {case.device_kind} is attached"
    if jnp.dtype(case.dtype).itemsize != 2:
        return f"takes bfloat16, not {case.dtype}; set DTYPE='bfloat16'"
    if case.head_dim % 8 or case.head_dim > 256:
        return f"takes heads of at most 256 dimensions, divisible by 8, not {case.head_dim}"
    return None
