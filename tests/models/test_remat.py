"""What the remat policies make again, counted in the program before any compiler has seen it."""

import functools

import jax
import jax.numpy as jnp
import pytest

from t5x_code.models.attention.dispatch import IMPLEMENTATIONS
from t5x_code.models.remat import KEPT

LENGTH = 256


def num_products(implementation: str, policy: str | None) -> int:
    """Of the forward and the backward pass of attention."""
    attend = functools.partial(IMPLEMENTATIONS[implementation], scale=1.0)
    if policy:
        attend = jax.checkpoint(attend, policy=KEPT[policy], prevent_cse=False)
    x = jnp.ones((1, LENGTH, 1, 64))
    position = jnp.arange(LENGTH)[None]
    gradient = jax.grad(lambda x: jnp.sin(attend(x, x, x, 0 * position, position + 1)).sum())
    return str(jax.make_jaxpr(gradient)(x)).count("dot_general[")


@pytest.mark.parametrize("implementation", ["dense", "chunked", "by_head"])
def test_dots_does_not_attend_again(implementation):
    """Of splash, `test_splash.py` counts the kernels that are compiled."""
    once, again = num_products(implementation, None), num_products(implementation, "full")
    assert num_products(implementation, "dots") == once < again
