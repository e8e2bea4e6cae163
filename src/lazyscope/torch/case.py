"""A PyTorch model with what it is diagnosed on, for the command line."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from torch import nn  # pyright: ignore[reportMissingImports]

from lazyscope import problems
from lazyscope.adapters.torch.outputs import Output
from lazyscope.diagnose import Diagnosis
from lazyscope.groups import Groups
from lazyscope.progress import Progress, heard
from lazyscope.torch.judging import EXAMPLES, diagnose
from lazyscope.torch.loader import Targets
from lazyscope.torch.preparing import ready, taken
from lazyscope.torch.random_state import random_state_kept


@dataclass(frozen=True)
class Case:
    """A module at its start with its batches, and what else `lst.diagnose` takes under these names.

    `lazyscope diagnose FILE.py:OBJECT`, and what else names a case, takes one, or a function that returns one.
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

    def in_jax(self, progress: Progress | None = None) -> problems.Case:
        """The module at its start and its problem as a `lazyscope.Case`, for descent of ours at any output scale.

        Buffers are those of the start. Raises ValueError where `train` or `trained` is set, of which JAX knows nothing,
        and as `lst.diagnose` does; a module of float64 needs 64-bit JAX.
        """
        for name, instead in (("train", "our descent trains then"), ("trained", "weights are named by --after FILE")):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"this needs a case without a {name}= of PyTorch's, got one: name dataclasses.replace(case, "
                    f"{name}=None), {instead}"
                )
        with random_state_kept():
            given = taken(self.model, self.batches, self.held_out, self.examples, self.targets, self.dtype)
            it = ready(*given, self.loss, self.output, heard(progress))
        return problems.Case(it.model_of(), it.params0, it.problem)
