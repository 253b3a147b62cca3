"""config.json and back, and configs that a family, or no family, can have."""

import copy
import dataclasses
import math

import pytest
import transformers
from huggingface_hub.errors import StrictDataclassError
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
STRETCHED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
STRETCHED |= {"original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "factor": 4.0}


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
        ("llama", dataclasses.replace(LLAMA, model_dim=2040), "num_heads 16, which does not divide its model_dim 2040"),
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
        (
            "codegen",
            {"n_inner": 64.0},
            "config.json cannot be read as codegen's: mlp_dim is 64.0: it must be of type int",
        ),
        ("codegen", {"n_layer": True}, "num_layers is True: it must be of type int"),
        ("codegen", {"initializer_range": "a"}, "initializer_range is 'a': it must be of type float"),
        ("codegen", {"initializer_range": float("nan")}, "initializer_range is nan: it must be of type float"),
        ("codegen", {"tie_word_embeddings": "no"}, "tie_embeddings is 'no': it must be of type bool"),
        ("llama", {"head_dim": 8.0}, "config.json cannot be read as llama's: head_dim is 8.0: it must be of type int"),
        ("llama", {"num_key_value_heads": 0}, "num_kv_heads is 0: it must be at least 1"),
        ("llama", {"attention_bias": 1}, "qkv_bias is 1: it must be of type bool"),
        ("llama", {"rope_scaling": STRETCHED | {"factor": math.inf}}, "factor is inf: it must be of type float"),
        ("llama", {"rope_scaling": STRETCHED | {"original_max_position_embeddings": 32.5}}, "original_length is 32.5"),
        ("llama", {"rope_scaling": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5 is not supported"),
        ("starcoder2", {"sliding_window": 8.0}, r"window_pattern is \(8.0,\): it must be of type tuple"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope scaling 'yarn' is not supported"),
        ("llama", {"rope_scaling": {"rope_type": "dynamic"}}, "rope scaling 'dynamic' is not supported"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "its rope scaling has no factor"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": "4"}}, "config.json cannot be read as llama's"),
        ("llama", {"rope_scaling": {"rope_type": "llama3"}}, "its rope scaling has no factor"),
        ("llama", {"rope_scaling": "linear"}, "config.json cannot be read as llama's"),
        ("llama", {"rope_parameters": {"rope_theta": "large"}}, "config.json cannot be read as llama's"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ("llama", {"is_causal": False}, "is_causal False is not supported; only True is"),
        ("codegen", {"is_causal": None}, "is_causal None is not supported; only True is"),
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


@pytest.mark.parametrize("family", ["llama", "qwen2", "starcoder2"])
@pytest.mark.parametrize(
    "said",
    [
        {},
        {"rope_theta": 7.0},
        {"rope_scaling": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_scaling": {**STRETCHED, "rope_theta": 5e5}, "rope_theta": 7.0},
        {"rope_scaling": STRETCHED, "rope_theta": 7.0},
        {"rope_scaling": {"type": "linear", "factor": 4.0}, "rope_theta": 1e5},  # as deepseek-coder says it
        {"rope_parameters": LINEAR | {"rope_theta": 1e5}},
        {"rope_scaling": {"rope_type": "default"}, "rope_parameters": {**STRETCHED, "rope_theta": 5e5}},
        {"rope_scaling": None, "rope_parameters": {**STRETCHED, "rope_theta": 5e5}, "rope_theta": 7.0},
    ],
)
def test_the_rotation_is_the_one_that_transformers_reads(family, said):
    hf = {name: value for name, value in random_hf_config(family, 0).items() if name != "rope_parameters"} | said
    ours = read_config(FAMILIES[family], hf | {"model_type": family})
    theirs = CLASSES[family](**copy.deepcopy(hf)).rope_parameters  # which it fills in
    assert ours.rope_base == theirs["rope_theta"]
    assert (ours.rope_scaling.kind if ours.rope_scaling else "default") == theirs["rope_type"]
    assert ours.rope_scaling is None or ours.rope_scaling.factor == theirs["factor"]


def test_a_linear_scaling_is_written_as_it_was_read():
    hf = random_hf_config("llama", 0) | {"model_type": "llama", "rope_scaling": LINEAR}
    assert write_config(FAMILIES["llama"], read_config(FAMILIES["llama"], hf))["rope_scaling"] == LINEAR


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("said", [{}, {"num_key_value_heads": None}, {"num_key_value_heads": 16}])
def test_what_config_json_leaves_out_is_as_transformers_has_it(family, said):
    hf = {"vocab_size": 60, "hidden_size": 512, "intermediate_size": 64, "num_hidden_layers": 2}
    hf |= {"num_attention_heads": 64, "max_position_embeddings": 64, "use_sliding_window": True, "max_window_layers": 1}
    theirs = CLASSES[family](**hf, **said)
    ours = read_config(FAMILIES[family], hf | said | {"model_type": family})
    assert ours.num_kv_heads == theirs.num_key_value_heads
    assert ours.window_of_layer == (0, getattr(theirs, "sliding_window", 0))
    assert (ours.norm_epsilon, ours.tie_embeddings) == (theirs.rms_norm_eps, theirs.tie_word_embeddings)


@pytest.mark.parametrize("family", ["llama", "qwen2", "starcoder2"])
def test_heads_that_do_not_divide_the_width_are_exported_where_transformers_takes_them(family):
    odd = {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 8, "hidden_size": 48}
    config = read_config(FAMILIES[family], random_hf_config(family, 0) | odd | {"model_type": family})
    try:
        CLASSES[family](**random_hf_config(family, 0) | odd)
    except StrictDataclassError:
        with pytest.raises(UserError, match="num_heads 5, which does not divide its model_dim 48, as llama's must"):
            write_config(FAMILIES[family], config)
    else:
        CLASSES[family].from_dict(write_config(FAMILIES[family], config))
