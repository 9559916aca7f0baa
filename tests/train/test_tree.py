import jax
import jax.numpy as jnp
import optax

from bertjax.train.tree import named, nested


def test_every_kind_of_node_has_a_name_in_the_order_of_the_leaves():
    tree = {"w": (jnp.ones(1), [jnp.ones(2)]), "s": optax.ScaleByAdamState(3, {"w": 4}, {"w": 5})}
    names = named(tree)
    assert list(names) == ["s/count", "s/mu/w", "s/nu/w", "w/0", "w/1/0"]
    assert all(a is b for a, b in zip(names.values(), jax.tree.leaves(tree), strict=True))


def test_nested_is_the_inverse_of_named_for_dicts():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert nested(named(tree)) == tree
