import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyscope import tree

PARAMS = {"b": jnp.array([3.0, 4.0]), "count": jnp.array(7), "a": [jnp.array([[12.0]])], "key": jax.random.key(0)}


def test_split_sets_integers_and_keys_aside_and_merge_puts_them_back():
    theta, merge = tree.split(PARAMS)
    assert [leaf.shape for leaf in theta] == [(1, 1), (2,)]
    merged = merge([2 * leaf for leaf in theta])
    assert merged["count"] == 7
    assert merged["key"] is PARAMS["key"]
    np.testing.assert_array_equal(merged["b"], [6.0, 8.0])


def test_group_names_follow_the_order_of_split():
    assert tree.group_names(PARAMS) == ["a/0", "b"]
    assert tree.group_names(jnp.ones(3)) == ["parameters"]


def test_norm_is_the_euclidean_norm_over_all_leaves():
    theta, _ = tree.split(PARAMS)
    assert tree.norm(theta) == 13.0
    assert tree.size(theta) == 3
    assert tree.dot(theta, tree.scale(2.0, theta)) == 338.0


def test_add_and_sub_are_inverse():
    theta, _ = tree.split(PARAMS)
    back = tree.sub(tree.add(theta, theta), theta)
    assert all(bool(jnp.all(x == y)) for x, y in zip(back, theta, strict=True))


def test_a_tree_without_floats_is_refused():
    with pytest.raises(ValueError, match="at least one floating-point array"):
        tree.split({"n": jnp.array(3)})


def test_complex_parameters_are_refused():
    with pytest.raises(ValueError, match="parameters must be real"):
        tree.split(jnp.array([1j]))
