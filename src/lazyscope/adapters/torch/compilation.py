"""How XLA compiles a program that is run once or twice: nearly all of its time is compilation."""


def quickly() -> dict[str, int | bool]:
    """`compiler_options` of `jax.jit`: the lowest level.

    Without `xla_cpu_use_fusion_emitters` shallow nets take half of it, but time and memory grow faster than the depth:
    12 layers of attention took 7 GB and did not end.
    """
    return {"xla_backend_optimization_level": 0}
