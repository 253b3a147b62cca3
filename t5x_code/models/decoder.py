"""The decoder: embedding, scanned layers, final norm and head, and the pure functions by which it is used elsewhere.

Parameters (float32, one order whatever the hardware), with their logical axis names:

    embedding/kernel              [V, D]        vocab, embed
    positions/kernel              [max_length, D]  None, embed       only with learned positions
    layers/attention/query/kernel [N, D, H, E]  layers, embed, heads, head_dim
    layers/attention/{key,value}  [N, D, K, E]  layers, embed, kv_heads, head_dim
    layers/attention/out/kernel   [N, H, E, D]  layers, heads, head_dim, embed
    layers/mlp/{in,gate}/kernel   [N, D, F]     layers, embed, mlp
    layers/mlp/out/kernel         [N, F, D]     layers, mlp, embed
    head/kernel                   [D, V]        embed, vocab         absent when tied
    top_query/..                  as layers/, without N              only with a top query layer, and before it
    top_query_positions/kernel    [max_length, D]  None, embed       its queries
    every norm's scale and bias, and a bias over D                   norm
    lora_in, lora_out beside a projection's kernel                   [.., r] and [r, ..]; see models/lora.py

Every other matrix is a `kernel`; the rest are `scale` or `bias`. Activations carry `batch`, `lookup_batch` (while
embeddings are looked up), `length`, `activation_embed`, `activation_heads`, `activation_mlp` and `activation_vocab`.

Legend: B batch, L length, S cache slots, D model, H heads, K key/value heads, E head dim, F feed-forward,
V vocabulary padded to `vocab_multiple`, N layers.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_code.models import few_rows
from t5x_code.models.block import Block, Context
from t5x_code.models.cache import KeyValueCache, LayerCache
from t5x_code.models.config import AUTO, TransformerConfig
from t5x_code.models.dot import dot
from t5x_code.models.few_rows import Decoding
from t5x_code.models.layers import Norm
from t5x_code.models.remat import remat_block
from t5x_code.models.rope import rotary_angles
from t5x_code.models.vocabulary import Embedding, Head, Positions

Params = dict[str, Any]


class Decoder(nn.Module):
    """A decoder-only transformer, from token ids to hidden states; `logits` and the loss apply the head."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        inputs_BxL: jax.Array,
        positions_BxL: jax.Array,
        attend_from_BxL: jax.Array,
        attend_to_BxL: jax.Array,
        cache: KeyValueCache | None = None,
        write_at: jax.Array | int = 0,
    ) -> tuple[jax.Array, KeyValueCache | None]:
        """Returns the last hidden states [B, L, D] and the cache, if one was given, with the new tokens in it."""
        config = self.config
        x_BxLxD = self._embed(inputs_BxL, positions_BxL)
        rotation = None
        if config.rotates:
            rotation = rotary_angles(positions_BxL, config.rotary_dim, config.rope_base, config.rope_scaling)
        context = Context(attend_from_BxL, attend_to_BxL, jnp.asarray(write_at, jnp.int32), rotation)
        windows_N = jnp.asarray(config.window_of_layer, jnp.int32)
        written: list[LayerCache] = []
        if cache is None:
            (x_BxLxD, _), _ = self._layers()((x_BxLxD, None), windows_N, context)
        else:  # each layer has its own arrays, so that none is copied
            for n, layer_cache in enumerate(cache.layers[: config.num_layers]):
                block = Block(config, name=f"layer_{n}")
                (x_BxLxD, layer_cache), _ = block((x_BxLxD, layer_cache), windows_N[n], context)
                written.append(layer_cache)
        x_BxLxD = Norm(config, name="final_norm")(x_BxLxD)
        if config.top_query_layer:
            of_top = cache.layers[-1] if cache is not None else None
            x_BxLxD, of_top = self._top_query_layer(x_BxLxD, of_top, positions_BxL, context)
            written.append(of_top)
        return x_BxLxD, None if cache is None else KeyValueCache(tuple(written))

    def _top_query_layer(
        self, x_BxLxD: jax.Array, cache: LayerCache | None, positions_BxL: jax.Array, context: Context
    ) -> tuple[jax.Array, LayerCache | None]:
        """PanGu-alpha's last layer (arXiv 2104.12369, section 2): what it asks depends on the position alone."""
        config = self.config
        query_BxLxD = Positions(config, name="top_query_positions")()[positions_BxL].astype(config.dtype)
        block = remat_block(Block, config.remat, scanned=False)(config, name="top_query")
        whole_context = jnp.int32(0)
        return block((x_BxLxD, cache), whole_context, context, query_BxLxD)[0]

    def _embed(self, inputs_BxL: jax.Array, positions_BxL: jax.Array) -> jax.Array:
        # Each device looks up its part of every vector, for the rows of all devices that hold other parts of the same
        # table; then each row gets its whole vectors. The lookup is in float32 and the result is rounded, so that the
        # gradients of a frequent token accumulate in float32.
        rows, vectors = ("lookup_batch", "length"), ("lookup_batch", "length", "embed")
        for names in (("lookup_batch", None), rows):  # in two steps, each of which the compiler has a collective for
            inputs_BxL = nn.with_logical_constraint(inputs_BxL, names)
        x_BxLxD = nn.with_logical_constraint(Embedding(self.config, name="embedding")()[inputs_BxL], vectors)
        if self.config.position_encoding == "learned":
            positions_BxL = nn.with_logical_constraint(positions_BxL, rows)
            x_BxLxD += nn.with_logical_constraint(Positions(self.config, name="positions")()[positions_BxL], vectors)
        if not self.config.tie_embeddings or self.config.head_bias:
            Head(self.config, name="head")()
        x_BxLxD = nn.with_logical_constraint(x_BxLxD.astype(self.config.dtype), vectors)
        return nn.with_logical_constraint(x_BxLxD, ("batch", "length", "activation_embed"))

    def _layers(self) -> nn.Module:
        config = self.config
        return nn.scan(
            remat_block(Block, config.remat, config.layers_in_loop),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            length=config.num_layers,
            # The parameters are stacked either way: they do not depend on how the layers are compiled.
            unroll=1 if config.layers_in_loop else config.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
            # A second trace of the layer, for outputs that all layers share: there are none. But what is drawn depends
            # on the number of traces, and stays what it was.
            check_constancy_invariants=self.is_initializing(),
        )(config, name="layers")


