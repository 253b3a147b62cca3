"""GPT-Neo: PyCodeGPT (transformers' `GPTNeoForCausalLM`)."""

from typing import Any

from t5x_code.errors import UserError
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
    "num_layers": "num_layers",
    "model_dim": "hidden_size",
    "num_heads": "num_heads",
    "vocab_size": "vocab_size",
    "max_length": "max_position_embeddings",
}
OPTIONS = {
    "norm_epsilon": ("layer_norm_epsilon", 1e-5),
    "tie_embeddings": ("tie_word_embeddings", True),
    "initializer_range": ("initializer_range", 0.02),
}
BLOCK = {
    "parallel_block": False,
    "position_encoding": "learned",
    "attention_out_bias": True,
    "head_bias": False,
    "scale_attention": False,
}
DEFAULT_WINDOW = 256
NO_DROPOUT = {"attention_dropout": 0.0, "embed_dropout": 0.0, "resid_dropout": 0.0}


def config_from_hf(hf: HfConfig) -> TransformerConfig:
    """See `family.read_config`."""
    sizes = read_sizes(hf, SIZES)
    return TransformerConfig(
        **sizes,
        **read_options(hf, OPTIONS),
        **BLOCK,
        num_kv_heads=sizes["num_heads"],
        head_dim=head_dim_of(hf, "hidden_size", "num_heads"),
        mlp_dim=hf.get("intermediate_size") or 4 * hf["hidden_size"],
        mlp=read_activation(hf, "activation_function", "gelu_new"),
        window_pattern=_window_pattern(hf),
    )


def config_to_hf(config: TransformerConfig) -> dict[str, Any]:
    """See `family.write_config`."""
    windows = config.window_of_layer
    kinds = ["local" if window else "global" for window in windows]
    return {
        **write_fields(config, SIZES, OPTIONS, {"mlp_dim": "intermediate_size"}),
        "activation_function": write_activation(config, tanh="gelu_new"),
        "attention_types": [[kinds, 1]],
        "attention_layers": kinds,
        "window_size": max(windows) or DEFAULT_WINDOW,
        **NO_DROPOUT,
    }


def _window_pattern(hf: HfConfig) -> tuple[int, ...]:
    """Windows of the shortest group of layers that repeats."""
    size = {"global": 0, "local": hf.get("window_size", DEFAULT_WINDOW)}
    try:
        types = hf.get("attention_types", [[["global", "local"], hf["num_layers"] // 2]])
        windows = [size[kind] for kinds, times in types for kind in kinds * times]
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"config.json: attention_types {hf.get('attention_types')} cannot be read") from error
    if len(windows) != hf["num_layers"]:
        raise UserError(f"config.json: attention_types names {len(windows)} layers, num_layers {hf['num_layers']}")
    lengths = range(1, len(windows) + 1)
    period = next(n for n in lengths if all(w == windows[i % n] for i, w in enumerate(windows)))
    return tuple(windows[:period])


def tensor_rules(config: TransformerConfig, hf: HfConfig) -> tuple[TensorRule, ...]:
    """Which tensor holds which parameter."""
    del config, hf
    layer = "transformer.h.{}."
    return (
        rule("transformer.wte.weight", "embedding/kernel", inputs_first=True),
        rule("transformer.wpe.weight", "positions/kernel", inputs_first=True),
        *(
            rule(f"{layer}attn.attention.{name[0]}_proj.weight", f"layers/attention/{name}/kernel")
            for name in ("query", "key", "value")
        ),
        *with_biases(
            rule(layer + "ln_1.weight", "layers/attention_norm/scale"),
            rule(layer + "attn.attention.out_proj.weight", "layers/attention/out/kernel"),
            rule(layer + "ln_2.weight", "layers/mlp_norm/scale"),
            rule(layer + "mlp.c_fc.weight", "layers/mlp/in/kernel"),
            rule(layer + "mlp.c_proj.weight", "layers/mlp/out/kernel"),
            rule("transformer.ln_f.weight", "final_norm/scale"),
        ),
        rule("lm_head.weight", "head/kernel"),
    )


GPT_NEO = Family(
    name="gpt_neo",
    model_types=("gpt_neo",),
    architecture="GPTNeoForCausalLM",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    tensor_rules=tensor_rules,
    ignored=(".attn.attention.bias", ".attn.attention.masked_bias"),
)
