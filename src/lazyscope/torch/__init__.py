"""Laziness in PyTorch's terms: `import lazyscope.torch as lst`. Imports torch, so `import lazyscope` does not."""

from lazyscope.diagnose import Diagnosis
from lazyscope.torch.case import Case
from lazyscope.torch.first_order import linearize
from lazyscope.torch.judging import diagnose

__all__ = ["Case", "Diagnosis", "diagnose", "linearize"]
