"""A PyTorch model with what it is diagnosed on, for the command line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from torch import nn  # pyright: ignore[reportMissingImports]

from lazyscope.adapters.torch.outputs import Output
from lazyscope.diagnose import Diagnosis
from lazyscope.groups import Groups
from lazyscope.torch.judging import EXAMPLES, diagnose
from lazyscope.torch.loader import Targets


@dataclass(frozen=True)
class Case:
    """A module at its start with its batches, and what else `lst.diagnose` takes under these names.

    `lazyscope diagnose FILE.py:OBJECT` takes one, or a function that returns one.
    """

    model: nn.Module
    batches: Any
    held_out: Any = None
    trained: str | PathLike[str] | Mapping[str, Any] | nn.Module | None = None
    train: Callable[[Any], Any] | None = None
    loss: str | Callable[..., Any] | None = None
    targets: Targets = None
    output: Output = None
    groups: Groups = None
    examples: int = EXAMPLES
    dtype: Any = None

    def diagnose(self, **options: Any) -> Diagnosis:
        """What `lst.diagnose` says of it; `options` go before its own."""
        return diagnose(**(vars(self) | options))
