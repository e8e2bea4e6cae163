"""The random states that a training draws from, left as they were."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch  # pyright: ignore[reportMissingImports]


@contextmanager
def random_state_kept() -> Iterator[None]:
    """The random state of PyTorch, NumPy and Python is afterwards what it was before."""
    restore = random_state()
    try:
        yield
    finally:
        restore()


def random_state() -> Callable[[], None]:
    """What brings the random states of now back."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002  # of loaders
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore() -> None:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)

    return restore
