"""Laziness in PyTorch's terms: `import lazyscope.torch as lst`. Imports torch, so `import lazyscope` does not.

`Callback` needs transformers and `LightningCallback` Lightning; either is imported when the name is first used.
"""

from typing import TYPE_CHECKING, Any

from lazyscope.diagnose import Diagnosis
from lazyscope.torch.case import Case
from lazyscope.torch.first_order import linearize
from lazyscope.torch.judging import diagnose
from lazyscope.torch.monitoring import Monitor

if TYPE_CHECKING:
    from lazyscope.torch.lightning import LightningCallback
    from lazyscope.torch.trainer import Callback

__all__ = ["Callback", "Case", "Diagnosis", "LightningCallback", "Monitor", "diagnose", "linearize"]


def __getattr__(name: str) -> Any:
    if name == "Callback":
        from lazyscope.torch.trainer import Callback

        return Callback
    if name == "LightningCallback":
        from lazyscope.torch.lightning import LightningCallback

        return LightningCallback
    raise AttributeError(f"module 'lazyscope.torch' has no attribute {name!r}")
