"""The laziness criterion kappa and the operator norms it needs, matrix-free (note, §1.1; Chizat et al. 2019, §1.2).

    kappa = ‖αh(w0) − y‖ ‖D²h(w0)‖ / (α ‖Dh(w0)‖²)

in the function space of `docs/notation.md`. `jacobian` and `hessian` search ‖Dh‖ and ‖D²h‖, `bounds` limits ‖D²h‖ from
above, `kappa` puts them together; `ingredients` is all this in little, as one program that can be jitted; `one_step`
and `subsampling` measure what a step and a subset of examples change.
Automatic differentiation drops the kinks of ReLU: its second derivative is the one almost everywhere, so kappa counts
the coupling between layers and not the gates that flip.
"""

from lazyscope.criterion.bounds import UpperBound, dense_bound, frobenius_bound
from lazyscope.criterion.budget import DEFAULT, QUICK, THOROUGH, Budget
from lazyscope.criterion.estimate import Estimate, Search
from lazyscope.criterion.hessian import hessian_norm
from lazyscope.criterion.ingredients import Ingredients, ingredients
from lazyscope.criterion.jacobian import jacobian_norm
from lazyscope.criterion.kappa import Criterion, criterion, default_budget
from lazyscope.criterion.one_step import OneStep
from lazyscope.criterion.precision import check_precision
from lazyscope.criterion.start import check_outputs
from lazyscope.criterion.subsampling import Subsampling

__all__ = [
    "DEFAULT",
    "QUICK",
    "THOROUGH",
    "Budget",
    "Criterion",
    "Estimate",
    "Ingredients",
    "OneStep",
    "Search",
    "Subsampling",
    "UpperBound",
    "check_outputs",
    "check_precision",
    "criterion",
    "default_budget",
    "dense_bound",
    "frobenius_bound",
    "hessian_norm",
    "ingredients",
    "jacobian_norm",
]
