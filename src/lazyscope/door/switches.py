"""The switches of JAX under which numbers are computed, whatever the caller has set them to."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def our_switches() -> Iterator[None]:
    """Products in the full precision of their type; no debugging switch that stops at a NaN or at a constant.

    Some devices round the operands of float32 products to 10 bits unless they are told not to, which a difference of
    two models does not survive. NaN stands for "not evaluated" in recorded losses and is looked for where it counts.
    """
    with (
        jax.default_matmul_precision("highest"),
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.transfer_guard("allow"),
    ):
        yield
