"""What the backward pass keeps of the forward pass, by name.

none       everything that a gradient needs.
attention  all but the inside of attention: scores and softmax are made again from queries, keys and values.
dots       the outputs of the projections (query, key, value, out, MLP); norms, rotation, attention and activations are
           made again, which costs little more than attention's own products.
full       the input of each layer only; its whole forward pass runs again, about a third more work.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax

from t5x_code.models.config import RematPolicy
from t5x_code.models.layers import PROJECTION


def remat_block(block: type[nn.Module], policy: RematPolicy, scanned: bool) -> type[nn.Module]:
    """The block class under a policy.

    Args:
        block: a module whose `__call__` takes arrays only.
        policy: a name of this file's list.
        scanned: the block runs in a loop, where the compiler cannot undo the recomputation by itself.
    """
    if policy in ("none", "attention"):
        return block
    saved = jax.checkpoint_policies.save_only_these_names(PROJECTION) if policy == "dots" else None
    return nn.remat(block, policy=saved, prevent_cse=not scanned)


def remat_attention(
    attention: Callable[..., jax.Array], policy: RematPolicy, scanned: bool
) -> Callable[..., jax.Array]:
    """The attention function under a policy: made again in the backward pass when the policy is "attention"."""
    if policy != "attention":
        return attention
    return functools.partial(jax.checkpoint, prevent_cse=not scanned)(attention)
