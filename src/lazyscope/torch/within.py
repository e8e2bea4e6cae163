"""Losses that a model computes within itself: of its linearised outputs, wherever in its forward pass these are.

They are lifted to first order where a loss of `torch.nn.functional` takes them, or as submodules give them. Which of
these is right is tried, once, at weights that moved: the loss must depend on the weights through what was lifted alone,
and the outputs must be those without.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]
from torch.overrides import TorchFunctionMode  # pyright: ignore[reportMissingImports]
from torch.utils import _pytree  # pyright: ignore[reportMissingImports]

from lazyscope.torch.directional import Pass, is_weight
from lazyscope.torch.structures import tensors_mapped, tensors_of

LOSS = "the loss"  # a place that is no submodule
_LOSSES = frozenset(
    function
    for name, function in vars(nn.functional).items()
    if name.endswith("_loss") or "cross_entropy" in name or name == "kl_div"
)
_SOME = 50  # entries by which a tensor is found in another
_MOVE = 0.1  # of a weight's size
_TOLERANCE, _COARSE = {torch.float64: 1e-8, torch.float32: 1e-3}, 0.05  # of outputs, at those weights


class Beside(NamedTuple):
    """What a call gives where a loss is among it: the tensors with axes, and the losses."""

    outputs: list[Tensor]
    losses: list[Tensor]

    def is_of_lifted(self, taken: Pass) -> bool:
        """Whether the losses depend on the weights through what was lifted alone."""
        return not any(taken.rests(loss) for loss in self.losses)


def beside_a_loss(found: Any, taken: Pass) -> Beside | None:
    """The outputs and the loss of that name, or numbers beside one tensor with axes, as in `(logits, loss)`."""
    outputs = with_axes(found)
    loss = found.get("loss") if isinstance(found, dict) else getattr(found, "loss", None)
    if isinstance(loss, Tensor):
        return Beside(outputs, [loss]) if taken.varies(loss) else None
    numbers = [leaf for leaf in _real(found) if not leaf.ndim and taken.varies(leaf)]
    return Beside(outputs, numbers) if numbers and len(outputs) == 1 else None


def with_axes(found: Any) -> list[Tensor]:
    """All real tensors of a value but numbers."""
    return [leaf for leaf in _real(found) if leaf.ndim]


@contextmanager
def lifted_at(base: nn.Module, places: Sequence[str], taken: Pass) -> Iterator[None]:
    """Within it, what these places give, or losses take, is linearised."""

    def hook(*call: Any) -> Any:
        return tensors_mapped(taken.lifted, call[-1])

    with ExitStack() as stack:
        for place in places:
            if place == LOSS:
                stack.enter_context(_Inputs(lambda t: taken.lifted([t])[0] if taken.varies(t) else t))
            else:
                stack.enter_context(base.get_submodule(place).register_forward_hook(hook))
        yield


def candidates(base: nn.Module, run: Callable[[], Any], taken: Pass) -> tuple[list[tuple[str, ...]], list[Tensor]]:
    """Places where the outputs of a call with a loss may be, the likelier first; and its outputs, linearised."""
    values: list[tuple[str, Tensor]] = []
    losses: list[Tensor] = []

    def kept(tensor: Tensor) -> Tensor:
        losses.append(tensor)
        return tensor

    with _values(base, values), _Inputs(kept):
        found = run()
    beside = beside_a_loss(found, taken)
    if beside is None:
        return [], []
    whole = [taken.parts(output) for output in beside.outputs]
    direct = [t for t in losses if taken.varies(t)]
    at_loss = bool(direct) and all(any(_entries(taken.parts(t), output) for output in whole) for t in direct)
    givers = [
        next((name for name, value in reversed(values) if _entries(output, taken.parts(value))), None)
        for output in whole
    ]
    named = tuple(dict.fromkeys(name for name in givers if name is not None))
    # By backward passes each place costs one: what a submodule gives is lifted for the loss and as an output at once.
    tried = [named] * bool(named) + [(LOSS,)] * at_loss + [(*named, LOSS)] * (at_loss and bool(named))
    return tried, [output.detach() for output in taken.lifted(beside.outputs)]


def moved(own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights that are no start, always the same."""
    random = torch.Generator().manual_seed(0)

    def one(weight: Tensor) -> Tensor:
        weight = weight.detach()
        size = weight.abs().square().mean().sqrt() if weight.numel() else 0.0
        step = torch.randn(weight.shape, generator=random, dtype=torch.float32).to(weight.device, weight.dtype)
        return weight + _MOVE * (size if size else 1.0) * step

    return {name: one(weight) if is_weight(weight) else weight for name, weight in own.items()}


def near(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two ways of a pass gave the same outputs."""

    def same(a: Tensor, b: Tensor) -> bool:
        apart, size = (torch.nan_to_num(t.detach().double()).norm() for t in (a - b, b))
        return bool(apart <= _TOLERANCE.get(b.dtype, _COARSE) * size)

    return len(one) == len(other) and all(a.shape == b.shape and same(a, b) for a, b in zip(one, other, strict=True))


def _real(found: Any) -> list[Tensor]:
    return [tensor for tensor in tensors_of(found) if tensor.is_floating_point()]


class _Inputs(TorchFunctionMode):
    """Hands what losses of `torch.nn.functional` take to a function, and goes on with what it gives."""

    def __init__(self, taken: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.taken = taken

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _LOSSES:
            args, kwargs = _pytree.tree_map_only(Tensor, self.taken, (args, kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def _values(base: nn.Module, values: list[tuple[str, Tensor]]) -> Iterator[None]:
    """Keeps the tensors that submodules give, in the order in which they end."""

    def keep(name: str) -> Callable[..., None]:
        def hook(*call: Any) -> None:
            if isinstance(call[-1], Tensor):
                values.append((name, call[-1]))

        return hook

    with ExitStack() as stack:
        for name, module in base.named_modules():
            if name:
                stack.enter_context(module.register_forward_hook(keep(name)))
        yield


def _entries(part: tuple[Tensor, ...], whole: tuple[Tensor, ...]) -> bool:
    """Whether what is in `part` is in `whole`: rows of it, a cast, another order of axes. A few dozen entries tell."""
    if part[0].numel() > whole[0].numel() or len(part) != len(whole):
        return False
    some = part[0].isfinite().flatten().nonzero().flatten()
    for n in some[:: max(1, len(some) // _SOME)].tolist():
        same = [(w.detach().flatten().to(p.dtype) == p.detach().flatten()[n]) for p, w in zip(part, whole, strict=True)]
        if not bool(torch.stack(same).all(0).any()):
            return False
    return True
