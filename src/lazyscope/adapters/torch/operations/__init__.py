"""What each ATen operation of an exported PyTorch graph means, in jax.numpy.

One table a file, operation name -> function of arrays and Python values, for the core operations that
`torch.export` leaves after its decompositions, and in `composites` for some that it decomposes. Only what the
derivative of a model in evaluation mode needs: the value in PyTorch's convention, and PyTorch's choice of derivative at
kinks and ties, because a zero-initialised layer sits exactly on one. No function here looks at types: the interpreter
casts to the type that the graph states.
"""

from collections.abc import Callable
from typing import Any

from lazyscope.adapters.torch.operations import (
    activations,
    algebra,
    complexes,
    composites,
    control,
    convolutions,
    elementwise,
    losses,
    normalization,
    ordering,
    pooling,
    products,
    reductions,
    resizing,
    sampling,
    scattering,
    shapes,
    special,
)

KINDS: dict[str, dict[str, Callable[..., Any]]] = {
    kind.__name__.rpartition(".")[2]: kind.OPERATIONS
    for kind in (
        activations,
        algebra,
        complexes,
        composites,
        control,
        convolutions,
        elementwise,
        losses,
        normalization,
        ordering,
        pooling,
        products,
        reductions,
        resizing,
        sampling,
        scattering,
        shapes,
        special,
    )
}
OPERATIONS: dict[str, Callable[..., Any]] = {name: rule for kind in KINDS.values() for name, rule in kind.items()}
