"""PanGu-Coder (PanGu-alpha: GPT-2's block and a top query layer), laid out as the authors' PyTorch release has it.

transformers has no such class, and would read its `model_type` gpt2 as plain GPT-2, without the top query layer; so a
folder that is written says `pangu_alpha`, which the release's own code accepts and transformers refuses.
"""

from typing import Any

from t5x_code.huggingface.family import (
    Family,
    HfConfig,
    head_dim_of,
    read_activation,
    read_options,
    read_sizes,
    refuse_unless,
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
    "initializer_range": ("initializer_range", 0.02),
    "scale_attention": ("scale_attn_weights", True),
}
BLOCK = {
    "parallel_block": False,
    "position_encoding": "learned",
    "qkv_bias": True,
    "attention_out_bias": True,
    "head_bias": False,
    "tie_embeddings": True,
    "top_query_layer": True,
}
NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}


def config_from_hf(hf: HfConfig) -> TransformerConfig:
    """See `family.read_config`."""
    refuse_unless(hf, "scale_attn_by_inverse_layer_idx", False)
    sizes = read_sizes(hf, SIZES)
    return TransformerConfig(
        **sizes,
        **read_options(hf, OPTIONS),
        **BLOCK,
        num_kv_heads=sizes["num_heads"],
        head_dim=head_dim_of(hf, "n_embd", "n_head"),
        mlp_dim=hf.get("n_inner") or 4 * hf["n_embd"],
        mlp=read_activation(hf, "activation_function", "gelu_new"),
    )


def config_to_hf(config: TransformerConfig) -> dict[str, Any]:
    """See `family.write_config`."""
    return {
        **write_fields(config, SIZES, OPTIONS, {"mlp_dim": "n_inner"}),
        "activation_function": write_activation(config, tanh="gelu_new"),
        "tie_word_embeddings": True,
        **NO_DROPOUT,
    }


def tensor_rules(config: TransformerConfig, hf: HfConfig) -> tuple[TensorRule, ...]:
    """Which tensor holds which parameter. Every matrix is a Conv1D: inputs first."""
    del config, hf
    query, key, value = (f"attention/{name}/kernel" for name in ("query", "key", "value"))
    layer, top = "transformer.h.{}.", "top_query_layer."
    return (
        rule("transformer.wte.weight", "embedding/kernel", inputs_first=True),
        rule("transformer.wpe.weight", "positions/kernel", inputs_first=True),
        rule("top_query_embedding.weight", "top_query_positions/kernel", inputs_first=True),
        *with_biases(
            rule(layer + "attn.c_attn.weight", *("layers/" + path for path in (query, key, value)), inputs_first=True),
            rule(top + "attn.q_attn.weight", "top_query/" + query, inputs_first=True),
            rule(top + "attn.c_attn.weight", "top_query/" + key, "top_query/" + value, inputs_first=True),
            rule("transformer.ln_f.weight", "final_norm/scale"),
            *_block_rules(layer, "layers/"),
            *_block_rules(top, "top_query/"),
        ),
    )


def _block_rules(theirs: str, ours: str) -> tuple[TensorRule, ...]:
    """What a layer and the top query layer share."""
    return (
        rule(theirs + "ln_1.weight", ours + "attention_norm/scale"),
        rule(theirs + "attn.c_proj.weight", ours + "attention/out/kernel", inputs_first=True),
        rule(theirs + "ln_2.weight", ours + "mlp_norm/scale"),
        rule(theirs + "mlp.c_fc.weight", ours + "mlp/in/kernel", inputs_first=True),
        rule(theirs + "mlp.c_proj.weight", ours + "mlp/out/kernel", inputs_first=True),
    )


PANGU_ALPHA = Family(
    name="pangu_alpha",
    model_types=("pangu_alpha", "gpt2"),
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    tensor_rules=tensor_rules,
    ignored=(".attn.bias", ".attn.masked_bias", "code_tokens_mask", "doc_tokens_mask"),
)
