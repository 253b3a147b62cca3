"""StarCoder2 (transformers' `Starcoder2ForCausalLM`)."""

from typing import Any

from t5x_code.huggingface.family import (
    Family,
    HfConfig,
    head_dim_of,
    read_activation,
    read_options,
    read_rope,
    read_sizes,
    write_activation,
    write_fields,
    write_rope,
)
from t5x_code.huggingface.tensor_rules import TensorRule, rule, with_biases
from t5x_code.models.config import TransformerConfig

SIZES = {
    "num_layers": "num_hidden_layers",
    "model_dim": "hidden_size",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "mlp_dim": "intermediate_size",
    "vocab_size": "vocab_size",
    "max_length": "max_position_embeddings",
}
OPTIONS = {
    "norm_epsilon": ("norm_epsilon", 1e-5),
    "tie_embeddings": ("tie_word_embeddings", True),
    "initializer_range": ("initializer_range", 0.018042),
}
BLOCK = {"parallel_block": False, "position_encoding": "rope_half", "head_bias": False}
NO_DROPOUT = {"attention_dropout": 0.0, "residual_dropout": 0.0, "embedding_dropout": 0.0}


def config_from_hf(hf: HfConfig) -> TransformerConfig:
    """See `family.read_config`."""
    sizes, use_bias = read_sizes(hf, SIZES), hf.get("use_bias", True)
    head_dim = hf.get("head_dim") or head_dim_of(hf, "hidden_size", "num_attention_heads")
    return TransformerConfig(
        **sizes,
        **read_options(hf, OPTIONS),
        **read_rope(hf),
        **BLOCK,
        head_dim=head_dim,
        rotary_dim=head_dim,
        mlp=read_activation(hf, "hidden_act", "gelu_pytorch_tanh"),
        qkv_bias=use_bias,
        attention_out_bias=use_bias,
        mlp_bias=use_bias,
        window_pattern=(hf.get("sliding_window") or 0,),
    )


def config_to_hf(config: TransformerConfig) -> dict[str, Any]:
    """See `family.write_config`."""
    return {
        **write_fields(config, SIZES, OPTIONS, {"head_dim": "head_dim"}),
        **write_rope(config),
        "hidden_act": write_activation(config, tanh="gelu_pytorch_tanh"),
        "use_bias": config.mlp_bias,
        "sliding_window": config.window_pattern[0] or None,
        **NO_DROPOUT,
    }


def tensor_rules(config: TransformerConfig, hf: HfConfig) -> tuple[TensorRule, ...]:
    """Which tensor holds which parameter."""
    del hf
    layer = "model.layers.{}."
    projections = (
        *(
            rule(f"{layer}self_attn.{name[0]}_proj.weight", f"layers/attention/{name}/kernel")
            for name in ("query", "key", "value", "out")
        ),
        rule(layer + "mlp.c_fc.weight", "layers/mlp/in/kernel"),
        rule(layer + "mlp.c_proj.weight", "layers/mlp/out/kernel"),
    )
    return (
        rule("model.embed_tokens.weight", "embedding/kernel", inputs_first=True),
        *(with_biases(*projections) if config.mlp_bias else projections),
        *with_biases(
            rule(layer + "input_layernorm.weight", "layers/attention_norm/scale"),
            rule(layer + "post_attention_layernorm.weight", "layers/mlp_norm/scale"),
            rule("model.norm.weight", "final_norm/scale"),
        ),
        rule("lm_head.weight", "head/kernel"),
    )


STARCODER2 = Family(
    name="starcoder2",
    model_types=("starcoder2",),
    architecture="Starcoder2ForCausalLM",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    tensor_rules=tensor_rules,
    ignored=(".rotary_emb.inv_freq",),
)
