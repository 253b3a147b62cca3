"""config.json and back, and configs that a family, or no family, can have."""

import dataclasses

import pytest
import transformers
from random_models import CLASSES, random_hf_config

from t5x_code.errors import UserError
from t5x_code.huggingface.families import FAMILIES, family_of_config, family_of_hf_config
from t5x_code.huggingface.family import read_config, write_config
from t5x_code.models.config import RopeScaling, TransformerConfig

SEEDS = range(8)
LLAMA = TransformerConfig(
    norm="rms_norm", parallel_block=False, position_encoding="rope_half", rotary_dim=128, mlp="swiglu", mlp_bias=False,
    head_bias=False, rope_scaling=RopeScaling(8.0),
)  # fmt: skip


@pytest.mark.parametrize("family", CLASSES)
def test_config_survives_the_way_to_transformers_and_back(family):
    for seed in SEEDS:
        theirs = CLASSES[family](**random_hf_config(family, seed))
        config = read_config(FAMILIES[family], theirs.to_dict())
        written = write_config(FAMILIES[family], config)
        assert family_of_hf_config(written) == FAMILIES[family]
        again = CLASSES[family].from_dict(written)
        assert dataclasses.replace(read_config(FAMILIES[family], again.to_dict()), window_pattern=(0,)) == (
            dataclasses.replace(config, window_pattern=(0,))
        )
        assert read_config(FAMILIES[family], again.to_dict()).window_of_layer == config.window_of_layer
        assert again.architectures == [type(transformers.AutoModelForCausalLM.from_config(again)).__name__]


@pytest.mark.parametrize("family", ["codegen", "llama", "gpt_bigcode", "starcoder2", "gpt_neo", "pangu_alpha"])
def test_a_model_that_was_trained_here_finds_its_family(family):
    hf = random_hf_config(family, 1) | {"model_type": family}
    assert family_of_config(read_config(FAMILIES[family], hf)).name == family


@pytest.mark.parametrize(
    ("family", "config", "says"),
    [
        ("codegen", TransformerConfig(norm="rms_norm"), "norm rms_norm, codegen has layer_norm"),
        ("codegen", TransformerConfig(window_pattern=(0, 8)), "window_of_layer"),
        ("codegen", TransformerConfig(mlp="swiglu"), "'swiglu' is not one of"),
        ("codegen", TransformerConfig(num_kv_heads=2), "num_kv_heads 2, codegen has 16"),
        ("llama", dataclasses.replace(LLAMA, rotary_dim=64), "rotary_dim 64, llama has 128"),
        ("llama", dataclasses.replace(LLAMA, qkv_bias=True), "attention_out_bias False, llama has True"),
        ("llama", dataclasses.replace(LLAMA, top_query_layer=True), "top_query_layer True"),
        ("gpt_neo", LLAMA, "gpt_neo|is not one of"),
    ],
)
def test_a_decoder_that_a_family_has_not_is_not_exported(family, config, says):
    with pytest.raises(UserError, match=says):
        write_config(FAMILIES[family], config)


def test_a_decoder_of_no_family_says_so():
    with pytest.raises(UserError, match="no family has such a decoder"):
        family_of_config(TransformerConfig(norm="rms_norm"))


@pytest.mark.parametrize(
    ("family", "change", "says"),
    [
        ("codegen", {"model_type": "llama"}, "has model_type 'llama', not 'codegen'"),
        ("codegen", {"n_layer": None}, "config.json has no n_layer"),
        ("codegen", {"activation_function": "relu"}, "activation_function 'relu' is not one of"),
        ("codegen", {"n_head": 7}, "n_head 7 does not divide n_embd"),
        ("codegen", {"n_inner": "wide"}, "config.json cannot be read as codegen's"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling 'linear' is not supported"),
        ("llama", {"rope_scaling": {"rope_type": "llama3"}}, "its rope scaling has no factor"),
        ("llama", {"rope_scaling": "linear"}, "config.json cannot be read as llama's"),
        ("llama", {"rope_parameters": {"rope_theta": "large"}}, "config.json cannot be read as llama's"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ("gpt_bigcode", {"n_head": 0}, "config.json cannot be read as gpt_bigcode's"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported"),
        ("gpt_neo", {"attention_types": [[["global"], 9]]}, "attention_types names 9 layers"),
        ("gpt_neo", {"attention_types": [[["sparse"], 1]]}, "attention_types .* cannot be read"),
        ("pangu_alpha", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True is not"),
    ],
)
def test_a_config_that_cannot_be_is_refused(family, change, says):
    hf = random_hf_config(family, 0) | {"model_type": family} | change
    with pytest.raises(UserError, match=says):
        read_config(FAMILIES[family], hf)


@pytest.mark.parametrize("model_type", ["gpt2", "mamba", None])
def test_an_unknown_architecture_is_named(model_type):
    with pytest.raises(UserError, match=f"model_type {model_type!r}, which is no known family; --family can be"):
        family_of_hf_config({"model_type": model_type})


def test_transformers_4_and_5_say_the_same_rotation():
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}}
    old["rope_scaling"] |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
    hf = {name: value for name, value in random_hf_config("llama", 0).items() if name != "rope_parameters"}
    hf["model_type"] = "llama"
    new = {"rope_parameters": {**old["rope_scaling"], "rope_type": "llama3", "rope_theta": 5e5}}
    assert read_config(FAMILIES["llama"], hf | old) == read_config(FAMILIES["llama"], hf | new)
