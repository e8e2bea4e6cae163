"""Control flow; a branch is a function of the operands that returns a list."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array


def _cond(predicate: Array, yes: Callable[..., Any], no: Callable[..., Any], operands: Sequence[Array] = ()) -> Any:
    return jax.lax.cond(predicate.reshape(()), yes, no, *operands)


OPERATIONS: dict[str, Callable[..., Any]] = {"cond": _cond}
