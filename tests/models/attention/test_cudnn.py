"""cuDNN's attention against the reference, wherever an NVIDIA GPU is attached."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from intervals import intervals

from t5x_code.models.attention.cudnn import cudnn_attention, cudnn_causal_attention
from t5x_code.models.attention.dense import dense_attention

LENGTH = 512


@pytest.mark.parametrize(
    ("compute", "kind"), [(cudnn_attention, "packed prefixes"), (cudnn_causal_attention, "causal")]
)
def test_equals_the_reference_on_the_device(compute, kind):
    device = jax.devices()[0]
    if device.platform != "gpu":
        pytest.skip(f"cuDNN runs on NVIDIA GPUs; this is a {device.device_kind}")
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(2, LENGTH, heads, 64)), jnp.bfloat16) for heads in (4, 2, 2)]
    ends = intervals(kind, 2, LENGTH)

    def gradients(compute):
        def loss(q, k, v):
            out = compute(q, k, v, *ends, 0.1).astype(jnp.float32)
            return jnp.sin(3 * out).sum(), out

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(*arrays)

    ((_, out), got), ((_, expected), want) = gradients(compute), gradients(dense_attention)
    np.testing.assert_allclose(out, expected, atol=2e-2)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), atol=1e-1, rtol=5e-2)
