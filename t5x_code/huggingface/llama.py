"""Llama (Code Llama, CodeGen2.5; transformers' `LlamaForCausalLM`) and Qwen2, which is one with biases and windows."""

from typing import Any

from t5x_code.errors import UserError
from t5x_code.huggingface.family import (
    Family,
    HfConfig,
    head_dim_of,
    read_options,
    read_rope,
    read_sizes,
    refuse_unless,
    write_fields,
    write_rope,
)
from t5x_code.huggingface.tensor_rules import TensorRule, rule, with_biases
from t5x_code.models.config import TransformerConfig

QWEN2_KV_HEADS, QWEN2_WINDOW = 32, 4096  # of transformers' class, where config.json is silent
FULL, SLIDING = "full_attention", "sliding_attention"  # of Qwen2's `layer_types`
SIZES = {
    "num_layers": "num_hidden_layers",
    "model_dim": "hidden_size",
    "num_heads": "num_attention_heads",
    "mlp_dim": "intermediate_size",
    "vocab_size": "vocab_size",
    "max_length": "max_position_embeddings",
}
OPTIONS = {
    "norm_epsilon": ("rms_norm_eps", 1e-6),
    "tie_embeddings": ("tie_word_embeddings", False),
    "initializer_range": ("initializer_range", 0.02),
}
BLOCK = {
    "norm": "rms_norm",
    "parallel_block": False,
    "position_encoding": "rope_half",
    "mlp": "swiglu",
    "head_bias": False,
}
LLAMA_BIASES = {"qkv_bias": ("attention_bias", False), "mlp_bias": ("mlp_bias", False)}


def llama_config_from_hf(hf: HfConfig) -> TransformerConfig:
    """See `family.read_config`."""
    return TransformerConfig(
        **_shared_fields(hf), **read_options(hf, LLAMA_BIASES), attention_out_bias=hf.get("attention_bias", False)
    )


def llama_config_to_hf(config: TransformerConfig) -> dict[str, Any]:
    """See `family.write_config`. transformers refuses heads that do not divide the width, whatever their own is."""
    if config.model_dim % config.num_heads:
        sizes = f"num_heads {config.num_heads}, which does not divide its model_dim {config.model_dim}"
        raise UserError(f"the model has {sizes}, as llama's must; choose another --family")
    return {**_written_fields(config), **write_fields(config, LLAMA_BIASES)}


def qwen2_config_from_hf(hf: HfConfig) -> TransformerConfig:
    """See `family.read_config`."""
    shared = _shared_fields({"num_key_value_heads": QWEN2_KV_HEADS, **hf})
    window = hf.get("sliding_window", QWEN2_WINDOW) if hf.get("use_sliding_window") else None
    kinds = hf.get("layer_types") or _kinds_of_layers(hf)
    unknown = sorted(set(kinds) - {FULL, SLIDING})
    if unknown or len(kinds) != hf.get("num_hidden_layers"):
        raise UserError(
            f"config.json has layer_types {kinds}; each of its num_hidden_layers must be {FULL} or {SLIDING}"
        )
    windows = tuple(window or 0 if kind == SLIDING else 0 for kind in kinds)
    return TransformerConfig(**shared, qkv_bias=True, mlp_bias=False, window_pattern=windows if any(windows) else (0,))


def _kinds_of_layers(hf: HfConfig) -> list[str]:
    """As transformers fills `layer_types` in, which older files do not have."""
    first = hf.get("max_window_layers", 28)
    return [FULL if n < first else SLIDING for n in range(hf.get("num_hidden_layers", 0))]


def qwen2_config_to_hf(config: TransformerConfig) -> dict[str, Any]:
    """See `family.write_config`."""
    windows = config.window_of_layer
    windowed = [n for n, window in enumerate(windows) if window]
    return {
        **_written_fields(config),
        "use_sliding_window": bool(windowed),
        "sliding_window": max(windows) or None,
        "max_window_layers": windowed[0] if windowed else config.num_layers,
        "layer_types": [SLIDING if window else FULL for window in windows],
    }


def _shared_fields(hf: HfConfig) -> dict[str, Any]:
    refuse_unless(hf, "hidden_act", "silu")
    sizes = read_sizes(hf, SIZES)
    head_dim = hf.get("head_dim") or head_dim_of(hf, "hidden_size", "num_attention_heads")
    kv_heads = hf.get("num_key_value_heads")
    return {
        **sizes,
        **read_options(hf, OPTIONS),
        **read_rope(hf),
        **BLOCK,
        "num_kv_heads": sizes["num_heads"] if kv_heads is None else kv_heads,
        "head_dim": head_dim,
        "rotary_dim": head_dim,
    }


def _written_fields(config: TransformerConfig) -> dict[str, Any]:
    heads = {"num_kv_heads": "num_key_value_heads", "head_dim": "head_dim"}
    return {**write_fields(config, SIZES, OPTIONS, heads), **write_rope(config), "hidden_act": "silu"}


def tensor_rules(config: TransformerConfig, hf: HfConfig) -> tuple[TensorRule, ...]:
    """Which tensor holds which parameter."""
    del hf
    layer = "model.layers.{}."
    qkv = tuple(
        rule(f"{layer}self_attn.{name[0]}_proj.weight", f"layers/attention/{name}/kernel")
        for name in ("query", "key", "value")
    )
    out = (rule(layer + "self_attn.o_proj.weight", "layers/attention/out/kernel"),)
    mlp = (
        rule(layer + "mlp.gate_proj.weight", "layers/mlp/gate/kernel"),
        rule(layer + "mlp.up_proj.weight", "layers/mlp/in/kernel"),
        rule(layer + "mlp.down_proj.weight", "layers/mlp/out/kernel"),
    )
    return (
        rule("model.embed_tokens.weight", "embedding/kernel", inputs_first=True),
        rule(layer + "input_layernorm.weight", "layers/attention_norm/scale"),
        rule(layer + "post_attention_layernorm.weight", "layers/mlp_norm/scale"),
        *(with_biases(*qkv) if config.qkv_bias else qkv),
        *(with_biases(*out) if config.attention_out_bias else out),
        *(with_biases(*mlp) if config.mlp_bias else mlp),
        rule("model.norm.weight", "final_norm/scale"),
        rule("lm_head.weight", "head/kernel"),
    )


LLAMA = Family(
    name="llama",
    model_types=("llama",),
    architecture="LlamaForCausalLM",
    config_from_hf=llama_config_from_hf,
    config_to_hf=llama_config_to_hf,
    tensor_rules=tensor_rules,
    ignored=(".rotary_emb.inv_freq",),
)
QWEN2 = Family(
    name="qwen2",
    model_types=("qwen2",),
    architecture="Qwen2ForCausalLM",
    config_from_hf=qwen2_config_from_hf,
    config_to_hf=qwen2_config_to_hf,
    tensor_rules=tensor_rules,
    ignored=(".rotary_emb.inv_freq",),
)
