"""PyTorch modules as pure JAX functions, with derivatives of every order."""

from lazyscope.adapters.torch.conversion import from_exported, from_torch

__all__ = ["from_exported", "from_torch"]
