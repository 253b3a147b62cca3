"""What the backward pass keeps of the forward pass, by name.

none       everything that a gradient needs, except attention scores: those are recomputed under any policy.
dots       the outputs of the projections (query, key, value, out, MLP) and of attention. Norms, rotation and
           activations are recomputed, which costs next to nothing; so is attention by GPU kernels, whose results
           cannot be named.
full       the input of each layer only. Its whole forward pass is recomputed, about a third more work.

"auto" is settled as one of these where a run starts (`recipes/memory_choice.py`). Where nothing is trained it does not
matter.
"""

import flax.linen as nn
import jax

from t5x_code.models.attention.dense import RESULT
from t5x_code.models.config import AUTO, Remat
from t5x_code.models.layers import PROJECTION

# Beside a layer's input.
KEPT = {"dots": jax.checkpoint_policies.save_only_these_names(PROJECTION, RESULT), "full": None}


def remat_block(block: type[nn.Module], policy: Remat, scanned: bool) -> type[nn.Module]:
    """The block class under a policy.

    Args:
        block: a module whose `__call__` takes arrays only.
        policy: a name of this file's list.
        scanned: the block runs in a loop, where the compiler cannot undo the recomputation by itself.
    """
    if policy in ("none", AUTO):
        return block
    return nn.remat(block, policy=KEPT[policy], prevent_cse=not scanned)
