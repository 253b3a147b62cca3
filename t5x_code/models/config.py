"""What a decoder is made of: a few orthogonal choices that cover the families this project trains.

Legend of array names: B batch, L length, S key length, D model, H heads, K key/value heads, E head dim, F feed-forward,
V vocabulary, N layers.
"""

import dataclasses
from typing import Literal

Norm = Literal["layer_norm", "rms_norm"]
PositionEncoding = Literal["rope_interleaved", "rope_half", "learned", "none"]
Mlp = Literal["gelu_tanh", "gelu", "swiglu"]
RematPolicy = Literal["none", "full", "dots", "attention"]


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A decoder-only transformer. The defaults are CodeGen's block (PAPERS: CodeGen2, architecture)."""

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
    mlp: Mlp = "gelu_tanh"
    attention_bias: bool = False  # on the query, key, value and output projections
    mlp_bias: bool = True
    head_bias: bool = True
    tie_embeddings: bool = False
    scale_attention: bool = True  # scores times head_dim ** -0.5
    window_pattern: tuple[int, ...] = (0,)  # attention window of each layer of the repeating group; 0 = whole context
    initializer_range: float = 0.02
    dtype: str = "bfloat16"  # of activations; parameters, norms, softmax and loss are float32
    remat: RematPolicy = "none"  # what the backward pass recomputes
    scan_layers: bool = True  # one compiled layer, scanned
    attention: str = "auto"  # implementation, by name; see models/attention.py
    loss_chunk: int = 1024  # tokens whose logits exist at a time
    vocab_multiple: int = 128  # the embedding and head are padded to a multiple of this
