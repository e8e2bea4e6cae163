"""The one rule of what a float type can carry: alpha·h must not drown what it is compared with in its rounding."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyscope import tree

ROUNDINGS, SHARE = 10, 0.1


def drowned(size: Any, least: Any, dtype: Any) -> Any:
    """Whether `ROUNDINGS` roundings of outputs of norm `size` exceed a `SHARE` of the norm `least`."""
    return ROUNDINGS * float(jnp.finfo(dtype).eps) * size > SHARE * least


def check_precision(outputs: Array, y: Array, alpha: float) -> None:
    """Refuse float32 where alpha·h drowns the residual ‖αh − y‖ or the targets."""
    if outputs.dtype == jnp.float64:
        return
    f, target = alpha * np.asarray(outputs, float), np.asarray(y, float)
    scales = [tree.host_norm(f - target)] + ([tree.host_norm(target)] if np.any(target) else [])
    if drowned(tree.host_norm(f), min(scales), outputs.dtype):
        root = math.sqrt(f.shape[0])
        rounding = float(jnp.finfo(outputs.dtype).eps) * tree.host_norm(f)
        raise ValueError(
            f"{outputs.dtype} must round alpha·h far below the residual and the targets, got eps·‖αh‖ = "
            f"{rounding / root:.2g} against {min(scales) / root:.2g} at alpha = {alpha:g}: "
            'add `jax.config.update("jax_enable_x64", True)` and pass float64 parameters, or use ls.center'
        )