@functools.partial(jax.jit, static_argnums=0)
def init_params(config: TransformerConfig, key: jax.Array) -> Params:
    """Draws parameters: a nested dict of float32 arrays."""
    return nn.unbox(_init_boxed(config, key))


def param_shapes(config: TransformerConfig) -> Params:
    """The tree of `init_params` with a `jax.ShapeDtypeStruct` in each parameter's place. Draws nothing."""
    return _of_each_box(lambda box: box.value, config)


def logical_axes(config: TransformerConfig) -> Params:
    """The tree of `init_params` with a tuple of logical axis names (None: never split) in each parameter's place."""
    return _of_each_box(lambda box: box.names, config)


def count_params(config: TransformerConfig) -> int:
    """Number of parameters, those of the vocabulary's padding not counted."""
    shapes = param_shapes(dataclasses.replace(config, vocab_multiple=1))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _of_each_box(read: Callable[[nn.LogicallyPartitioned], Any], config: TransformerConfig) -> Params:
    """A tree of what is read from each parameter's shape and axes."""
    # Parameters depend neither on how they are computed with, nor on how many of the vocabulary's entries are padding.
    computed = {"attention": AUTO, "remat": "none", "scan_layers": None, "quantization": "none"}
    plain = dataclasses.replace(config, **computed, vocab_size=config.padded_vocab_size, vocab_multiple=1)
    return jax.tree.map(read, _boxed_shapes(plain), is_leaf=lambda box: isinstance(box, nn.LogicallyPartitioned))


@functools.cache
def _boxed_shapes(config: TransformerConfig) -> Params:
    """Shapes and logical axes. Traced once: the start of a run asks for them half a dozen times."""
    return jax.eval_shape(lambda seed: _init_boxed(config, jax.random.key(seed)), jax.ShapeDtypeStruct((), jnp.uint32))


def _init_boxed(config: TransformerConfig, key: jax.Array) -> Params:
    one_token = jnp.zeros((1, 1), jnp.int32)
    config = dataclasses.replace(config, attention=AUTO)  # the config names one for whole rows
    return Decoder(config).init(key, one_token, one_token, one_token, one_token)["params"]


