"""How the next token is drawn from the model's logits: greedily, or from the top-k or nucleus of the distribution.

Legend of array names: R rows decoded together, V vocabulary, N blocks of C tokens of it.
"""

import dataclasses

import jax
import jax.numpy as jnp

from t5x_code.errors import UserError

BLOCK = 64  # tokens, C
SEEDS = 2**31  # JAX takes 32 bits with a sign, NumPy none below 0
TEMPERATURES = 1e-30, 1e30  # beyond, logits over a temperature are no float32, and any token may come out


@dataclasses.dataclass(frozen=True)
class Sampling:
    """A way to choose the next token."""

    temperature: float = 0.0  # 0 is greedy: the likeliest token
    top_k: int = 0  # draw from the k likeliest tokens; 0 is all of them
    top_p: float = 1.0  # draw from the fewest tokens that hold this probability; 1 is all of them

    def __post_init__(self) -> None:
        """Raises UserError for values that mean nothing."""
        lowest, highest = TEMPERATURES
        if self.temperature != 0 and not lowest <= self.temperature <= highest:
            raise UserError(f"temperature is {self.temperature}; it must be 0 (greedy), or from {lowest} to {highest}")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}; it must be 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must be above 0 and at most 1")


def check_seed(seed: int) -> None:
    """Raises UserError for a seed that some generator of random numbers would not take."""
    if not 0 <= seed < SEEDS:
        raise UserError(f"seed is {seed}; it must be 0 or more and below {SEEDS}")


def row_key(seed: int, prompt_index: int, sample_index: int) -> jax.Array:
    """Key of all draws of one sample of one prompt: the same whatever shares its batch."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), prompt_index), sample_index)


def sample(logits_RxV: jax.Array, keys_R: jax.Array, step: jax.Array, sampling: Sampling) -> jax.Array:
    """Chooses one token for each row.

    Args:
        logits_RxV: unnormalised log-probabilities, -inf where a token is forbidden.
        keys_R: one `row_key` per row.
        step: how many tokens the rows already have; it keys the draw.
        sampling: how to choose.

    Returns:
        int32 [R].
    """
    logits_RxV = logits_RxV.astype(jnp.float32)
    if sampling.temperature == 0:
        return likeliest(logits_RxV)
    logits_RxV = filter_logits(logits_RxV / sampling.temperature, sampling.top_k, sampling.top_p)
    keys_R = jax.vmap(jax.random.fold_in, (0, None))(keys_R, step)
    return jax.vmap(jax.random.categorical)(keys_R, logits_RxV).astype(jnp.int32)


def likeliest(logits_RxV: jax.Array) -> jax.Array:
    """The first of the tokens with the highest logit, int32 [R].

    On a CPU an argmax over the whole vocabulary takes its tokens one by one; maxima of blocks are found many at a time.
    """
    R, V = logits_RxV.shape
    if V % BLOCK or jax.default_backend() != "cpu":
        return jnp.argmax(logits_RxV, axis=-1).astype(jnp.int32)
    logits_NxCxR = logits_RxV.T.reshape(V // BLOCK, BLOCK, R)  # the order in which `few_rows.product` writes them
    block_R = jnp.argmax(logits_NxCxR.max(1), axis=0)
    logits_RxC = logits_NxCxR[block_R, :, jnp.arange(R)]
    return (block_R * BLOCK + jnp.argmax(logits_RxC, axis=-1)).astype(jnp.int32)


def filter_logits(logits_RxV: jax.Array, top_k: int, top_p: float) -> jax.Array:
    """Sets all but the `top_k` likeliest, and of these all but the nucleus of mass `top_p`, to -inf.

    The nucleus (Holtzman et al. 2020, arXiv 1904.09751) is the fewest tokens whose mass is at least `top_p`.
    Tokens as likely as the last one kept are kept too.
    """
    if 0 < top_k < logits_RxV.shape[-1]:
        kth_Rx1 = jax.lax.top_k(logits_RxV, top_k)[0][:, -1:]
        logits_RxV = jnp.where(logits_RxV < kth_Rx1, -jnp.inf, logits_RxV)
    if top_p < 1:
        sorted_RxV = jnp.sort(logits_RxV, axis=-1, descending=True)
        probability_RxV = jax.nn.softmax(sorted_RxV, axis=-1)
        likelier_RxV = jnp.cumsum(probability_RxV, axis=-1) - probability_RxV  # mass of the tokens before this one
        # The first is in it whatever its mass: a `top_p` below float32's numbers is 0 there.
        is_in_RxV = (likelier_RxV < top_p).at[:, 0].set(True)
        last_Rx1 = jnp.min(jnp.where(is_in_RxV, sorted_RxV, jnp.inf), axis=-1, keepdims=True)
        logits_RxV = jnp.where(logits_RxV < last_Rx1, -jnp.inf, logits_RxV)
    return logits_RxV
