"""How much memory a recipe takes per device, estimated from shapes alone, before anything is allocated.

The numbers are an estimate for planning (the compiler decides); what they leave out is stated in `MemoryEstimate`. What
a layer keeps and needs is counted from its arrays, and held against the compilers' own figures for TPUs and GPUs in
tests/recipes/test_memory_choice.py.

Legend: D model, H heads, K key/value heads, E head dim, F feed-forward.
"""

import dataclasses
import functools
import math
import os
from typing import Any

import jax

from t5x_code.models.attention.chunked import KEY_TILE, QUERY_CHUNK
from t5x_code.models.config import AUTO, TransformerConfig
from t5x_code.models.cross_entropy import default_chunk
from t5x_code.models.decoder import logical_axes, param_shapes
from t5x_code.models.lora import trained
from t5x_code.parallel.chips import chip_of
from t5x_code.parallel.mesh import MeshShape
from t5x_code.training.optimizer import OptimizerConfig, make_optimizer
from t5x_code.training.state import state_of_params

GIB = 2**30
FLOAT32_BYTES = 4
LANES = 128  # a TPU pads the last axis of an array, that of a head's numbers, to a multiple


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Bytes per device. Left out: fragmentation and the runtime's own share."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int  # kept for the backward pass
    workspace: int  # the larger of what the loss head and one layer's backward pass need

    @property
    def total(self) -> int:
        """The sum of all fields."""
        return sum(dataclasses.astuple(self))


def estimate_memory(
    config: TransformerConfig,
    optimizer: OptimizerConfig,
    mesh: MeshShape,
    rows: int,
    microbatch_size: int,
    length: int,
    platform: str,
) -> MemoryEstimate:
    """Bytes per device of one training step.

    Args:
        config: the decoder.
        optimizer: decides how much state lies beside each parameter.
        mesh: parameters and optimizer are split over fsdp and tensor, a row's activations over sequence and tensor.
        rows: per device in a step.
        microbatch_size: rows per device at a time; where `rows` are more, each one's gradients lie beside their sum.
        length: tokens of a row.
        platform: of the devices: cpu, gpu or tpu.
    """
    shares = mesh.fsdp * mesh.tensor
    parameter_bytes, optimizer_bytes = (size // shares for size in state_bytes(config, optimizer))
    if optimizer.offload:  # to the host's memory, of which only a part is on the device at a time; not the average
        optimizer_bytes = parameter_bytes if optimizer.ema_decay is not None else 0
    activation_bytes = 2 if config.dtype == "bfloat16" else FLOAT32_BYTES
    tokens = microbatch_size * length // mesh.sequence
    of_layer, of_backward = _activations(config, mesh.tensor, platform)
    backward = activation_bytes * tokens * of_backward
    if platform != "tpu" or config.attention not in (AUTO, "splash"):  # which keeps its scores on the chip
        tile = min(length, QUERY_CHUNK) * min(length, KEY_TILE)
        backward += 3 * FLOAT32_BYTES * microbatch_size * config.num_heads * tile / mesh.tensor
    chunk = min(config.loss_chunk or default_chunk(platform), tokens)
    head = 3 * FLOAT32_BYTES * chunk * config.vocab_size / mesh.tensor
    if mesh.fsdp > 1:
        # Parameters are gathered, of the next layer too, and gradients of both made whole; the head's waits longer.
        layer, unembedding = _layer_size(config) // mesh.tensor, config.model_dim * config.vocab_size // mesh.tensor
        backward += (4 * activation_bytes + FLOAT32_BYTES) * layer + FLOAT32_BYTES * unembedding
        head += (activation_bytes + FLOAT32_BYTES) * unembedding
    gradients = trained_bytes(config) // shares
    return MemoryEstimate(
        parameters=parameter_bytes,
        gradients=gradients if microbatch_size == rows else 2 * gradients,
        optimizer=optimizer_bytes,
        activations=int(activation_bytes * tokens * config.num_layers * of_layer),
        workspace=int(max(backward, head - gradients)),  # at the loss head there are no gradients yet
    )


def _activations(config: TransformerConfig, tensor: int, platform: str) -> tuple[float, float]:
    """Numbers per token that a layer keeps, and those that one layer's backward pass needs while it runs.

    A device of the axis tensor has its share of heads and F, but all of D.
    """
    D, F = config.model_dim, config.mlp_dim
    E = -(-config.head_dim // LANES) * LANES if platform == "tpu" else config.head_dim
    HE, KE = config.num_heads * E, config.num_kv_heads * E
    norms = D if config.parallel_block else 3 * D  # their results, and what lies between serial blocks
    projected = 2 * HE + 2 * KE + (1 + (config.mlp == "swiglu")) * F  # with the result of attention
    rotated = HE + (KE if config.rotates else 0)  # queries are scaled in any case
    kept = {
        "full": D,
        "dots": (2 if config.parallel_block else 3) * D + projected / tensor,
        "none": D + norms + (projected + rotated + F) / tensor,
    }
    recomputed = max(0, kept["none"] - kept[config.remat])
    gradients = kept["none"] + 2 * D + F / tensor
    adapted = 2 * D + projected / tensor if config.lora_rank else 0
    return kept[config.remat], recomputed + gradients + adapted


@functools.cache
def _layer_size(config: TransformerConfig) -> int:
    """Numbers of a layer's parameters."""
    return _num_bytes(param_shapes(config)["layers"]) // FLOAT32_BYTES // config.num_layers


def device_memory_bytes() -> int | None:
    """Bytes that one attached device has: an accelerator's limit, or what its kind has where the backend does not say
    (None: not known), or a CPU device's share of this machine's available memory."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        chip = chip_of(device.device_kind)
        return (device.memory_stats() or {}).get("bytes_limit") or (chip.memory_bytes if chip else None)
    try:
        with open("/proc/meminfo") as handle:
            fields = dict(line.split(":", 1) for line in handle)
        return int(fields["MemAvailable"].split()[0]) * 1024 // jax.local_device_count()
    except (OSError, KeyError):
        return machine_memory_bytes()


def machine_memory_bytes() -> int:
    """A CPU device's share of this machine's memory, whoever uses it: the same whenever it is asked for."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()


@functools.cache
def state_bytes(config: TransformerConfig, optimizer: OptimizerConfig) -> tuple[int, int]:
    """Bytes of the parameters, and of what the optimizer and a weight average keep beside them, over all devices."""
    transformation = make_optimizer(optimizer, trained(logical_axes(config)))
    with_ema = optimizer.ema_decay is not None
    state = jax.eval_shape(lambda params: state_of_params(params, transformation, with_ema), param_shapes(config))
    beside = (state.opt_state, state.ema_params)
    return _num_bytes(state.params), _num_bytes(beside)


@functools.cache
def trained_bytes(config: TransformerConfig) -> int:
    """Bytes of the parameters that have a gradient, over all devices: with adapters, theirs alone."""
    return _num_bytes(trained(param_shapes(config)))


def _num_bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
