"""How many floating-point operations a token costs, and what share of the hardware's peak a run reaches.

Convention, stated wherever a utilisation (MFU) is printed: 6 per parameter that multiplies (embedding lookups are not
products, the head's is), plus causal attention's two products over half of the keys, or what a window leaves of them,
forward and backward. A parameter that is not trained, beside adapters, counts 4, as it needs no gradient; of a head
that is split by modality the entries that no target competes with count nothing. Recomputed layers (remat) do not
count: the model's work, not the machine's.
"""

import math

import jax

from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import count_params, param_shapes
from t5x_code.models.lora import trained
from t5x_code.models.modality import VocabularySplit
from t5x_code.parallel.chips import chip_of

CONVENTION = "6N + causal attention"


def train_flops_per_token(
    config: TransformerConfig, split: VocabularySplit | None = None, length: int | None = None
) -> float:
    """Floating-point operations of forward and backward pass per token of a full row.

    Args:
        config: the decoder.
        split: of its vocabulary, where that is split by modality.
        length: of the rows; None: the model's `max_length`.
    """
    entries = config.vocab_size if split is None else split.num_predicted
    per_entry = (4 if config.lora_rank else 6) * config.model_dim
    products = 4 * _layer_params(config) + 2 * _trained_layer_params(config)
    return float(products + entries * per_entry + attention_flops_per_token(config, length))


def attention_flops_per_token(config: TransformerConfig, length: int | None = None) -> float:
    """Scores and weighted sum, forward (2 products) and backward (4), over the keys that a token sees on average.

    Those are half of the row, and of a window W in a row of L all but its first half: W - W^2 / 2L.
    """
    windows = [*config.window_of_layer, *[0] * config.top_query_layer]
    length = config.max_length if length is None else length
    keys = [min(window, length) if window else length for window in windows]
    width = config.num_heads * config.head_dim
    return sum(6 * 2 * width * (seen - seen * seen / (2 * length)) for seen in keys)


def recomputed_flops_per_token(config: TransformerConfig, length: int | None = None) -> float:
    """What the remat policy adds per token: under `full`, the forward pass of every layer. Attention's own
    recomputation, which every policy has, and the little that `dots` makes again are left out."""
    if config.remat != "full":
        return 0.0
    return 2 * _layer_params(config) + attention_flops_per_token(config, length) / 3


def eight_bit_flops_per_token(config: TransformerConfig) -> float:
    """What of the two above is multiplied in 8 bits: the layers' products; of int8 all but the kernels' gradients."""
    if config.quantization == "none":
        return 0.0
    of_gradients = 0 if config.quantization == "int8" else 2 * _trained_layer_params(config)
    return float(of_gradients + (4 + 2 * (config.remat == "full")) * _layer_params(config))


def _layer_params(config: TransformerConfig) -> int:
    """Parameters that multiply, but for the head's kernel."""
    looked_up = config.vocab_size * config.model_dim * (1 if config.tie_embeddings else 2)
    if config.position_encoding == "learned":
        looked_up += config.max_length * config.model_dim
    if config.top_query_layer:
        looked_up += config.max_length * config.model_dim
    return count_params(config) - looked_up


def _trained_layer_params(config: TransformerConfig) -> int:
    """Those of them that have a gradient: with adapters, theirs alone."""
    if not config.lora_rank:
        return _layer_params(config)
    adapters = trained(param_shapes(config))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(adapters))


def peak_flops(device: jax.Device) -> float | None:
    """Peak FLOP/s of a device in bfloat16, or None where it is not known (a CPU's depends on its clock)."""
    chip = chip_of(device.device_kind)
    return None if chip is None else chip.peak_flops
