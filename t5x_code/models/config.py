"""What a decoder is made of: a few orthogonal choices that cover the families this project trains.

Legend of array names: B batch, L length, S key length, D model, H heads, K key/value heads, E head dim, F feed-forward,
V vocabulary (padded), N layers.
"""

import dataclasses
import math
from typing import Literal, get_args

from t5x_code.errors import UserError, check_choice

AUTO = "auto"  # of a setting that follows from the devices, before a run starts

Norm = Literal["layer_norm", "rms_norm"]
PositionEncoding = Literal["rope_interleaved", "rope_half", "learned", "none"]
Mlp = Literal["gelu_tanh", "gelu", "swiglu"]
RematPolicy = Literal["none", "dots", "full"]
Auto = Literal["auto"]
Remat = Literal[RematPolicy, Auto]
Dtype = Literal["bfloat16", "float32"]
Quantization = Literal["none", "int8", "fp8"]
RopeScalingKind = Literal["llama3", "linear"]


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """A stretched rotation, for contexts longer than those of training: Llama 3's (arXiv 2407.21783, as released), or
    of all waves alike (arXiv 2306.15595, DeepSeek-Coder's), to which the factor alone matters."""

    factor: float  # by which waves longer than `original_length / low_frequency_factor` are stretched, or all
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0  # waves shorter than `original_length / high_frequency_factor` stay
    original_length: int = 8192
    kind: RopeScalingKind = "llama3"

    def __post_init__(self):
        check_choice("RopeScaling.kind", self.kind, get_args(RopeScalingKind))
        if self.factor < 1 or not 0 < self.low_frequency_factor < self.high_frequency_factor:
            raise UserError(f"{self}: factor must be 1 or more, and the low frequency factor below the high one")
        if self.original_length < 1:
            raise UserError(f"{self}: original_length must be at least 1")
        others = [field for field in dataclasses.fields(self) if field.name not in ("factor", "kind")]
        if self.kind == "linear" and any(getattr(self, field.name) != field.default for field in others):
            raise UserError(f"{self}: linear scaling has a factor alone; leave out the others")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A decoder-only transformer. The defaults are CodeGen's block (the CodeGen2 paper, architecture)."""

    num_layers: int = 16
    model_dim: int = 2048
    num_heads: int = 16
    num_kv_heads: int = 16  # < num_heads: grouped-query; 1: multi-query attention
    head_dim: int = 128
    mlp_dim: int = 8192
    vocab_size: int = 51200
    max_length: int = 2048  # context; bounds learned positions and the key/value cache
    norm: Norm = "layer_norm"
    norm_epsilon: float = 1e-5
    parallel_block: bool = True  # x + Attention(h) + MLP(h) with one norm, instead of two serial residuals
    position_encoding: PositionEncoding = "rope_interleaved"
    rotary_dim: int = 64  # leading dims of each head that rotate
    rope_base: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    mlp: Mlp = "gelu_tanh"
    qkv_bias: bool = False  # on the query, key and value projections
    attention_out_bias: bool = False
    mlp_bias: bool = True
    head_bias: bool = True
    tie_embeddings: bool = False
    scale_attention: bool = True  # scores times head_dim ** -0.5
    window_pattern: tuple[int, ...] = (0,)  # attention window of each layer of the repeating group; 0 = whole context
    top_query_layer: bool = False  # one more layer after the final norm, whose queries are a position embedding
    initializer_range: float | None = 0.02  # deviation of all matrices at the start; None: by their sizes, as CodeGen's
    lora_rank: int = 0  # of the adapters of every projection; 0: none. With adapters nothing else is trained
    lora_alpha: float = 16.0  # an adapter's output is scaled by alpha / rank
    dtype: Dtype = "bfloat16"  # of activations; parameters, norms, softmax and loss are float32
    quantization: Quantization = "none"  # 8-bit products of the layers in training; see models/quantized.py
    remat: Remat = "none"  # what the backward pass recomputes; see models/remat.py
    scan_layers: bool | None = None  # one compiled layer in a loop; None: yes, if training.layer_loop agrees
    attention: str = AUTO  # implementation, by name; see models/attention/choice.py
    loss_chunk: int | None = None  # tokens whose logits exist at a time; None: as `cross_entropy.default_chunk` says
    vocab_multiple: int = 128  # the embedding and head are padded to a multiple of this

    def __post_init__(self):
        _check_config(self)

    @property
    def padded_vocab_size(self) -> int:
        """V: `vocab_size` rounded up to `vocab_multiple`. The entries past `vocab_size` are never predicted."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def layers_in_loop(self) -> bool:
        """Whether the layers are compiled as one."""
        return self.scan_layers is not False

    @property
    def rotates(self) -> bool:
        """Whether positions are rotations of the queries and keys."""
        return self.position_encoding in ("rope_interleaved", "rope_half")

    @property
    def window_of_layer(self) -> tuple[int, ...]:
        """The window of each of the `num_layers` layers, 0 = whole context."""
        return tuple(self.window_pattern[n % len(self.window_pattern)] for n in range(self.num_layers))


def _check_config(config: TransformerConfig) -> None:
    """Raises UserError for a value that no decoder can have."""
    sizes = ("num_layers", "model_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim", "vocab_size", "max_length")
    if config.loss_chunk is not None:
        sizes += ("loss_chunk",)
    for name in (*sizes, "vocab_multiple"):
        if getattr(config, name) < 1:
            raise UserError(f"TransformerConfig.{name} is {getattr(config, name)}: it must be at least 1")
    for name in ("norm_epsilon", "rope_base", "lora_alpha"):  # others give NaN, or dead adapters
        if not 0 < getattr(config, name) < math.inf:
            raise UserError(f"TransformerConfig.{name} is {getattr(config, name)}: it must be above 0 and finite")
    if config.lora_rank < 0:
        raise UserError(f"TransformerConfig.lora_rank is {config.lora_rank}: it must be 0 (no adapters) or more")
    choices = {
        "norm": Norm,
        "position_encoding": PositionEncoding,
        "mlp": Mlp,
        "remat": Remat,
        "quantization": Quantization,
        "dtype": Dtype,
    }
    for name, allowed in choices.items():
        check_choice(f"TransformerConfig.{name}", getattr(config, name), get_args(allowed))
    if config.num_heads % config.num_kv_heads:
        heads = f"num_heads {config.num_heads}, num_kv_heads {config.num_kv_heads}"
        raise UserError(f"TransformerConfig: {heads}: the key/value heads must divide the heads")
    if config.rotates and (config.rotary_dim % 2 or not 0 < config.rotary_dim <= config.head_dim):
        sizes = f"rotary_dim {config.rotary_dim}, head_dim {config.head_dim}"
        raise UserError(f"TransformerConfig: {sizes}: rotary_dim must be even and at most head_dim")
    if not config.rotates and config.rope_scaling is not None:
        encoding = f"position_encoding is {config.position_encoding!r}"
        raise UserError(f"TransformerConfig.rope_scaling stretches a rotation, but {encoding}; set it to None")
    if not config.window_pattern or min(config.window_pattern) < 0:
        raise UserError(f"TransformerConfig.window_pattern is {config.window_pattern}: list windows >= 0, such as (0,)")
