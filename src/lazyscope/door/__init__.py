"""The door: what comes in from a caller, and what goes out.

`entrance` is put before every public function that takes a model, weights or data, and before the functions that these
return. It decides what a parameter is (`leaves`), sees the model as the program that it is now (`program`), computes
under switches of its own (`switches`), and says in one line what cannot be differentiated (`modes`). `checks` looks
once at each model for what a function relies on.
"""

from lazyscope.door.checks import check_derivative, check_examples
from lazyscope.door.entrance import as_key, entrance
from lazyscope.door.leaves import (
    Fixed,
    as_came,
    as_type,
    callable_of,
    concrete,
    sealed,
    types,
    unsealed,
    without_scalars,
)
from lazyscope.door.modes import linearized, pushed
from lazyscope.door.outputs import checked_outputs, real, real_outputs
from lazyscope.door.program import Program, outputs_of, program
from lazyscope.door.switches import our_switches

__all__ = [
    "Fixed",
    "Program",
    "as_came",
    "as_key",
    "as_type",
    "callable_of",
    "check_derivative",
    "check_examples",
    "checked_outputs",
    "concrete",
    "entrance",
    "linearized",
    "our_switches",
    "outputs_of",
    "program",
    "pushed",
    "real",
    "real_outputs",
    "sealed",
    "types",
    "unsealed",
    "without_scalars",
]
