"""What a function relies on in a model, looked at once for each model where it is met first."""

from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lazyscope import examples, tree
from lazyscope.door.leaves import concrete
from lazyscope.door.modes import computed_in
from lazyscope.door.outputs import checked_outputs
from lazyscope.door.program import Program
from lazyscope.examples import Batch

_FEW = 3  # examples that are evaluated together and each alone
_ROUNDINGS = 32  # of a model's products that a small difference of large outputs may be off by


def check_examples(apply: Any, params: PyTree, x: Batch) -> None:
    """ValueError where the outputs on one example depend on the others in the batch, or on its place among them.

    Outputs that are not real, with one row per example, are refused first (`checked_outputs`).
    A few examples are evaluated together and each alone, at weights beside `params` (at which a centred model is 0
    whatever it does), once for each model; what its products round away is no difference. Inside a transformation of
    JAX there are no values to look at.
    """
    dtype = checked_outputs(apply, params, x).dtype
    n = examples.count(x)
    if not isinstance(apply, Program) or n < 2 or not concrete(params, x) or "examples" in _looked_at(apply):
        return
    few = examples.take(x, np.unique(np.linspace(0, n - 1, _FEW).round().astype(int)))
    both = _both(apply, params, few)
    if not concrete(*both):
        return  # constants of a program that is being compiled
    together, alone = (np.asarray(v, float) for v in both)
    scale = float(np.max(np.abs(alone), initial=0.0, where=np.isfinite(alone)))
    apart = float(np.max(np.abs(together - alone), initial=0.0, where=np.isfinite(together - alone)))
    if (
        apart > 10 * float(jnp.finfo(dtype).eps) ** 0.5 * scale
        and apart > _ROUNDINGS * _coarsest(apply, params, few) * scale
    ):
        raise ValueError(
            "each example must be treated on its own here, got other outputs for a few examples together than for "
            "each alone: use batch norm with its running averages (evaluation mode), turn dropout off"
        )
    _looked_at(apply).add("examples")


def check_derivative(apply: Any, params: PyTree, x: Batch) -> None:
    """ValueError naming the leaves where a derivative of finite outputs is not finite."""
    finite, gradients = _derivative(apply, params, x)
    bad = [
        name
        for name, gradient in zip(tree.group_names(params), gradients, strict=True)
        if not np.all(np.isfinite(np.asarray(gradient)))
    ]
    if bad and bool(finite):
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise ValueError(
            f"a derivative of the outputs is NaN or infinite at {', '.join(bad[:3])}{more}, though the outputs are "
            "finite: a norm, root or quotient at 0 has none, so add an eps inside it or move the weights"
        )


def _coarsest(apply: Any, params: PyTree, x: Batch) -> float:
    """The rounding of a model's coarsest products."""
    inside = computed_in(apply, params, x)
    return 0.0 if inside is None else float(jnp.finfo(inside).eps)


@lru_cache(maxsize=512)
def _looked_at(_apply: Program) -> set[str]:
    """What a model is known to keep to."""
    return set()


@partial(jax.jit, static_argnums=0)
def _both(apply: Program, params: PyTree, few: Batch) -> tuple[Array, Array]:
    theta, merge = tree.split(params)

    def moved(leaf: Array) -> Array:
        wave = jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape)
        return leaf * (1 + wave / 16) + wave / 64

    beside = merge([moved(leaf) for leaf in theta])

    def one(example: Batch) -> Array:
        outputs = apply(beside, examples.alone(example))
        if not outputs.ndim:
            raise ValueError(
                "outputs must have one row per example, got none for an example alone: name the axes that squeeze "
                "takes away, jnp.squeeze(outputs, axis=-1)"
            )
        return outputs[0]

    each = jax.vmap(one)(few)
    return apply(beside, few), each


@partial(jax.jit, static_argnums=0)
def _derivative(apply: Any, params: PyTree, x: Batch) -> tuple[Array, list[Array]]:
    theta, merge = tree.split(params)
    outputs, pull = jax.vjp(lambda th: apply(merge(th), x), theta)
    index = jnp.arange(outputs.size, dtype=outputs.dtype).reshape(outputs.shape)
    return jnp.all(jnp.isfinite(outputs)), pull(jnp.cos(index * index))[0]
