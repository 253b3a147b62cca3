"""The parts of a block that hold parameters: norm, projection and MLP, each with its logical axis names.

Legend: B batch, L length, D model, F feed-forward.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from t5x_code.models import few_rows
from t5x_code.models.activations import activation, layer_norm, rms_norm
from t5x_code.models.config import TransformerConfig
from t5x_code.models.dot import dot
from t5x_code.models.initializers import Kind, deviation, normal
from t5x_code.models.quantized import quantized_dot
from t5x_code.models.vector import add_vector

# Name of the arrays that the remat policy "dots" keeps.
PROJECTION = "projection"


class Norm(nn.Module):
    """LayerNorm or RMSNorm over the last axis, computed in float32.

    Parameters: `scale` [D] and, for LayerNorm, `bias` [D].
    """

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
        """Returns the normalised x in its own type."""
        dim = (x_BxLxD.shape[-1],)
        scale_D = self.param("scale", nn.with_logical_partitioning(nn.initializers.ones, ("norm",)), dim)
        if self.config.norm == "rms_norm":
            return rms_norm(self.config.norm_epsilon)(x_BxLxD, scale_D)
        bias_D = self.param("bias", nn.with_logical_partitioning(nn.initializers.zeros, ("norm",)), dim)
        return layer_norm(self.config.norm_epsilon)(x_BxLxD, scale_D, bias_D)


class Projection(nn.Module):
    """An affine map between groups of axes, such as D -> H x E.

    Parameters: `kernel` [*inputs, *outputs] and, if asked for, `bias` [*outputs]. The kernel starts as
    `initializers.deviation` says, the bias at zero. With adapters also `lora_in` [*inputs, r] and `lora_out`
    [r, *outputs]; see models/lora.py.
    """

    config: TransformerConfig
    spec: str  # einsum of the input and the kernel
    kernel_shape: Sequence[int]
    kernel_axes: Sequence[str]
    num_outputs: int  # trailing axes of the kernel that the output keeps
    use_bias: bool
    kind: Kind = "input"  # what the kernel's start depends on

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the projected x in its own type."""
        config = self.config
        start = normal(deviation(config, self.kind))
        init = nn.with_logical_partitioning(start, tuple(self.kernel_axes))
        if self.has_variable(few_rows.COLLECTION, "kernel"):
            weights = {name: self.get_variable(few_rows.COLLECTION, name) for name in ("kernel", "scale")}
            weights = {name: array for name, array in weights.items() if array is not None}
            y = few_rows.product(x, weights, tuple(self.kernel_shape[-self.num_outputs :])).astype(x.dtype)
        else:
            kernel = self.param("kernel", init, tuple(self.kernel_shape))
            if self.is_initializing():
                y = self._unprojected(x)
            elif config.quantization == "none":
                y = dot(self.spec, x, kernel, x.dtype)
            else:
                y = quantized_dot(self.spec, x, kernel, x.dtype, config.quantization)
        if self.use_bias:
            # A bias over the model dimension is kept whole on every device, as the norms are.
            axes = tuple("norm" if axis == "embed" else axis for axis in self.kernel_axes[-self.num_outputs :])
            init = nn.with_logical_partitioning(nn.initializers.zeros, axes)
            y = add_vector(y, self.param("bias", init, tuple(self.kernel_shape[-self.num_outputs :])))
        if config.lora_rank:
            y += self._adapt(x)
        return checkpoint_name(y, PROJECTION)

    def _unprojected(self, x: jax.Array) -> jax.Array:
        """Zeros in the place of the projected x, for where parameters are drawn and nothing is computed."""
        num_inputs = len(self.kernel_shape) - self.num_outputs
        return jnp.zeros((*x.shape[: x.ndim - num_inputs], *self.kernel_shape[num_inputs:]), x.dtype)

    def _adapt(self, x: jax.Array) -> jax.Array:
        """What the adapter adds to y; its products are never quantized."""
        split, rank = len(self.kernel_shape) - self.num_outputs, self.config.lora_rank
        # He et al.'s range for A, as the paper's code has it, and 0 for B: at the start the adapter adds nothing.
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=range(split), out_axis=-1)
        init = nn.with_logical_partitioning(init, (*self.kernel_axes[:split], "lora"))
        a = self.param("lora_in", init, (*self.kernel_shape[:split], rank))
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("lora", *self.kernel_axes[split:]))
        b = self.param("lora_out", zeros, (rank, *self.kernel_shape[split:]))
        operands, result = self.spec.split("->")
        x_spec, kernel_spec = operands.split(",")
        inner_spec = "".join(index for index in x_spec if index not in kernel_spec) + "r"
        inner = dot(f"{x_spec},{kernel_spec[:split]}r->{inner_spec}", x, a, x.dtype)
        adapted = dot(f"{inner_spec},r{kernel_spec[split:]}->{result}", inner, b, x.dtype)
        # Not rounded to x's type, as a merge scales by it too; the product is, in the same pass over y.
        return (adapted.astype(jnp.float32) * (self.config.lora_alpha / rank)).astype(x.dtype)


class Mlp(nn.Module):
    """D -> F -> D: `out(activation(in(x)))`, or for swiglu `out(silu(gate(x)) * in(x))`."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x_BxLxD: jax.Array, projected_BxLxF: jax.Array | None = None) -> jax.Array:
        """Returns what is added to the residual stream, [B, L, D]; `in` may have been applied already."""
        config = self.config
        h_BxLxF = projected_BxLxF
        if h_BxLxF is None:
            h_BxLxF = self._project("in", "bld,df->blf", ("embed", "mlp"))(x_BxLxD)
        hidden = (h_BxLxF,)
        if config.mlp == "swiglu":
            hidden = (self._project("gate", "bld,df->blf", ("embed", "mlp"))(x_BxLxD), h_BxLxF)
        h_BxLxF = activation(config.mlp, config.layers_in_loop)(*hidden)
        h_BxLxF = nn.with_logical_constraint(h_BxLxF, ("batch", "length", "activation_mlp"))
        return self._project("out", "blf,fd->bld", ("mlp", "embed"))(h_BxLxF)

    def _project(self, name: str, spec: str, axes: tuple[str, str]) -> Projection:
        config = self.config
        size = {"embed": config.model_dim, "mlp": config.mlp_dim}
        shape = tuple(size[axis] for axis in axes)
        kind: Kind = "output" if name == "out" else "input"
        return Projection(config, spec, shape, axes, num_outputs=1, use_bias=config.mlp_bias, kind=kind, name=name)
