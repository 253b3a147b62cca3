"""Queries without keys."""

import jax
import jax.numpy as jnp
import numpy as np

from t5x_code.models.attention.empty_intervals import with_one_key, zero_if_empty

FROM, TO = jnp.array([[0, 2, 3], [1, 1, 0]]), jnp.array([[1, 2, 5], [0, 4, 0]])
EMPTY = np.array([[False, True, False], [True, False, True]])


def test_a_query_without_keys_looks_at_the_first():
    attend_from, attend_to = with_one_key(FROM, TO)
    np.testing.assert_array_equal(attend_from, np.where(EMPTY, 0, FROM))
    np.testing.assert_array_equal(attend_to, np.where(EMPTY, 1, TO))


def test_its_answer_is_dropped_and_has_no_gradient():
    out = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    kept, pull = jax.vjp(lambda out: zero_if_empty(out, FROM, TO), out)
    (gradient,) = pull(out)
    for got in (kept, gradient):
        np.testing.assert_array_equal(got, np.where(EMPTY[..., None, None], 0, out))
    assert max(leaf.size for leaf in jax.tree.leaves(pull)) == EMPTY.size  # a condition as large as out, otherwise
