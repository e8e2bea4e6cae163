"""The laziness criterion of the two-layer ReLU net in closed form, over width and over the plane of tau and alpha.

h = Σ a_i relu(b_i·x) couples a_i with b_i alone, so that almost everywhere

    ‖D²h‖² = max_i λmax( Xᵀ diag(1[X b_i > 0]) X ) / n,

and D²h = 0 for what automatic differentiation does not see, the kinks. `lazyscope.criterion` finds the same number
matrix-free for any model; here it would cost thousands of products a cell.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import xarray as xr
from jaxtyping import Array, Float, Key, PyTree

from lazyscope.criterion import Ingredients
from lazyscope.models import Doubled
from lazyscope.papers.figure import Cell, Trials
from lazyscope.papers.stated_settings import TRAINING, Setting, unused
from lazyscope.papers.student import Protocol, from_both_starts, setup
from lazyscope.store import stored_as
from lazyscope.tangent import largest_eigenvalue


@dataclass(frozen=True)
class Plane:
    """Values of tau and alpha at which kappa is evaluated, over independent teachers, data and initialisations."""

    protocol: Protocol
    taus: tuple[float, ...]
    alphas: tuple[float, ...]


FULL = Protocol(n_test=1)
SMALL = replace(FULL, n=60, d=10, width=16)
STATED = (Setting("protocol.doubled", run="yes; no"), *unused("protocol", *TRAINING))  # of a figure over a `Plane`


def hessian_norm(params: PyTree, x: Float[Array, "n d"]) -> Float[Array, ""]:
    """‖D²h‖ of the two-layer ReLU net, plain or doubled, exactly (up to the kinks)."""
    b = jnp.concatenate([params.plus["b"], params.minus["b"]]) if isinstance(params, Doubled) else params["b"]

    def unit(weights: Array) -> Array:
        gated = jnp.where((x @ weights > 0)[:, None], x, 0)
        return jnp.linalg.eigvalsh(gated.T @ gated / x.shape[0])[-1]

    return jnp.sqrt(jnp.max(jax.lax.map(unit, b)))


def ingredients(key: Key[Array, ""], protocol: Protocol, *, tau: float | Array = 1.0) -> Ingredients:
    """Outputs, targets and norms of a trial, the weights multiplied by tau and nothing else."""
    model, params, problem = setup(key, protocol)
    params = jax.tree.map(lambda leaf: tau * leaf, params)
    return Ingredients(
        outputs=model.apply(params, problem.x),
        targets=problem.y,
        jacobian_norm=jnp.sqrt(largest_eigenvalue(model.apply, params, problem.x)),
        hessian_norm=hessian_norm(params, problem.x),
    )


@stored_as("lazyscope.papers.kappa_cells.over_width")
def over_width(
    key: Key[Array, ""], *, width: int, protocol: Protocol, exponents: tuple[float, ...], alphas: tuple[float, ...]
) -> dict[str, Array]:
    """Kappa at alpha(m) = m^-e for every exponent e, and at every alpha, raw and with the output centred.

    `kappa_unit` is `kappa` with targets of the teacher itself, not multiplied by the protocol's `target_scale`.
    """
    parts = ingredients(key, replace(protocol, width=width))
    centred = parts._replace(outputs=jnp.zeros_like(parts.outputs))
    unit = parts._replace(targets=parts.targets / protocol.target_scale)
    return {
        "kappa": jnp.stack([parts.kappa(float(width) ** -e) for e in exponents]),
        "kappa_unit": jnp.stack([unit.kappa(float(width) ** -e) for e in exponents]),
        "kappa_raw": jnp.stack([parts.kappa(a) for a in alphas]),
        "kappa_centred": jnp.stack([centred.kappa(a) for a in alphas]),
        "kappa_inf": parts.kappa_inf,
    }


OVER_WIDTH = Cell(
    over_width,
    2,
    {
        **dict.fromkeys(("kappa", "kappa_unit"), ("exponent",)),
        **dict.fromkeys(("kappa_raw", "kappa_centred"), ("alpha",)),
    },
    static=("width",),
)


@stored_as("lazyscope.papers.kappa_cells.over_plane")
def over_plane(key: Key[Array, ""], *, tau: Array, alphas: tuple[float, ...], protocol: Protocol) -> dict[str, Array]:
    """Kappa at every alpha for weights of scale tau, evaluated at those weights, without the scale law."""
    parts = ingredients(key, protocol, tau=tau)
    return {"kappa": jnp.stack([parts.kappa(a) for a in alphas]), "kappa_inf": parts.kappa_inf}


OVER_PLANE = Cell(over_plane, 1, {"kappa": ("alpha",)})


def kappa_from_both_starts(plane: Plane, trials: Trials) -> xr.Dataset:
    """Kappa at every tau, alpha and seed, plain (`kappa`, `kappa_inf`) and symmetrised (`symmetrised_*`)."""

    def run(protocol: Protocol) -> xr.Dataset:
        ds = trials.over(OVER_PLANE, {"tau": plane.taus}, alphas=plane.alphas, protocol=protocol)
        return ds.assign_coords(alpha=list(plane.alphas))

    return from_both_starts(run, plane.protocol)
