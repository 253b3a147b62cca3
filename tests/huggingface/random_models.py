"""Small random members of each family: transformers' own classes with random weights, and ours with the same.

Legend: B batch, L length, V vocabulary.
"""

import dataclasses
import functools
from typing import Any

import flax.traverse_util
import jax
import ml_dtypes
import numpy as np
import tokenizers
import torch
import transformers

from t5x_code.huggingface.families import FAMILIES
from t5x_code.huggingface.family import read_config
from t5x_code.huggingface.parameters import lazy_params, their_shapes
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import hidden_states, logits

LENGTH = 24
CLASSES = {
    "codegen": transformers.CodeGenConfig,
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "gpt_bigcode": transformers.GPTBigCodeConfig,
    "starcoder2": transformers.Starcoder2Config,
    "gpt_neo": transformers.GPTNeoConfig,
}

SCALINGS = (
    {},
    {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    | {"original_max_position_embeddings": 32},
    {"rope_type": "linear", "factor": 4.0},
)


def random_hf_config(family: str, seed: int) -> dict[str, Any]:
    """Fields of a config.json: odd head counts, grouped and single key heads, tied and untied, biases, windows, .."""
    rng = np.random.default_rng([seed, *family.encode()])
    coin = functools.partial(rng.choice, [True, False])
    layers, heads, head_dim = int(rng.integers(1, 4)), int(rng.integers(1, 8)), 2 * int(rng.integers(2, 7))
    if family.startswith("codegen"):
        heads = int(rng.choice([8, 16])) if family == "codegen_mp8" else 4 * int(rng.integers(1, 4))
    kv_heads = int(rng.choice([n for n in range(1, heads + 1) if heads % n == 0]))
    width, inner = heads * head_dim, 8 * int(rng.integers(2, 9))
    shared = {
        "vocab_size": int(rng.integers(60, 200)),
        "tie_word_embeddings": bool(coin()),
        "initializer_range": 0.02,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    gpt2 = {"n_layer": layers, "n_head": heads, "n_embd": width, "n_inner": inner if coin() else None}
    gpt2 |= {"n_positions": 64, "layer_norm_epsilon": float(rng.choice([1e-5, 1e-3]))}
    newer = {"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    newer |= {"hidden_size": width, "intermediate_size": inner, "max_position_embeddings": 64}
    gelu = {"activation_function": str(rng.choice(["gelu", "gelu_new", "gelu_pytorch_tanh"]))}
    rope = {"rope_theta": float(rng.choice([1e2, 1e4, 1e6])), "rope_type": "default"}
    if family == "llama":  # by turns, so that a few seeds have every kind
        rope |= SCALINGS[seed % len(SCALINGS)]
    window = int(rng.integers(2, 9))
    of_family = {
        "codegen": gpt2 | gelu | {"rotary_dim": 2 * int(rng.integers(1, head_dim // 2 + 1))},
        "pangu_alpha": gpt2 | gelu | {"scale_attn_weights": bool(coin())},
        "gpt_bigcode": gpt2 | gelu | {"multi_query": bool(coin()), "scale_attn_weights": bool(coin())},
        "llama": newer | {"rope_parameters": rope, "attention_bias": bool(coin()), "mlp_bias": bool(coin())},
        "qwen2": newer | {"rope_parameters": rope, "use_sliding_window": bool(coin()), "sliding_window": window}
        | {"max_window_layers": layers - 1},
        "starcoder2": newer | {"rope_parameters": rope, "use_bias": bool(coin())}
        | {"hidden_act": gelu["activation_function"], "sliding_window": window if coin() else None},
        "gpt_neo": {"num_layers": layers, "num_heads": heads, "hidden_size": width, "window_size": window}
        | {"attention_types": [[[str(kind) for kind in rng.choice(["global", "local"], layers)], 1]]}
        | {"max_position_embeddings": 64, "intermediate_size": inner if coin() else None} | gelu,
    }  # fmt: skip
    return shared | of_family[family.removesuffix("_mp8")]


def random_torch_model(family: str, seed: int) -> torch.nn.Module:
    """transformers' model of `random_hf_config`, every weight and bias drawn."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(CLASSES[family](**random_hf_config(family, seed))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            parameter.normal_(mean=float(is_scale), std=0.2 if parameter.ndim == 1 else 0.12)
    return model


def tensors_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Its state_dict in NumPy, what is tied left out once, as safetensors files have it."""
    tied = model.config.tie_word_embeddings
    state = {name: tensor for name, tensor in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    return {name: numpy_of(tensor) for name, tensor in state.items()}


def numpy_of(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's values, bfloat16 included."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def random_tensors(family: str, hf: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Tensors of a checkpoint that transformers has no class for, of the names and shapes that our converter says."""
    rng = np.random.default_rng(seed)
    found = FAMILIES[family]
    tensors = {}
    for name, shape in their_shapes(found, read_config(found, hf), hf):
        is_scale = len(shape) == 1 and name.endswith("weight")
        std = 0.2 if len(shape) == 1 else 0.12
        tensors[name] = rng.normal(float(is_scale), std, shape).astype(np.float32)
    return tensors


def our_model(
    family: str, hf: dict[str, Any], tensors: dict[str, np.ndarray], dtype: str = "float32"
) -> tuple[TransformerConfig, Any]:
    """Our config and float32 parameters of a checkpoint's tensors."""
    found = FAMILIES[family]
    config = dataclasses.replace(read_config(found, hf), dtype=dtype)
    params = {
        path: np.asarray(array.read(tuple(slice(size) for size in array.shape)), np.float32)
        for path, array in lazy_params(found, config, hf, tensors).items()
    }
    return config, flax.traverse_util.unflatten_dict(params, sep="/")


@functools.partial(jax.jit, static_argnums=0)
def _logits(config, params, *arrays):
    return logits(config, params, hidden_states(config, params, *arrays))


def our_logits(config: TransformerConfig, params: Any, rows: dict[str, np.ndarray]) -> np.ndarray:
    """Logits [B, L, V] of `random_rows`, or of others of that form."""
    names = ("inputs", "positions", "attend_from", "attend_to")
    arrays = [np.asarray(rows[name], np.int32) for name in names]
    return np.asarray(_logits(config, params, *arrays), np.float32)[..., : config.vocab_size]


def random_rows(vocab_size: int, seed: int = 0) -> tuple[dict[str, np.ndarray], list[tuple[int, int, int]]]:
    """Three rows: one text, one padded on the left, several texts packed; and the texts as (row, start, end)."""
    rng = np.random.default_rng(seed)
    padding = int(rng.integers(1, LENGTH - 2))
    cuts = sorted(int(cut) for cut in rng.choice(np.arange(1, LENGTH), 2, replace=False))
    texts = [(0, 0, LENGTH), (1, padding, LENGTH), (2, 0, cuts[0]), (2, cuts[0], cuts[1]), (2, cuts[1], LENGTH)]
    rows = {name: np.zeros((3, LENGTH), np.int32) for name in ("positions", "attend_from", "attend_to")}
    rows["inputs"] = rng.integers(0, vocab_size, (3, LENGTH))
    for row, start, end in texts:
        slots = np.arange(start, end)
        rows["positions"][row, slots] = slots - start
        rows["attend_from"][row, slots] = start
        rows["attend_to"][row, slots] = slots + 1
    return rows, texts


def save_tokenizer(folder, special_texts):
    """A byte-level tokenizer of 256 letters and these."""
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {letter: index for index, letter in enumerate(sorted(alphabet))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(special_texts)
    tokenizer.save(str(folder / "tokenizer.json"))