def hidden_states(
    config: TransformerConfig,
    params: Params,
    inputs_BxL: jax.Array,
    positions_BxL: jax.Array,
    attend_from_BxL: jax.Array,
    attend_to_BxL: jax.Array,
) -> jax.Array:
    """Runs the decoder on whole rows.

    Args:
        config: the decoder.
        params: as `init_params` makes them.
        inputs_BxL: token ids.
        positions_BxL: position of each token in its segment.
        attend_from_BxL: token i sees the tokens k with `attend_from[i] <= k < attend_to[i]`.
        attend_to_BxL: see `attend_from_BxL`.

    Returns:
        The last hidden states, which the head reads: [B, L, D] in the config's compute type.
    """
    variables = {"params": params}
    x_BxLxD, _ = Decoder(config).apply(variables, inputs_BxL, positions_BxL, attend_from_BxL, attend_to_BxL)
    return x_BxLxD


def decode(
    config: TransformerConfig,
    decoding: Decoding,
    cache: KeyValueCache,
    inputs_BxL: jax.Array,
    positions_BxL: jax.Array,
    write_at: jax.Array,
    attend_from_BxL: jax.Array,
    attend_to_BxL: jax.Array,
) -> tuple[jax.Array, KeyValueCache]:
    """Runs the decoder on L more tokens of each row: a prompt (L = its length) or the token just generated (L = 1).

    Args:
        config: the decoder.
        decoding: as `decoding_params` makes them.
        cache: the tokens read so far, as `init_cache` or this function returned it.
        inputs_BxL: token ids; prompts of different lengths are padded on the left.
        positions_BxL: position of each token in its row, padding not counted.
        write_at: int32 scalar, cache slot of the first of the L tokens; `write_at + L` must not exceed the cache's
            length.
        attend_from_BxL: token i sees the slots k with `attend_from[i] <= k < attend_to[i]`; its own slot is
            `write_at + i`.
        attend_to_BxL: see `attend_from_BxL`.

    Returns:
        The last hidden states of the L tokens, [B, L, D], and the cache with these tokens in it.
    """
    arrays = (inputs_BxL, positions_BxL, attend_from_BxL, attend_to_BxL)
    return Decoder(config).apply(decoding, *arrays, cache=cache, write_at=write_at)


def decode_logits(config: TransformerConfig, decoding: Decoding, x_BxLxD: jax.Array) -> jax.Array:
    """The same as `logits`, for the few tokens of a call of `decode`, by weights that are laid out for it."""
    logits_BxLxV = few_rows.product(x_BxLxD, decoding[few_rows.COLLECTION]["head"], (config.padded_vocab_size,))
    if config.head_bias:
        logits_BxLxV += decoding["params"]["head"]["bias"]
    return _without_padding(config, logits_BxLxV)


def head_weights(config: TransformerConfig, params: Params) -> tuple[jax.Array, jax.Array]:
    """The head's float32 kernel [D, V] and bias [V]: the embedding's transpose if tied, zeros if there is no bias."""
    kernel_DxV = params["embedding"]["kernel"].T if config.tie_embeddings else params["head"]["kernel"]
    bias_V = params["head"]["bias"] if config.head_bias else jnp.zeros(config.padded_vocab_size, jnp.float32)
    return kernel_DxV, bias_V


def logits(config: TransformerConfig, params: Params, x_BxLxD: jax.Array) -> jax.Array:
    """Scores of every token, float32 [B, L, V]; -inf for the vocabulary's padding.

    Args:
        config: the decoder.
        params: as `init_params` makes them.
        x_BxLxD: what `hidden_states` or `decode` returned.
    """
    kernel_DxV, bias_V = head_weights(config, params)
    logits_BxLxV = dot("bld,dv->blv", x_BxLxD, kernel_DxV, jnp.float32) + bias_V
    return _without_padding(config, logits_BxLxV)


def _without_padding(config: TransformerConfig, logits_BxLxV: jax.Array) -> jax.Array:
    """The logits, sharded by their logical axes, with -inf for the vocabulary's padding."""
    logits_BxLxV = nn.with_logical_constraint(logits_BxLxV, ("batch", "length", "activation_vocab"))
    if config.padded_vocab_size == config.vocab_size:
        return logits_BxLxV
    return jnp.where(jnp.arange(config.padded_vocab_size) < config.vocab_size, logits_BxLxV, -jnp.inf)
