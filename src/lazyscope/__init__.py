"""lazyscope: how lazily a differentiable model trains.

Names are resolved when first used, so that `lazyscope --help` needs no JAX.
"""

import sys
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lazyscope import adapters as adapters
    from lazyscope import executors as executors
    from lazyscope import landscape as landscape
    from lazyscope import vision as vision
    from lazyscope.criterion import Budget as Budget
    from lazyscope.criterion import Criterion as Criterion
    from lazyscope.criterion import Estimate as Estimate
    from lazyscope.criterion import Ingredients as Ingredients
    from lazyscope.criterion import criterion as criterion
    from lazyscope.criterion import ingredients as ingredients
    from lazyscope.diagnose import Crossover as Crossover
    from lazyscope.diagnose import Diagnosis as Diagnosis
    from lazyscope.diagnose import GroupRow as GroupRow
    from lazyscope.diagnose import Recommendation as Recommendation
    from lazyscope.diagnose import Scale as Scale
    from lazyscope.diagnose import Thresholds as Thresholds
    from lazyscope.diagnose import crossover as crossover
    from lazyscope.diagnose import diagnose as diagnose
    from lazyscope.diagnose import monitor as monitor
    from lazyscope.differential import DifferentialChange as DifferentialChange
    from lazyscope.differential import GroupChange as GroupChange
    from lazyscope.differential import differential_change as differential_change
    from lazyscope.differential import partial_gap as partial_gap
    from lazyscope.dynamics import EarlyStop as EarlyStop
    from lazyscope.dynamics import Integration as Integration
    from lazyscope.dynamics import Resolution as Resolution
    from lazyscope.dynamics import Run as Run
    from lazyscope.dynamics import Status as Status
    from lazyscope.dynamics import centred_training as centred_training
    from lazyscope.dynamics import gradient_descent as gradient_descent
    from lazyscope.dynamics import gradient_flow as gradient_flow
    from lazyscope.dynamics import kernel_flow as kernel_flow
    from lazyscope.dynamics import linearized_descent as linearized_descent
    from lazyscope.dynamics import minibatches as minibatches
    from lazyscope.dynamics import sgd as sgd
    from lazyscope.intervals import Interval as Interval
    from lazyscope.linearize import freeze_activations as freeze_activations
    from lazyscope.linearize import linearize as linearize
    from lazyscope.measures import Grouped as Grouped
    from lazyscope.measures import Movement as Movement
    from lazyscope.measures import activation_stability as activation_stability
    from lazyscope.measures import cka as cka
    from lazyscope.measures import distance as distance
    from lazyscope.measures import kernel_change as kernel_change
    from lazyscope.measures import kernel_distance as kernel_distance
    from lazyscope.measures import linearization_gap as linearization_gap
    from lazyscope.measures import relative_change as relative_change
    from lazyscope.measures import stable_rank as stable_rank
    from lazyscope.measures import target_alignment as target_alignment
    from lazyscope.measures import trained_gap as trained_gap
    from lazyscope.models import Doubled as Doubled
    from lazyscope.models import Model as Model
    from lazyscope.models import center as center
    from lazyscope.models import double as double
    from lazyscope.models import mlp as mlp
    from lazyscope.models import two_layer as two_layer
    from lazyscope.models import two_layer_linear as two_layer_linear
    from lazyscope.problems import Case as Case
    from lazyscope.problems import Problem as Problem
    from lazyscope.problems import cross_entropy as cross_entropy
    from lazyscope.problems import square_loss as square_loss
    from lazyscope.problems import teacher_student as teacher_student
    from lazyscope.problems import token_cross_entropy as token_cross_entropy
    from lazyscope.scaling import alpha_for as alpha_for
    from lazyscope.scaling import collapse as collapse
    from lazyscope.scaling import distinct_runs as distinct_runs
    from lazyscope.scaling import kernel_time as kernel_time
    from lazyscope.scaling import stable_step_size as stable_step_size
    from lazyscope.store import Store as Store
    from lazyscope.store import StoreError as StoreError
    from lazyscope.sweep import FailedCellsError as FailedCellsError
    from lazyscope.sweep import sweep as sweep
    from lazyscope.tangent import Spectrum as Spectrum
    from lazyscope.tangent import blocked_tangent_kernel as blocked_tangent_kernel
    from lazyscope.tangent import diagonal_kernel as diagonal_kernel
    from lazyscope.tangent import group_kernels as group_kernels
    from lazyscope.tangent import infinite_width_kernel as infinite_width_kernel
    from lazyscope.tangent import kernel_product as kernel_product
    from lazyscope.tangent import spectrum as spectrum
    from lazyscope.tangent import tangent_kernel as tangent_kernel
    from lazyscope.tangent import traced_kernel as traced_kernel

