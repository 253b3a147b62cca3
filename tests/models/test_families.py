"""The decoder's other choices, against transformers' models that make them."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import hidden_states, logits
from t5x_code.models.rope import rotary_angles, rotate

V, L, D, H, K, E, F = 50, 24, 32, 4, 2, 8, 56


def compare(config, params, theirs):
    tokens = np.random.default_rng(0).integers(0, V, (2, L))
    with torch.no_grad():
        want = theirs.eval()(torch.tensor(tokens)).logits.numpy()
    position = jnp.arange(L)[None].repeat(2, 0)

    @jax.jit
    def ours(params):
        x = hidden_states(config, params, jnp.asarray(tokens), position, 0 * position, position + 1)
        return logits(config, params, x)

    np.testing.assert_allclose(ours(params)[..., :V], want, atol=1e-4 * np.abs(want).max())


def weights_of(model, prefix):
    """Readers of one weight, and of both layers' stacked, by name; outputs last, as ours are."""
    state = {prefix_name.removeprefix(prefix): tensor.numpy().T for prefix_name, tensor in model.state_dict().items()}
    return state.__getitem__, lambda name: np.stack([state[name.format(n)] for n in (0, 1)])


def kernel(array, *shape):
    return {"kernel": array.reshape(shape)}


def test_llama():
    """RMSNorm, half-split RoPE, serial block, SwiGLU, grouped queries, tied head."""
    torch.manual_seed(0)
    hf = transformers.LlamaConfig(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=F,
        num_hidden_layers=2,
        num_attention_heads=H,
        num_key_value_heads=K,
        rms_norm_eps=1e-3,
        initializer_range=0.3,
        tie_word_embeddings=True,
    )
    theirs = transformers.LlamaForCausalLM(hf)
    one, both = weights_of(theirs, "model.")
    config = TransformerConfig(
        num_layers=2,
        model_dim=D,
        num_heads=H,
        num_kv_heads=K,
        head_dim=E,
        mlp_dim=F,
        vocab_size=V,
        vocab_multiple=1,
        norm="rms_norm",
        norm_epsilon=1e-3,
        parallel_block=False,
        position_encoding="rope_half",
        rotary_dim=E,
        mlp="swiglu",
        mlp_bias=False,
        head_bias=False,
        tie_embeddings=True,
        dtype="float32",
    )
    attention = {
        "query": kernel(both("layers.{}.self_attn.q_proj.weight"), 2, D, H, E),
        "key": kernel(both("layers.{}.self_attn.k_proj.weight"), 2, D, K, E),
        "value": kernel(both("layers.{}.self_attn.v_proj.weight"), 2, D, K, E),
        "out": kernel(both("layers.{}.self_attn.o_proj.weight"), 2, H, E, D),
    }
    names = {"in": "up_proj", "gate": "gate_proj", "out": "down_proj"}
    layers = {
        "attention": attention,
        "mlp": {ours: {"kernel": both(f"layers.{{}}.mlp.{name}.weight")} for ours, name in names.items()},
        "attention_norm": {"scale": both("layers.{}.input_layernorm.weight")},
        "mlp_norm": {"scale": both("layers.{}.post_attention_layernorm.weight")},
    }
    embedding = kernel(one("embed_tokens.weight").T, V, D)
    compare(config, {"embedding": embedding, "layers": layers, "final_norm": {"scale": one("norm.weight")}}, theirs)


def test_gpt_neo():
    """LayerNorm, learned positions, windows in every other layer, unscaled scores."""
    torch.manual_seed(0)
    hf = transformers.GPTNeoConfig(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=F,
        num_layers=2,
        num_heads=H,
        attention_types=[[["global", "local"], 1]],
        window_size=5,
        max_position_embeddings=L,
        initializer_range=0.3,
    )
    theirs = transformers.GPTNeoForCausalLM(hf)
    one, both = weights_of(theirs, "transformer.")
    config = TransformerConfig(
        num_layers=2,
        model_dim=D,
        num_heads=H,
        num_kv_heads=H,
        head_dim=E,
        mlp_dim=F,
        vocab_size=V,
        vocab_multiple=1,
        max_length=L,
        parallel_block=False,
        position_encoding="learned",
        head_bias=False,
        tie_embeddings=True,
        scale_attention=False,
        window_pattern=(0, 5),
        dtype="float32",
    )
    prefix = "h.{}.attn.attention."
    layers = {
        "attention": {
            "query": kernel(both(prefix + "q_proj.weight"), 2, D, H, E),
            "key": kernel(both(prefix + "k_proj.weight"), 2, D, H, E),
            "value": kernel(both(prefix + "v_proj.weight"), 2, D, H, E),
            "out": kernel(both(prefix + "out_proj.weight"), 2, H, E, D),
        },
        "mlp": {
            "in": {"kernel": both("h.{}.mlp.c_fc.weight"), "bias": both("h.{}.mlp.c_fc.bias")},
            "out": {"kernel": both("h.{}.mlp.c_proj.weight"), "bias": both("h.{}.mlp.c_proj.bias")},
        },
        "attention_norm": {"scale": both("h.{}.ln_1.weight"), "bias": both("h.{}.ln_1.bias")},
        "mlp_norm": {"scale": both("h.{}.ln_2.weight"), "bias": both("h.{}.ln_2.bias")},
    }
    params = {
        "embedding": kernel(one("wte.weight").T, V, D),
        "positions": kernel(one("wpe.weight").T, L, D),
        "layers": layers,
        "final_norm": {"scale": one("ln_f.weight"), "bias": one("ln_f.bias")},
    }
    compare(config, params, theirs)


def test_rotation_keeps_relative_positions():
    """A score depends on the distance of query and key alone, and dims past R do not turn."""
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 12)), jnp.float32) for _ in range(2))

    def score(query_position, key_position, interleaved):
        turned = [
            rotate(x, *rotary_angles(jnp.full((1, 1), position), 8, 10_000.0), interleaved)
            for x, position in ((q, query_position), (k, key_position))
        ]
        assert (turned[0][..., 8:] == q[..., 8:]).all()
        return float((turned[0] * turned[1]).sum())

    for interleaved in (True, False):
        np.testing.assert_allclose(score(7, 3, interleaved), score(104, 100, interleaved), atol=1e-4)
        assert abs(score(7, 3, interleaved) - score(7, 5, interleaved)) > 1e-3
