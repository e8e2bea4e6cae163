"""Laziness in PyTorch's terms: `import lazyscope.torch as lst`. Imports torch, so `import lazyscope` does not."""

from lazyscope.torch.first_order import linearize
from lazyscope.torch.judging import diagnose

__all__ = ["diagnose", "linearize"]
