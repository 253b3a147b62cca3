"""GPT-BigCode: StarCoder and SantaCoder (transformers' `GPTBigCodeForCausalLM`)."""

from typing import Any

from t5x_code.huggingface.family import (
    Family,
    HfConfig,
    head_dim_of,
    read_activation,
    read_options,
    read_sizes,
    write_activation,
    write_fields,
)
from t5x_code.huggingface.tensor_rules import TensorRule, rule, with_biases
from t5x_code.models.config import TransformerConfig

SIZES = {
    "num_layers": "n_layer",
    "model_dim": "n_embd",
    "num_heads": "n_head",
    "vocab_size": "vocab_size",
    "max_length": "n_positions",
}
OPTIONS = {
    "norm_epsilon": ("layer_norm_epsilon", 1e-5),
    "tie_embeddings": ("tie_word_embeddings", True),
    "initializer_range": ("initializer_range", 0.02),
    "scale_attention": ("scale_attn_weights", True),
}
BLOCK = {
    "parallel_block": False,
    "position_encoding": "learned",
    "qkv_bias": True,
    "attention_out_bias": True,
    "head_bias": False,
}
NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}


def config_from_hf(hf: HfConfig) -> TransformerConfig:
    """See `family.read_config`."""
    sizes = read_sizes(hf, SIZES)
    return TransformerConfig(
        **sizes,
        **read_options(hf, OPTIONS),
        **BLOCK,
        num_kv_heads=1 if hf.get("multi_query", True) else sizes["num_heads"],
        head_dim=head_dim_of(hf, "n_embd", "n_head"),
        mlp_dim=hf.get("n_inner") or 4 * hf["n_embd"],
        mlp=read_activation(hf, "activation_function", "gelu_pytorch_tanh"),
    )


def config_to_hf(config: TransformerConfig) -> dict[str, Any]:
    """See `family.write_config`."""
    return {
        **write_fields(config, SIZES, OPTIONS, {"mlp_dim": "n_inner"}),
        "multi_query": config.num_kv_heads == 1,
        "activation_function": write_activation(config, tanh="gelu_pytorch_tanh"),
        **NO_DROPOUT,
    }


def tensor_rules(config: TransformerConfig, hf: HfConfig) -> tuple[TensorRule, ...]:
    """Which tensor holds which parameter."""
    del hf
    layer, attention = "transformer.h.{}.", "layers/attention/"
    qkv = [attention + name + "/kernel" for name in ("query", "key", "value")]
    # Multi-query: all queries, the one key, the one value. Multi-head: query, key and value of each head in turn.
    blocks = 1 if config.num_kv_heads == 1 else config.num_heads
    return (
        rule("transformer.wte.weight", "embedding/kernel", inputs_first=True),
        rule("transformer.wpe.weight", "positions/kernel", inputs_first=True),
        *with_biases(
            rule(layer + "ln_1.weight", "layers/attention_norm/scale"),
            rule(layer + "attn.c_attn.weight", *qkv, blocks=blocks),
            rule(layer + "attn.c_proj.weight", attention + "out/kernel"),
            rule(layer + "ln_2.weight", "layers/mlp_norm/scale"),
            rule(layer + "mlp.c_fc.weight", "layers/mlp/in/kernel"),
            rule(layer + "mlp.c_proj.weight", "layers/mlp/out/kernel"),
            rule("transformer.ln_f.weight", "final_norm/scale"),
        ),
        rule("lm_head.weight", "head/kernel"),
    )


GPT_BIGCODE = Family(
    name="gpt_bigcode",
    model_types=("gpt_bigcode",),
    architecture="GPTBigCodeForCausalLM",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    tensor_rules=tensor_rules,
    ignored=(".attn.bias", ".attn.masked_bias"),
)
