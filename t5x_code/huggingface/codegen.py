"""CodeGen and CodeGen2 checkpoints: config and tensors, both ways.

Legend: D model, H heads, E head dim, F feed-forward, V vocabulary padded, N layers, M = mp_num.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from t5x_code.errors import UserError
from t5x_code.models.config import TransformerConfig
from t5x_code.models.decoder import init_params

# A checkpoint's qkv_proj is laid out for M model-parallel devices: M blocks of heads, and within each block all of its
# queries, then values, then keys, in this order. Ours have one order.
QKV_ORDER = ("query", "value", "key")
DEFAULT_MP_NUM = 4  # CodeGen1, CodeGen2 7B and 16B, and the class built into transformers
MP_NUM_OF_SHAPE = {(16, 2048): 8, (16, 4096): 8}  # (layers, width) of CodeGen2 1B and 3.7B; no CodeGen1 has these

# Ours -> theirs. Of a layer, {} is its number.
NAMES = {
    "embedding/kernel": "transformer.wte.weight",
    "layers/norm/scale": "transformer.h.{}.ln_1.weight",
    "layers/norm/bias": "transformer.h.{}.ln_1.bias",
    "layers/attention/out/kernel": "transformer.h.{}.attn.out_proj.weight",
    "layers/mlp/in/kernel": "transformer.h.{}.mlp.fc_in.weight",
    "layers/mlp/in/bias": "transformer.h.{}.mlp.fc_in.bias",
    "layers/mlp/out/kernel": "transformer.h.{}.mlp.fc_out.weight",
    "layers/mlp/out/bias": "transformer.h.{}.mlp.fc_out.bias",
    "final_norm/scale": "transformer.ln_f.weight",
    "final_norm/bias": "transformer.ln_f.bias",
    "head/kernel": "lm_head.weight",
    "head/bias": "lm_head.bias",
}
QKV_NAME = "transformer.h.{}.attn.qkv_proj.weight"
BUFFERS = ("attn.causal_mask", "attn.masked_bias", "attn.bias")  # constants that older checkpoints carry
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu": "gelu"}  # theirs -> ours


def config_from_hf(hf: Mapping[str, Any]) -> TransformerConfig:
    """Our config of a CodeGen `config.json`.

    Raises:
        UserError: not a CodeGen config, or one that asks for what CodeGen does not have.
    """
    if hf.get("model_type") != "codegen":
        raise UserError(f"config.json has model_type {hf.get('model_type')!r}, not 'codegen'; choose another --family")
    needed = ("n_layer", "n_embd", "n_head", "n_positions", "vocab_size", "rotary_dim")
    missing = [name for name in needed if not isinstance(hf.get(name), int)]
    if missing:
        raise UserError(f"config.json has no {missing[0]}; take the config.json that came with the checkpoint")
    activation = hf.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise UserError(f"config.json: activation_function {activation!r} is not one of {', '.join(ACTIVATIONS)}")
    if hf["n_embd"] % hf["n_head"]:
        raise UserError(f"config.json: n_head {hf['n_head']} does not divide n_embd {hf['n_embd']}")
    return TransformerConfig(
        num_layers=hf["n_layer"],
        model_dim=hf["n_embd"],
        num_heads=hf["n_head"],
        num_kv_heads=hf["n_head"],
        head_dim=hf["n_embd"] // hf["n_head"],
        mlp_dim=hf.get("n_inner") or 4 * hf["n_embd"],
        vocab_size=hf["vocab_size"],
        max_length=hf["n_positions"],
        norm_epsilon=hf.get("layer_norm_epsilon", 1e-5),
        rotary_dim=hf["rotary_dim"],
        mlp=ACTIVATIONS[activation],
        tie_embeddings=hf.get("tie_word_embeddings", False),
        initializer_range=hf.get("initializer_range", 0.02),
    )


def config_to_hf(config: TransformerConfig, mp_num: int = DEFAULT_MP_NUM, eod: int | None = None) -> dict[str, Any]:
    """The `config.json` of a decoder that is a CodeGen.

    Args:
        config: the decoder.
        mp_num: layout of the tensors, written down so that they can be read back whatever it is.
        eod: the token that ends a document, if it shall be written as bos and eos.

    Raises:
        UserError: the decoder is no CodeGen.
    """
    hf = {
        "model_type": "codegen",
        "architectures": ["CodeGenForCausalLM"],
        "n_layer": config.num_layers,
        "n_embd": config.model_dim,
        "n_head": config.num_heads,
        "n_inner": config.mlp_dim,
        "vocab_size": config.vocab_size,
        "n_positions": config.max_length,
        "n_ctx": config.max_length,
        "layer_norm_epsilon": config.norm_epsilon,
        "rotary_dim": config.rotary_dim,
        "activation_function": {ours: theirs for theirs, ours in ACTIVATIONS.items()}.get(config.mlp),
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.initializer_range,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "mp_num": mp_num,
        "torch_dtype": "float32",
    }
    if eod is not None:
        hf |= {"bos_token_id": eod, "eos_token_id": eod}
    _refuse_other_families(config, hf)
    return hf


def _refuse_other_families(config: TransformerConfig, hf: dict[str, Any]) -> None:
    """What a CodeGen config cannot say must be as CodeGen has it."""
    if hf["activation_function"] is None:
        raise UserError(f"the model has mlp {config.mlp!r}, which CodeGen has not; choose another --family")
    said = config_from_hf(hf)
    for name in ("num_kv_heads", "head_dim", "norm", "parallel_block", "position_encoding", "rope_base"):
        _refuse_difference(name, getattr(config, name), getattr(said, name))
    for name in ("attention_bias", "mlp_bias", "head_bias", "scale_attention"):
        _refuse_difference(name, getattr(config, name), getattr(said, name))
    _refuse_difference("window_pattern", set(config.window_pattern), {0})


def _refuse_difference(name: str, ours: Any, theirs: Any) -> None:
    if ours != theirs:
        raise UserError(f"the model has {name} {ours}, CodeGen has {theirs}; choose another --family")


def find_mp_num(hf: Mapping[str, Any], asked_for: int | None = None) -> int:
    """The layout of a checkpoint: as asked for, else as config.json's `mp_num` says, else by the released sizes."""
    by_shape = MP_NUM_OF_SHAPE.get((hf["n_layer"], hf["n_embd"]), DEFAULT_MP_NUM)
    return asked_for or hf.get("mp_num") or by_shape


