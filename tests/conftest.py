"""Strict numerics for every test: float64, no silent promotion of types or ranks, two local devices."""

import os
from collections.abc import Iterator

os.environ.setdefault("NPROC", "1")
os.environ["LAZYSCOPE_CACHE"] = "off"  # the user's own folder is none of the tests' business
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of PyTorch: several workers share the cores

import hypothesis
import jax
import pytest

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compilation makes single examples slow, so a deadline would only test the machine.
hypothesis.settings.register_profile("lazyscope", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("lazyscope")


@pytest.fixture(autouse=True, scope="module")
def _forget_programs() -> Iterator[None]:
    """Compiled programs of a module end with it: thousands of them exhaust the memory maps that a process may have."""
    yield
    jax.clear_caches()


def pytest_configure(config: pytest.Config) -> None:
    """Tests compile at the lowest level: their time is nearly all compilation. Optimised ones run what users run."""
    if config.option.markexpr != "optimised":
        flags = os.environ.get("XLA_FLAGS", "")
        if "xla_backend_optimization_level" not in flags:
            flags += " --xla_backend_optimization_level=0"
            if jax.__version_info__[:2] == (0, 10):  # XLA ends a process whose flags it does not know
                flags += " --xla_cpu_use_fusion_emitters=false"  # half the time
            os.environ["XLA_FLAGS"] = flags.strip()


@pytest.fixture
def half_precision():
    """An `Accelerator` in bfloat16; accelerate has one state a process, which others' trainers have set."""
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    yield accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
