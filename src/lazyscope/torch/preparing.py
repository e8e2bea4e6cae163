"""What is judged of a PyTorch module: its examples, its conversion and the loss that is meant, as a problem."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from jaxtyping import Array
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.utils import _pytree  # pyright: ignore[reportMissingImports]

from lazyscope.adapters.torch.conversion import from_torch
from lazyscope.adapters.torch.converted import Converted
from lazyscope.adapters.torch.outputs import Choice, Output
from lazyscope.adapters.torch.preserving import evaluation
from lazyscope.models import Apply
from lazyscope.problems import Problem
from lazyscope.progress import Progress
from lazyscope.torch.loader import Examples, Targets, alike, examples_of
from lazyscope.torch.losses import Found, loss_of, own_loss
from lazyscope.torch.padding import Counts, WithoutPadding, padding
from lazyscope.torch.random_state import random_state_kept
from lazyscope.torch.weights import copied, unwrapped

_FEW = 4  # examples that the module itself is called on


class Ready(NamedTuple):
    """A converted module with the problem that it is judged on; `words` say what was taken."""

    apply: Converted
    params0: dict[str, Array]
    problem: Problem
    words: str
    counts: Counts | None

    def model_of(self, buffers: Iterable[str] = ()) -> Apply:
        """The model, with these buffers taken from its parameters, without what it gives at padding."""
        made = self.apply.given(buffers)
        return made if self.counts is None else WithoutPadding(made, self.counts)


def taken(
    model: Any, batches: Any, held_out: Any, examples: int, targets: Targets, dtype: Any
) -> tuple[nn.Module, Examples, Examples | None]:
    """The module, in another type with `dtype`, and its examples, those that are held out last."""
    model = unwrapped(model)
    model = model if dtype is None else _cast(model, dtype)
    with random_state_kept():  # the user's training starts from it
        data = examples_of("batches", batches, model, examples, targets)
        rest = None if held_out is None else examples_of("held_out", held_out, model, examples, targets)
    data, rest = alike(data, rest, model)
    if dtype is not None:
        data, rest = _real_inputs(data, model), None if rest is None else _real_inputs(rest, model)
    return model, data, rest


def ready(
    model: nn.Module,
    data: Examples,
    rest: Examples | None,
    loss: str | Callable[..., Any] | None,
    output: Output,
    report: Progress,
) -> Ready:
    """Convert the module, and find the loss that is meant."""
    few, choice = few_of(data, model), Choice(output, type(model).__name__)
    apply, params0 = from_torch(model, few, output=output, progress=report)
    meant = _loss(model, data, few, apply, params0, loss, choice)
    parts = [(apply.taken.batch(apply.taken.leaves(one.inputs)), meant.targets(_real(one.targets, model)))
             for one in (data, rest) if one is not None]  # fmt: skip
    problem = Problem(*(part for pair in parts for part in pair), loss=meant.loss)
    used = f"{data.said} training" + ("" if rest is None else f" and {rest.said} held-out")
    words = f"{apply.described}; loss: {meant.said}; {used} examples"
    counts = padding(problem, apply.shape)
    words += "" if counts is None else "; padding left out"
    problem.check_labels(jax.ShapeDtypeStruct((data.number, *apply.shape), float))  # before the user's training
    return Ready(apply, params0, problem, words, counts)


def few_of(data: Examples, model: nn.Module) -> Any:
    """A batch of a few examples, where the module is."""
    device = next(model.parameters()).device
    rows = _few(data)
    return _pytree.tree_map(lambda leaf: leaf[rows].to(device) if isinstance(leaf, torch.Tensor) else leaf, data.inputs)


def _few(data: Examples) -> list[int]:
    """Rows from the first to the last: data may be sorted."""
    return sorted({round(row) for row in np.linspace(0, data.number - 1, _FEW)})


def _loss(
    model: nn.Module,
    data: Examples,
    few: Any,
    apply: Converted,
    params0: dict[str, Array],
    loss: str | Callable[..., Any] | None,
    choice: Choice,
) -> Found:
    own = outputs = None
    if loss is None:
        with evaluation(model):
            own, outputs = own_loss(model, few, data.key, choice)
    f = torch.from_numpy(np.array(apply(params0, few)))
    targets = _real(data.targets, model)
    return loss_of(loss, own, f, targets[_few(data)], f if outputs is None else outputs, targets)


def _real(values: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """Real numbers in the model's type."""
    return values.to(next(model.parameters()).dtype) if values.is_floating_point() else values


def _cast(model: nn.Module, dtype: Any) -> nn.Module:
    name = str(dtype).removeprefix("torch.")
    if name not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, got {name}: derivatives need that many digits")
    return copied(model).to(getattr(torch, name))


def _real_inputs(data: Examples, model: nn.Module) -> Examples:
    cast = _pytree.tree_map(lambda leaf: _real(leaf, model) if isinstance(leaf, torch.Tensor) else leaf, data.inputs)
    return data._replace(inputs=cast)