def params_from_hf(config: TransformerConfig, tensors: Mapping[str, np.ndarray], mp_num: int) -> dict[str, Any]:
    """Our parameters, float32 NumPy.

    Args:
        config: of the checkpoint.
        tensors: by their names in the checkpoint; each is read once.
        mp_num: see `find_mp_num`.

    Raises:
        UserError: a tensor is missing, unknown, or has another shape than the config says.
    """
    _refuse_mp_num(config, mp_num)
    shapes = flax.traverse_util.flatten_dict(jax.eval_shape(lambda: init_params(config, jax.random.key(0))), sep="/")
    names = {path: name for path, name in NAMES.items() if path in shapes}
    layers = range(config.num_layers)
    _refuse_unknown(tensors, {name.format(n) for name in (*NAMES.values(), QKV_NAME) for n in layers})

    params = {path: np.zeros(shape.shape, np.float32) for path, shape in shapes.items()}
    for path, name in names.items():
        if path.startswith("layers/"):
            for n in layers:
                _copy(params[path][n], path, tensors, name.format(n), config)
        else:
            _copy(params[path], path, tensors, name, config)
    for n in layers:
        qkv = _read(tensors, QKV_NAME.format(n), (3 * config.model_dim, config.model_dim))
        for part, kernel_DxHxE in split_qkv(qkv, config.num_heads, mp_num).items():
            params[f"layers/attention/{part}/kernel"][n] = kernel_DxHxE
    return flax.traverse_util.unflatten_dict(params, sep="/")