_HOMES = {
    "Budget": "criterion",
    "Case": "problems",
    "Criterion": "criterion",
    "Crossover": "diagnose",
    "Diagnosis": "diagnose",
    "DifferentialChange": "differential",
    "Doubled": "models",
    "EarlyStop": "dynamics",
    "Estimate": "criterion",
    "FailedCellsError": "sweep",
    "GroupChange": "differential",
    "GroupRow": "diagnose",
    "Grouped": "measures",
    "Ingredients": "criterion",
    "Integration": "dynamics",
    "Interval": "intervals",
    "Model": "models",
    "Movement": "measures",
    "Problem": "problems",
    "Recommendation": "diagnose",
    "Resolution": "dynamics",
    "Run": "dynamics",
    "Scale": "diagnose",
    "Spectrum": "tangent",
    "Status": "dynamics",
    "Store": "store",
    "StoreError": "store",
    "Thresholds": "diagnose",
    "activation_stability": "measures",
    "alpha_for": "scaling",
    "blocked_tangent_kernel": "tangent",
    "center": "models",
    "centred_training": "dynamics",
    "cka": "measures",
    "collapse": "scaling",
    "criterion": "criterion",
    "cross_entropy": "problems",
    "crossover": "diagnose",
    "diagnose": "diagnose",
    "diagonal_kernel": "tangent",
    "differential_change": "differential",
    "distance": "measures",
    "distinct_runs": "scaling",
    "double": "models",
    "freeze_activations": "linearize",
    "gradient_descent": "dynamics",
    "gradient_flow": "dynamics",
    "group_kernels": "tangent",
    "infinite_width_kernel": "tangent",
    "ingredients": "criterion",
    "kernel_change": "measures",
    "kernel_distance": "measures",
    "kernel_flow": "dynamics",
    "kernel_product": "tangent",
    "kernel_time": "scaling",
    "linearization_gap": "measures",
    "linearize": "linearize",
    "linearized_descent": "dynamics",
    "minibatches": "dynamics",
    "mlp": "models",
    "monitor": "diagnose",
    "partial_gap": "differential",
    "relative_change": "measures",
    "sgd": "dynamics",
    "spectrum": "tangent",
    "square_loss": "problems",
    "stable_rank": "measures",
    "stable_step_size": "scaling",
    "sweep": "sweep",
    "tangent_kernel": "tangent",
    "target_alignment": "measures",
    "teacher_student": "problems",
    "token_cross_entropy": "problems",
    "traced_kernel": "tangent",
    "trained_gap": "measures",
    "two_layer": "models",
    "two_layer_linear": "models",
}

_MODULES = ("adapters", "executors", "landscape", "vision")  # public as modules: `lazyscope.adapters.from_torch`

__version__ = version("lazyscope")
__all__ = [*_HOMES, *_MODULES, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"lazyscope.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'lazyscope' has no attribute {name!r}")
    return getattr(import_module(f"lazyscope.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps `lazyscope.sweep` the function once the module of that name is imported, which would take its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
