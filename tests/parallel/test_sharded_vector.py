"""What devices exchange for the gradient of a vector that all tokens share."""

ON_A_MESH = """
import re
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from t5x_code.models.vector import add_vector
mesh = jax.make_mesh((2, 2, 2), ("data", "sequence", "tensor"))
x = jax.ShapeDtypeStruct((4, 16, 8), jnp.bfloat16, sharding=NamedSharding(mesh, P("data", "sequence", "tensor")))
bias = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=NamedSharding(mesh, P("tensor")))
gradient = jax.jit(lambda x, bias, cotangent: jax.vjp(add_vector, x, bias)[1](cotangent)[1])
program = gradient.lower(x, bias, x).compile().as_text()
print(*sorted(set(re.findall(r" (all-gather|all-reduce|all-to-all|collective-permute)[(]", program))))
"""


def test_devices_exchange_nothing_but_the_sums(run_on_eight_devices):
    """To merge rows and positions, both split, would gather all activations."""
    assert run_on_eight_devices(ON_A_MESH) == "all-reduce"