def params_to_hf(config: TransformerConfig, params: dict[str, Any], mp_num: int) -> Iterator[tuple[str, np.ndarray]]:
    """The checkpoint's tensors, float32, one at a time; the inverse of `params_from_hf`.

    Raises:
        UserError: the heads cannot be laid out so.
    """
    _refuse_mp_num(config, mp_num)
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    names = {path: name for path, name in NAMES.items() if path in flat}
    for path, name in names.items():
        if not path.startswith("layers/"):
            yield name, _to_theirs(np.asarray(flat[path], np.float32), path, config)
    for n in range(config.num_layers):
        for path, name in names.items():
            if path.startswith("layers/"):
                yield name.format(n), _to_theirs(np.asarray(flat[path][n], np.float32), path, config)
        parts = {part: np.asarray(flat[f"layers/attention/{part}/kernel"][n], np.float32) for part in QKV_ORDER}
        yield QKV_NAME.format(n), join_qkv(parts, mp_num)


def split_qkv(qkv_3DxD: np.ndarray, num_heads: int, mp_num: int) -> dict[str, np.ndarray]:
    """`qkv_proj.weight` (outputs first) as our query, key and value kernels [D, H, E]."""
    D = qkv_3DxD.shape[1]
    by_block = qkv_3DxD.reshape(mp_num, len(QKV_ORDER), num_heads // mp_num, D // num_heads, D)
    parts = {part: by_block[:, i] for i, part in enumerate(QKV_ORDER)}
    return {name: np.moveaxis(part.reshape(num_heads, D // num_heads, D), -1, 0) for name, part in parts.items()}


def join_qkv(parts: Mapping[str, np.ndarray], mp_num: int) -> np.ndarray:
    """The inverse of `split_qkv`."""
    D, H, E = parts["query"].shape
    ordered = [np.moveaxis(parts[name], 0, -1).reshape(mp_num, H // mp_num, E, D) for name in QKV_ORDER]
    return np.stack(ordered, axis=1).reshape(3 * H * E, D)


def _copy(out: np.ndarray, path: str, tensors: Mapping[str, np.ndarray], name: str, config: TransformerConfig) -> None:
    """Reads a tensor into our array; the vocabulary's padding stays zero."""
    theirs = _to_theirs(out, path, config)  # a view of `out`
    theirs[:] = _read(tensors, name, theirs.shape)


def _to_theirs(ours: np.ndarray, path: str, config: TransformerConfig) -> np.ndarray:
    """Our array in the checkpoint's shape: heads merged, outputs before inputs, no padding."""
    if path == "layers/attention/out/kernel":
        ours = ours.reshape(-1, ours.shape[-1])
    if path.endswith("kernel") and path != "embedding/kernel":
        ours = ours.T
    return ours[: config.vocab_size] if path.startswith(("embedding", "head")) else ours


def _read(tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in tensors:
        raise UserError(f"the checkpoint has no tensor {name}; is it a whole CodeGen checkpoint?")
    tensor = tensors[name]
    if tensor.shape != shape:
        raise UserError(f"the checkpoint's {name} has shape {tensor.shape}, but its config.json says {shape}")
    return tensor.astype(np.float32)


def _refuse_unknown(tensors: Mapping[str, np.ndarray], known: set[str]) -> None:
    for name in tensors:
        if name not in known and not name.endswith(BUFFERS):
            raise UserError(f"the checkpoint's tensor {name} is none of CodeGen's; choose another --family")


def _refuse_mp_num(config: TransformerConfig, mp_num: int) -> None:
    if mp_num < 1 or config.num_heads % mp_num:
        raise UserError(f"mp_num {mp_num} does not divide the {config.num_heads} heads; choose another --mp_num")
