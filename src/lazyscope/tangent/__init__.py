"""The tangent kernel K = Dh Dhᵀ on a batch: dense, blocked, as products (Jacot et al. 2018; Chizat et al. 2019, §2.1).

K has no 1/n; the operator Σ of the theorems, in the function space of `docs/notation.md`, is K/n. For square loss a
step η of descent on F_alpha moves the outputs alpha·h by −η (K/n)(alpha·h − y), whatever alpha: hence η·λmax(K)/n < 2.

Every function here differentiates example by example where it needs derivatives themselves, so `apply` must treat
examples independently.
"""

from lazyscope.tangent.infinite_width import infinite_width_kernel
from lazyscope.tangent.kernels import (
    MEMORY_BUDGET,
    blocked_tangent_kernel,
    diagonal_kernel,
    group_kernel_examples,
    group_kernels,
    jacobian,
    tangent_kernel,
    traced_kernel,
)
from lazyscope.tangent.products import (
    derivative_unit,
    kernel_product,
    largest_eigenvalue,
    largest_eigenvalue_in_units,
    representable,
    start_vector,
)
from lazyscope.tangent.spectrum import Spectrum, as_matrix, spectrum

__all__ = [
    "MEMORY_BUDGET",
    "Spectrum",
    "as_matrix",
    "blocked_tangent_kernel",
    "derivative_unit",
    "diagonal_kernel",
    "group_kernel_examples",
    "group_kernels",
    "infinite_width_kernel",
    "jacobian",
    "kernel_product",
    "largest_eigenvalue",
    "largest_eigenvalue_in_units",
    "representable",
    "spectrum",
    "start_vector",
    "tangent_kernel",
    "traced_kernel",
]
