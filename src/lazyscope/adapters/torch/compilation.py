"""How XLA compiles a program that is run once or twice: nearly all of its time is compilation."""

from functools import cache

import jax
import jax.numpy as jnp

# XLA's older emitters of fused loops take half the time, and the code is as fast.
_QUICK: dict[str, int | bool] = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}


@cache
def quickly() -> dict[str, int | bool]:
    """Those options of `jax.jit(..., compiler_options=)` that this version of XLA has."""
    return {name: value for name, value in _QUICK.items() if _is_known(name, value)}


def _is_known(name: str, value: int | bool) -> bool:
    try:
        jax.jit(jnp.negative, compiler_options={name: value}).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
