"""Models and weights from elsewhere, as `(apply, params0)`.

Flax linen, Flax nnx, Equinox and PyTorch modules, each in evaluation mode: dropout off, running statistics fixed. What
is not trained (batch statistics, buffers, random keys, integer state) is set aside at conversion; a weight used
twice is one leaf. The libraries are imported when a function is called; lazyscope needs none of them.
"""

from lazyscope.adapters.checkpoint import load_checkpoint
from lazyscope.adapters.modules import from_equinox, from_linen, from_nnx
from lazyscope.adapters.torch import from_exported, from_torch

__all__ = ["from_equinox", "from_exported", "from_linen", "from_nnx", "from_torch", "load_checkpoint"]
