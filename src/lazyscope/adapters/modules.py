"""Flax linen, Flax nnx and Equinox modules as `(apply, params0)`."""

from typing import Any

import jax
from jaxtyping import Array, PyTree

from lazyscope.models import Apply


def from_linen(module: Any, variables: Any, **apply_kwargs: Any) -> tuple[Apply, PyTree]:
    """A Flax linen module with its variables; `params0` is `variables["params"]`.

    The other collections (batch statistics) are kept as they are. `apply_kwargs` go to `module.apply`: pass what the
    module calls evaluation (`train=False`, `deterministic=True`). Raises ValueError when the variables have no
    "params", and at the first call when the module still draws random numbers or updates its statistics.
    """
    from flax import errors

    if "params" not in variables:
        raise ValueError(
            f'from_linen needs the variables of module.init, with "params", got {sorted(variables)}: '
            'pass {"params": params}'
        )
    others = {name: collection for name, collection in variables.items() if name != "params"}

    def apply(params: PyTree, x: Array) -> Array:
        try:
            return module.apply({"params": params, **others}, x, **apply_kwargs)
        except (errors.InvalidRngError, errors.ModifyScopeVariableError) as error:
            raise ValueError(
                f"a linen module must be in evaluation mode, got {type(error).__name__} from "
                f"{type(module).__name__}: pass its argument to from_linen (train=False or deterministic=True)"
            ) from error

    return apply, variables["params"]


def from_nnx(module: Any) -> tuple[Apply, PyTree]:
    """A Flax nnx module in evaluation mode; `params0` is the nested dict of its `nnx.Param` values.

    `module` itself is left as it is. Batch statistics, keys and other state are fixed. Raises ValueError when there
    is no `nnx.Param`.
    """
    from flax import nnx

    still = nnx.clone(module)
    still.eval()
    graph, params, rest = nnx.split(still, nnx.Param, ...)
    params0 = nnx.to_pure_dict(params)
    if not jax.tree.leaves(params0):
        raise ValueError(f"from_nnx needs a module with nnx.Param, got {type(module).__name__} without: build it first")

    def apply(params: PyTree, x: Array) -> Array:
        # The state is made anew in each call: nothing that the module writes is seen outside.
        state = jax.tree.map(lambda leaf: leaf, template)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state, rest, copy=True)(x)

    template = params
    return apply, params0


def from_equinox(module: Any, state: Any = None, *, filter_spec: Any = None) -> tuple[Apply, PyTree]:
    """An Equinox module of *one* example, batched, in inference mode; `params0` is the module with the rest None.

    `state` is the second result of `eqx.nn.make_with_state`, for a module called as `module(x, state)`; it is fixed.
    `filter_spec` says what is trained, as in `eqx.partition` (default: all floating-point arrays); name there
    the buffers and frozen layers of the module.
    """
    import equinox as eqx

    spec = eqx.is_inexact_array if filter_spec is None else filter_spec
    params0, static = eqx.partition(eqx.nn.inference_mode(module), spec)

    def apply(params: PyTree, x: Array) -> Array:
        one = eqx.combine(params, static)
        return jax.vmap(one if state is None else lambda example: one(example, state)[0])(x)

    return apply, params0
