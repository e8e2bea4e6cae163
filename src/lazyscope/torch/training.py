"""The user's own training, of the model and of its linearisation, under one random state."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch  # pyright: ignore[reportMissingImports]

from lazyscope.progress import Progress, silent
from lazyscope.torch.first_order import linearize
from lazyscope.torch.random_state import random_state_kept
from lazyscope.torch.weights import copied

_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")  # of a tensor; a copy has none


class Ends(NamedTuple):
    """The trained model and the trained linearisation; how, in words."""

    module: Any
    linear: Any
    how: str


def trained_twice(model: Any, train: Callable[[Any], Any], report: Progress = silent) -> Ends:
    """`train` on a copy of the model and on its linearisation, each from the present random state.

    ValueError where it leaves the module that it is given as it was, and where a copy would lose hooks of its weights.
    """
    if any(getattr(p, hooks, None) for p in model.parameters() for hooks in _HOOKS):
        raise ValueError("hooks on the gradient of a weight must be set within train(module), got one set before it")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        linear = linearize(model)
    said = [str(one.message) for one in caught]
    module = copied(model)
    for done, (one, name) in enumerate(((module, "the model"), (linear, "its linearisation"))):
        report(done, 2, "your training, runs")
        before = [parameter.detach().clone() for parameter in one.parameters()]
        with random_state_kept(), one.register_forward_hook(_no_loss_alone):
            train(one)
        if all(torch.equal(a, b) for a, b in zip(before, one.parameters(), strict=True)):
            raise ValueError(
                f"train must train the module that it is given, in place, got {name} with its weights as they were: "
                "build optimizer and loader within train(module)"
            )
    report(2, 2, "your training, runs")
    how = "; ".join(["your training, of the model and of its linearisation", *said])
    return Ends(module, linear, how)


def _no_loss_alone(module: torch.nn.Module, _: Any, found: Any) -> None:
    if isinstance(found, torch.Tensor) and not found.ndim and torch.is_grad_enabled():
        raise ValueError(
            f"{type(module).__name__} must return its outputs when it is trained, beside its loss or alone, got the "
            "loss alone, of which no linearisation in the outputs can be had: compute it outside of the model"
        )
