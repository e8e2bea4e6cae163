"""The random states that a training draws from, left as they were."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch  # pyright: ignore[reportMissingImports]


@contextmanager
def random_state_kept() -> Iterator[None]:
    """The random state of PyTorch, NumPy and Python is afterwards what it was before."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # the one that loaders draw from
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
