"""How far norms are searched: a number of products, how it is shared out, and what is spent."""

from dataclasses import dataclass
from typing import NamedTuple

from lazyscope.progress import Progress, silent

PRODUCTS = "kappa, products"


class Budget(NamedTuple):
    """How far the norms are searched, in products.

    `products` caps all that `criterion` spends on the two norms together; the rest says how it is shared out.
    """

    products: int  # no ascent starts that would pass this many
    jacobian_steps: int  # Lanczos steps for ‖Dh‖, two products each, repeated while unconverged
    kernel_starts: int  # ascents from the top left singular vectors of Dh
    probes: (
        int  # random H_z v: coordinate energies and the Frobenius norm; 0: no slices, no upper bound for large models
    )
    coordinates: int  # slices B(e_j, ·) through the coordinates of most energy ...
    keep: int  # ... of which so many are continued and climbed from
    random_starts: int
    climb_steps: int  # Lanczos steps of one climb
    dense: int = 2**22  # numbers that D²h may hold for the dense upper bound


QUICK = Budget(
    products=36,
    jacobian_steps=8,
    kernel_starts=1,
    probes=0,
    coordinates=0,
    keep=0,
    random_starts=0,
    climb_steps=6,
    dense=0,
)
DEFAULT = Budget(
    products=2000,
    jacobian_steps=24,
    kernel_starts=4,
    probes=16,
    coordinates=64,
    keep=8,
    random_starts=4,
    climb_steps=15,
)
THOROUGH = Budget(
    products=20000,
    jacobian_steps=40,
    kernel_starts=16,
    probes=64,
    coordinates=512,
    keep=32,
    random_starts=64,
    climb_steps=20,
)


@dataclass
class Counter:
    """Products spent so far against the most allowed."""

    most: int
    spent: int
    report: Progress = silent

    @property
    def left(self) -> int:
        """Products that may still be spent."""
        return max(self.most - self.spent, 0)

    def add(self, products: int) -> None:
        """Count products as spent."""
        self.spent += products
        self.report(min(self.spent, self.most), self.most, PRODUCTS)

    def allows(self, products: int) -> bool:
        """Whether so many more may be spent."""
        return self.spent + products <= self.most
