"""How much memory a recipe takes per device, estimated from shapes alone, before anything is allocated.

The numbers are an estimate for planning (the compiler decides); what they leave out is stated in `MemoryEstimate`.
"""

import dataclasses
import functools
import math
import os
from typing import Any

import jax

from t5x_code.models.attention.chunked import KEY_TILE, QUERY_CHUNK
from t5x_code.models.config import TransformerConfig
from t5x_code.models.cross_entropy import default_chunk
from t5x_code.models.decoder import init_params, logical_axes
from t5x_code.models.lora import trained
from t5x_code.parallel.mesh import MeshShape
from t5x_code.training.optimizer import OptimizerConfig, make_optimizer
from t5x_code.training.state import init_state

GIB = 2**30
FLOAT32_BYTES = 4
# What is kept of one layer for the backward pass, in activations of model_dim numbers per token: those that each device
# of the tensor axis holds whole, such as the layer's input, and those that are split over it, such as heads.
KEPT_PER_LAYER = {"full": (1.0, 0.0), "dots": (2.0, 12.0), "none": (3.0, 15.0)}


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Bytes per device. Left out: fragmentation, collectives' buffers and the runtime's own share (about a tenth)."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    loss_head: int

    @property
    def total(self) -> int:
        """The sum of all fields."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.loss_head


def estimate_memory(
    config: TransformerConfig,
    optimizer: OptimizerConfig,
    mesh: MeshShape,
    rows: int,
    microbatch_size: int,
    length: int,
) -> MemoryEstimate:
    """Bytes per device of one training step.

    Args:
        config: the decoder.
        optimizer: decides how much state lies beside each parameter.
        mesh: parameters and optimizer are split over fsdp and tensor, a row's activations over sequence and tensor.
        rows: per device in a step.
        microbatch_size: rows per device at a time; where `rows` are more, each one's gradients lie beside their sum.
        length: tokens of a row.
    """
    shares = mesh.fsdp * mesh.tensor
    parameter_bytes, optimizer_bytes = (size // shares for size in state_bytes(config, optimizer))
    if optimizer.offload:
        optimizer_bytes = 0  # kept in the host's memory; only a part of it is on the device at a time
    activation_bytes = 2 if config.dtype == "bfloat16" else FLOAT32_BYTES
    tokens = microbatch_size * length // mesh.sequence
    wide = config.model_dim * activation_bytes * tokens
    whole, shared = KEPT_PER_LAYER[config.remat]
    kept = (whole + shared / mesh.tensor) * config.num_layers * wide
    one_layer = sum(KEPT_PER_LAYER["none"]) * wide / mesh.tensor
    tile = min(length, QUERY_CHUNK) * min(length, KEY_TILE)
    scores = FLOAT32_BYTES * microbatch_size * config.num_heads * tile / mesh.tensor
    chunk = min(config.loss_chunk or default_chunk(jax.default_backend()), tokens)
    gradients = trained_bytes(config) // shares
    head_gradient = FLOAT32_BYTES * config.model_dim * config.vocab_size // mesh.tensor
    return MemoryEstimate(
        parameters=parameter_bytes,
        gradients=gradients if microbatch_size == rows else 2 * gradients,
        optimizer=optimizer_bytes,
        activations=int(kept + one_layer + 3 * scores),
        loss_head=int(3 * FLOAT32_BYTES * chunk * config.vocab_size / mesh.tensor + head_gradient),
    )


def device_memory_bytes() -> int | None:
    """Bytes that one attached device has: an accelerator's limit (None where the backend does not report one), or a
    CPU device's share of this machine's available memory."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    try:
        with open("/proc/meminfo") as handle:
            fields = dict(line.split(":", 1) for line in handle)
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return available // jax.local_device_count()


def largest_fitting_microbatch(
    config: TransformerConfig,
    optimizer: OptimizerConfig,
    mesh: MeshShape,
    rows: int,
    divided: int,
    length: int,
    limit: int,
) -> int:
    """The most rows per device at a time that divide `divided` and fit into `limit` bytes; 0: not even one fits."""

    def fits(size: int) -> bool:
        return estimate_memory(config, optimizer, mesh, rows, size, length).total <= limit

    return next((size for size in range(divided, 0, -1) if divided % size == 0 and fits(size)), 0)


def state_bytes(config: TransformerConfig, optimizer: OptimizerConfig) -> tuple[int, int]:
    """Bytes of the parameters, and of what the optimizer and a weight average keep beside them, over all devices."""
    transformation = make_optimizer(optimizer, trained(logical_axes(config)))
    with_ema = optimizer.ema_decay is not None
    state = jax.eval_shape(lambda key: init_state(config, transformation, with_ema, key), jax.random.key(0))
    beside = (state.opt_state, state.ema_params)
    return _num_bytes(state.params), _num_bytes(beside)


def trained_bytes(config: TransformerConfig) -> int:
    """Bytes of the parameters that have a gradient, over all devices: with adapters, theirs alone."""
    return _num_bytes(trained(jax.eval_shape(functools.partial(init_params, config), jax.random.key(0))))


def _num_bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
