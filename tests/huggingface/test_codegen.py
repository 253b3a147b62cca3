"""Our CodeGen against transformers' and against the CodeGen2 authors' own code, and the way there and back."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from t5x_code.errors import UserError
from t5x_code.huggingface import codegen
from t5x_code.huggingface.safetensors_folder import SafetensorsFolder
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import hidden_states, logits

SIZES = [
    {"n_layer": 2, "n_embd": 48, "n_head": 12, "rotary_dim": 2},
    {"n_layer": 1, "n_embd": 64, "n_head": 4, "rotary_dim": 16, "n_inner": 96, "layer_norm_epsilon": 1e-3},
    {"n_layer": 3, "n_embd": 160, "n_head": 20, "rotary_dim": 4, "activation_function": "gelu"},
]


@pytest.fixture(scope="module", params=range(len(SIZES)))
def pair(request):
    """transformers' model with random weights, and ours with the same."""
    torch.manual_seed(request.param)
    hf_config = transformers.CodeGenConfig(
        vocab_size=131, n_positions=64, initializer_range=0.2, **SIZES[request.param]
    )
    theirs = transformers.CodeGenForCausalLM(hf_config).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("bias") or "ln_" in name:
                parameter.normal_(std=0.3)
    return theirs, *import_model(theirs)


def import_model(theirs):
    hf = theirs.config.to_dict()
    config = dataclasses.replace(codegen.config_from_hf(hf), dtype="float32", vocab_multiple=128)
    tensors = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    return config, codegen.params_from_hf(config, tensors, codegen.find_mp_num(hf))


@functools.partial(jax.jit, static_argnums=0)
def jitted_logits(config, params, *arrays):
    return logits(config, params, hidden_states(config, params, *arrays))


def our_logits(config, params, tokens, positions, attend_from):
    arrays = [jnp.asarray(array, jnp.int32) for array in (tokens, positions, attend_from)]
    attend_to = jnp.arange(1, tokens.shape[1] + 1)[None].repeat(len(tokens), 0)
    return np.asarray(jitted_logits(config, params, *arrays, attend_to)[..., : config.vocab_size])


def random_tokens(rows, length):
    return np.random.default_rng(0).integers(0, 131, (rows, length))


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max(), rtol=1e-4)


def test_logits_equal_transformers(pair):
    theirs, config, params = pair
    tokens = random_tokens(3, 40)
    with torch.no_grad():
        want = theirs(torch.tensor(tokens)).logits.numpy()
    positions = np.arange(40)[None].repeat(3, 0)
    assert_close(our_logits(config, params, tokens, positions, 0 * positions), want)


def test_left_padding_equals_transformers_attention_mask(pair):
    theirs, config, params = pair
    tokens, padding = random_tokens(2, 20), np.array([0, 7])
    slots = np.arange(20)[None]
    positions = np.maximum(slots - padding[:, None], 0)
    real = slots >= padding[:, None]
    with torch.no_grad():
        attention_mask, position_ids = torch.tensor(real.astype(np.int64)), torch.tensor(positions)
        want = theirs(torch.tensor(tokens), attention_mask=attention_mask, position_ids=position_ids).logits.numpy()
    got = our_logits(config, params, tokens, positions, np.broadcast_to(padding[:, None], tokens.shape))
    assert_close(got[real], want[real])


def test_packed_segments_equal_transformers_one_by_one(pair):
    theirs, config, params = pair
    tokens, starts = random_tokens(1, 30), (0, 11, 12, 30)
    attend_from = np.concatenate([np.full(end - start, start) for start, end in itertools.pairwise(starts)])
    got = our_logits(config, params, tokens, (np.arange(30) - attend_from)[None], attend_from[None])
    for start, end in itertools.pairwise(starts):
        with torch.no_grad():
            want = theirs(torch.tensor(tokens[:, start:end])).logits.numpy()
        assert_close(got[:, start:end], want)


def test_logits_equal_the_authors_code_with_mp_num_8(shared_data):
    folder = shared_data / "golden_models" / "codegen2_mp8_1"
    hf = json.loads((folder / "config.json").read_text())
    golden = np.load(folder / "golden.npz")
    config = dataclasses.replace(codegen.config_from_hf(hf), dtype="float32")
    params = codegen.params_from_hf(config, SafetensorsFolder(folder), codegen.find_mp_num(hf, asked_for=8))
    positions = np.broadcast_to(golden["position_ids"], golden["input_ids"].shape)
    got = our_logits(config, params, golden["input_ids"], positions, 0 * positions)
    np.testing.assert_allclose(got, golden["logits"], atol=1e-4)


@pytest.mark.parametrize("mp_num", [1, 4])
def test_export_of_import_is_the_same_bits(pair, mp_num):
    theirs, config, _ = pair
    tensors = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    params = codegen.params_from_hf(config, tensors, mp_num)
    exported = dict(codegen.params_to_hf(config, params, mp_num))
    assert exported.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(exported[name], tensor, err_msg=name)


def test_config_survives_the_way_there_and_back(pair):
    _, config, _ = pair
    said = transformers.CodeGenConfig(**codegen.config_to_hf(config)).to_dict()
    assert dataclasses.replace(codegen.config_from_hf(said), dtype="float32") == config


def test_mp_num_is_found_in_this_order():
    small = {"n_layer": 16, "n_embd": 2048}
    assert codegen.find_mp_num({"n_layer": 20, "n_embd": 1024}) == 4
    assert codegen.find_mp_num(small) == 8
    assert codegen.find_mp_num(small | {"mp_num": 2}) == 2
    assert codegen.find_mp_num(small | {"mp_num": 2}, asked_for=4) == 4


def without(tensors, name):
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: without(t, "transformer.h.0.ln_1.bias"), "has no tensor transformer.h.0.ln_1.bias"),
        (lambda t: t | {"transformer.h.0.surprise": np.zeros(1)}, "transformer.h.0.surprise is none of CodeGen's"),
        (lambda t: t | {"lm_head.bias": np.zeros(7)}, "lm_head.bias has shape"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(pair, change, message):
    theirs, config, _ = pair
    tensors = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    with pytest.raises(UserError, match=message):
        codegen.params_from_hf(config, change(tensors), 4)


@pytest.mark.parametrize(
    "change", [{"norm": "rms_norm"}, {"window_pattern": (0, 8)}, {"mlp": "swiglu"}, {"num_kv_heads": 2}]
)
def test_another_family_is_not_exported(change):
    with pytest.raises(UserError, match="CodeGen has"):
        codegen.config_to_hf(dataclasses.replace(TransformerConfig(), **change))


@pytest.mark.parametrize(
    "change", [{"model_type": "llama"}, {"n_layer": None}, {"activation_function": "relu"}, {"n_head": 7}]
)
def test_a_config_that_is_no_codegen_is_refused(change):
    hf = codegen.config_to_hf(TransformerConfig())
    with pytest.raises(UserError, match=r"config\.json"):
        codegen.config_from_hf(hf | change)
