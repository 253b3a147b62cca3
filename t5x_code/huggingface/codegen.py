"""CodeGen and CodeGen2 (transformers' `CodeGenForCausalLM`; mp_num 8 as the authors' own code lays it out)."""

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
    "num_layers": "n_layer",
    "model_dim": "n_embd",
    "num_heads": "n_head",
    "vocab_size": "vocab_size",
    "max_length": "n_positions",
    "rotary_dim": "rotary_dim",
}
OPTIONS = {
    "norm_epsilon": ("layer_norm_epsilon", 1e-5),
    "tie_embeddings": ("tie_word_embeddings", False),
    "initializer_range": ("initializer_range", 0.02),
}
NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}

# A checkpoint's qkv_proj is laid out for mp_num model-parallel devices: as many blocks of heads, and within each block
# all of its queries, then values, then keys, in this order. Ours have one order.
DEFAULT_MP_NUM = 4  # CodeGen1, CodeGen2 7B and 16B, and the class built into transformers
MP_NUM_OF_SHAPE = {(16, 2048): 8, (16, 4096): 8}  # (layers, width) of CodeGen2 1B and 3.7B; no CodeGen1 has these


def config_from_hf(hf: HfConfig) -> TransformerConfig:
    """See `family.read_config`."""
    sizes = read_sizes(hf, SIZES)
    return TransformerConfig(
        **sizes,
        **read_options(hf, OPTIONS),
        num_kv_heads=sizes["num_heads"],
        head_dim=head_dim_of(hf, "n_embd", "n_head"),
        mlp_dim=hf.get("n_inner") or 4 * hf["n_embd"],
        mlp=read_activation(hf, "activation_function", "gelu_new"),
    )


def config_to_hf(config: TransformerConfig) -> dict[str, Any]:
    """See `family.write_config`."""
    return {
        **write_fields(config, SIZES, OPTIONS, {"mlp_dim": "n_inner", "max_length": "n_ctx"}),
        "activation_function": write_activation(config, tanh="gelu_new"),
        "n_positions": config.max_length,
        **NO_DROPOUT,
        "mp_num": DEFAULT_MP_NUM,  # written down, so that the tensors can be read back whatever it is
    }


def find_mp_num(hf: HfConfig) -> int:
    """The layout of a checkpoint: as config.json's `mp_num` says, else by the released sizes."""
    said = hf.get("mp_num")
    return MP_NUM_OF_SHAPE.get((hf["n_layer"], hf["n_embd"]), DEFAULT_MP_NUM) if said is None else said


def tensor_rules(config: TransformerConfig, hf: HfConfig) -> tuple[TensorRule, ...]:
    """Which tensor holds which parameter."""
    mp_num, layer, attention = find_mp_num(hf), "transformer.h.{}.", "layers/attention/"
    if not isinstance(mp_num, int) or mp_num < 1 or config.num_heads % mp_num:
        raise UserError(f"mp_num {mp_num} does not divide the {config.num_heads} heads; choose another --mp_num")
    qkv = [attention + name + "/kernel" for name in ("query", "value", "key")]
    return (
        rule("transformer.wte.weight", "embedding/kernel", inputs_first=True),
        rule(layer + "attn.qkv_proj.weight", *qkv, blocks=mp_num),
        rule(layer + "attn.out_proj.weight", attention + "out/kernel"),
        *with_biases(
            rule(layer + "ln_1.weight", "layers/norm/scale"),
            rule(layer + "mlp.fc_in.weight", "layers/mlp/in/kernel"),
            rule(layer + "mlp.fc_out.weight", "layers/mlp/out/kernel"),
            rule("transformer.ln_f.weight", "final_norm/scale"),
            rule("lm_head.weight", "head/kernel"),
        ),
    )


CODEGEN = Family(
    name="codegen",
    model_types=("codegen",),
    architecture="CodeGenForCausalLM",
    config_from_hf=config_from_hf,
    config_to_hf=config_to_hf,
    tensor_rules=tensor_rules,
    ignored=(".attn.causal_mask", ".attn.masked_bias", ".attn.bias"),
)
