"""PanGu-alpha and CodeGen2 with any mp_num in plain NumPy, float64, for transformers has no class of them.

Written from the papers' descriptions, one token, head and projection at a time, with none of our code: the block of
GPT-J (CodeGen2, arXiv 2305.02309) and of GPT-2 with PanGu-alpha's top query layer (arXiv 2104.12369).

Legend: L length, D model, V vocabulary.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Tensors = Mapping[str, np.ndarray]


def pangu_logits(
    hf: dict[str, Any], w: Tensors, ids: np.ndarray, positions: np.ndarray, sees: np.ndarray
) -> np.ndarray:
    """Logits [L, V] of one row; `sees` [L, L] is True where token i (row) sees token k (column)."""
    w = {name: np.asarray(tensor, np.float64) for name, tensor in w.items()}
    width = hf["n_embd"]
    scale = (width // hf["n_head"]) ** -0.5 if hf.get("scale_attn_weights", True) else 1.0

    def layer(x, block, query=None):
        h = norm(x, w, block + "ln_1", hf)
        fused = h @ w[block + "attn.c_attn.weight"] + w[block + "attn.c_attn.bias"]
        if query is None:
            q, k, v = (fused[:, n * width : (n + 1) * width] for n in range(3))
        else:
            q = query @ w[block + "attn.q_attn.weight"] + w[block + "attn.q_attn.bias"]
            k, v = fused[:, :width], fused[:, width:]
        mixed = attend(q, k, v, sees, hf["n_head"], scale)
        x = x + mixed @ w[block + "attn.c_proj.weight"] + w[block + "attn.c_proj.bias"]
        h = norm(x, w, block + "ln_2", hf) @ w[block + "mlp.c_fc.weight"] + w[block + "mlp.c_fc.bias"]
        return x + gelu(h, hf) @ w[block + "mlp.c_proj.weight"] + w[block + "mlp.c_proj.bias"]

    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][positions]
    for n in range(hf["n_layer"]):
        x = layer(x, f"transformer.h.{n}.")
    x = norm(x, w, "transformer.ln_f", hf)
    x = layer(x, "top_query_layer.", query=w["top_query_embedding.weight"][positions])
    return x @ w["transformer.wte.weight"].T


def codegen_logits(
    hf: dict[str, Any], w: Tensors, ids: np.ndarray, positions: np.ndarray, sees: np.ndarray
) -> np.ndarray:
    """As `pangu_logits`, of a CodeGen whose config says `mp_num`."""
    w = {name: np.asarray(tensor, np.float64) for name, tensor in w.items()}
    width, heads, parts = hf["n_embd"], hf["n_head"], hf["mp_num"]
    head_dim = width // heads
    x = w["transformer.wte.weight"][ids]
    for n in range(hf["n_layer"]):
        block = f"transformer.h.{n}."
        h = norm(x, w, block + "ln_1", hf)
        of_part = np.split(h @ w[block + "attn.qkv_proj.weight"].T, parts, axis=-1)
        q, v, k = (
            np.concatenate([np.split(part, 3, axis=-1)[which] for part in of_part], axis=-1) for which in range(3)
        )
        q, k = (rotate_every_two(x, positions, heads, hf["rotary_dim"]) for x in (q, k))
        mixed = attend(q, k, v, sees, heads, head_dim**-0.5) @ w[block + "attn.out_proj.weight"].T
        h = gelu(h @ w[block + "mlp.fc_in.weight"].T + w[block + "mlp.fc_in.bias"], hf)
        x = x + mixed + h @ w[block + "mlp.fc_out.weight"].T + w[block + "mlp.fc_out.bias"]
    head = w["transformer.wte.weight" if hf.get("tie_word_embeddings") else "lm_head.weight"]
    return norm(x, w, "transformer.ln_f", hf) @ head.T + w["lm_head.bias"]


def attend(q, k, v, sees, heads, scale):
    """[L, D] of queries, keys and values [L, D]."""
    out = np.zeros_like(q)
    size = q.shape[-1] // heads
    for head in range(heads):
        dims = slice(head * size, (head + 1) * size)
        for i in range(len(q)):
            seen = np.flatnonzero(sees[i])
            weights = np.exp(scale * (k[seen, dims] @ q[i, dims]))
            out[i, dims] = weights @ v[seen, dims] / weights.sum()
    return out


def rotate_every_two(x, positions, heads, rotary_dim):
    """GPT-J's rotation: dims (0, 1), (2, 3), .. of each head turn as complex numbers."""
    x = x.reshape(len(x), heads, -1).copy()
    angles = positions[:, None] * 10_000.0 ** (-np.arange(0, rotary_dim, 2) / rotary_dim)
    pairs = (x[..., 0:rotary_dim:2] + 1j * x[..., 1:rotary_dim:2]) * np.exp(1j * angles)[:, None]
    x[..., 0:rotary_dim:2], x[..., 1:rotary_dim:2] = pairs.real, pairs.imag
    return x.reshape(len(x), -1)


def norm(x, w, name, hf):
    """LayerNorm."""
    centred = x - x.mean(-1, keepdims=True)
    centred /= np.sqrt((centred**2).mean(-1, keepdims=True) + hf.get("layer_norm_epsilon", 1e-5))
    return centred * w[name + ".weight"] + w[name + ".bias"]


def gelu(x, hf):
    """Exact, or by tanh."""
    if hf.get("activation_function", "gelu_new") == "gelu":
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
