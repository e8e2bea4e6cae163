"""The model's linearisation in its parameters, and a different thing that is easily taken for it.

Taylor: h̄(w) = h(w0) + Dh(w0)(w − w0) (Chizat et al. 2019, eq. 2; note §1.1).
Frozen activations: the current weights run through the activation pattern of w0 (what the code of Chizat et al. 2019
calls "lazy" accuracy); multilinear in w, so not the Taylor model for more than one layer.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from lazyscope import tree
from lazyscope.door import as_type, entrance, pushed, real, unsealed
from lazyscope.examples import Batch
from lazyscope.models import Apply, Model


@entrance
def linearize(apply: Apply, params0: PyTree) -> Apply:
    """First-order Taylor model of `apply` at `params0`, same signature: keywords are handed on to it.

    h̄(params, x) = h(params0, x) + Dh(params0)[params − params0](x), by one forward-mode product. Leaves that are not
    parameters are taken from `params0`, of which a copy is kept.
    """
    start = tree.copy(params0)
    tree.split(start)

    @entrance
    def apply_lin(params: PyTree, x: Batch, **options: Any) -> Array:
        theta, _ = tree.split(params)
        theta0, merge = tree.split(start)
        widest = jnp.result_type(*theta, *theta0)
        theta, theta0 = as_type(theta, widest), as_type(theta0, widest)
        outputs, change = pushed(
            lambda th: real(apply(unsealed(merge(th)), x, **options)), theta0, tree.sub(theta, theta0)
        )
        return outputs + change

    return apply_lin


@entrance
def freeze_activations(model: Model, params0: PyTree) -> Apply:
    """The model with the activation pattern of `params0` and the current weights, same signature as `model.apply`.

    Equal to the model at `params0`; away from it neither the model nor its linearisation. Raises ValueError when the
    model has no `gates`.
    """
    if model.gates is None:
        raise ValueError("freeze_activations needs a model with gates, got gates=None: only ReLU-like models have them")
    gates, start = model.gates, tree.copy(params0)

    @entrance
    def apply_frozen(params: PyTree, x: Batch) -> Array:
        return model.apply(unsealed(params), x, gates=gates(unsealed(start), x))

    return apply_frozen
