"""Strict numerics for every test: float64, no silent promotion of types or ranks, two local devices."""

import os

os.environ.setdefault("NPROC", "1")

import hypothesis
import jax

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compilation makes single examples slow, so a deadline would only test the machine.
hypothesis.settings.register_profile("lazyscope", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("lazyscope")
