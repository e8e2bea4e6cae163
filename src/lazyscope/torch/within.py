"""Losses that a model computes within itself: of its linearised outputs, wherever in its forward pass these are.

They are lifted to first order as submodules give them, or where a loss of `torch.nn.functional` takes them. Which is
right is tried, once for each kind of call, with all weights moved from where they are, so that nothing is equal by
chance: the loss must depend on the weights through what was lifted alone, and the outputs must be those without.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

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
_SOME = 16  # entries by which a tensor is found in another
_HALF = (torch.bfloat16, torch.float16)
_TOLERANCE, _COARSE = {torch.float64: 1e-8, torch.float32: 1e-3}, 0.05  # of outputs, where weights moved by their size


def kind_of(inputs: Any) -> tuple[Any, ...]:
    """What tells calls of one kind from others: which inputs are there, and switches."""
    leaves, form = _pytree.tree_flatten(inputs)
    return str(form), *(leaf if isinstance(leaf, str | bool) else type(leaf) for leaf in leaves)


@contextmanager
def seen_by_losses() -> Iterator[list[Tensor]]:
    """The tensors that losses of `torch.nn.functional` take within it."""
    seen: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return tensor

    with _Inputs(keep):
        yield seen


def losses_of(found: Any, taken: Pass, seen: Sequence[Tensor]) -> list[Tensor]:
    """The loss of that name, or numbers beside one tensor with axes, as in `(logits, loss)`, that depend on weights.

    Numbers beside several tensors are losses if a loss of `torch.nn.functional` took (`seen`) what depends on weights.
    """
    outputs, loss = outputs_of(found), _named(found)
    if loss is not None:
        return [loss] if taken.varies(loss) else []
    if len(outputs) == 1 or (outputs and any(taken.varies(tensor) for tensor in seen)):
        return [tensor for tensor in _real(found) if not tensor.ndim and taken.varies(tensor)]
    return []


def outputs_of(found: Any) -> list[Tensor]:
    """All real tensors with axes but a loss."""
    loss = _named(found)
    return [tensor for tensor in _real(found) if tensor.ndim and tensor is not loss]


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
    """Places where the outputs of a call with a loss may be, the cheaper first; and its outputs, linearised."""
    values: list[tuple[str, Tensor]] = []
    with _values(base, values), seen_by_losses() as seen:
        found = run()
    outputs = outputs_of(found)
    whole = [taken.parts(output) for output in outputs]
    direct = [tensor for tensor in seen if taken.varies(tensor)]
    at_loss = bool(direct) and all(any(_is_in(taken.parts(t), output) for output in whole) for t in direct)
    last = {name: n for n, (name, _) in enumerate(values)}
    givers = {
        next((name for name, value in reversed(values) if _is_in(output, taken.parts(value))), None) for output in whole
    }
    named = tuple(sorted((name for name in givers if name is not None), key=lambda name: -last[name]))
    # By backward passes each place costs one: what a submodule gives is lifted for the loss and as an output at once.
    tried = [(name,) for name in named] + [named] * (len(named) > 1)
    if at_loss:
        tried += [(LOSS,)] + [(*named, LOSS)] * bool(named)
    return tried, [output.detach() for output in taken.lifted(outputs)]


@contextmanager
def elsewhere(base: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within it the start is another, always the same; gives weights away from it."""
    weights = {name: weight for name, weight in base.named_parameters() if is_weight(weight)}
    before = {name: weight.data for name, weight in weights.items()}  # in place, graphs of earlier calls would break
    random = torch.Generator().manual_seed(0)

    def step(weight: Tensor) -> Tensor:
        size = float(weight.detach().abs().square().mean().sqrt()) if weight.numel() else 0.0
        drawn = torch.randn(weight.shape, generator=random, dtype=torch.float32)
        return (size or 0.1) * drawn.to(weight.device, weight.dtype)

    try:
        for weight in weights.values():
            weight.data = weight.data + 0.2 * step(weight)
        yield {name: weight.detach() + step(weight) for name, weight in weights.items()}
    finally:
        for name, weight in weights.items():
            weight.data = before[name]


def near(base: nn.Module, one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two ways of a pass gave the same outputs."""
    half = any(weight.dtype in _HALF for weight in base.parameters()) or any(
        torch.is_autocast_enabled(device) for device in ("cpu", "cuda")
    )

    def same(a: Tensor, b: Tensor) -> bool:
        tolerance = _COARSE if half else _TOLERANCE.get(b.dtype, _COARSE)
        a, b = a.detach().double(), b.detach().double()
        if a.shape != b.shape or not torch.equal(finite := a.isfinite(), b.isfinite()):
            return False
        apart, size = ((v * finite).nan_to_num(0, 0, 0).norm() for v in (a - b, b))
        return bool(apart <= size * tolerance)

    return all(same(a, b) for a, b in zip(one, other, strict=True))


def _real(found: Any) -> list[Tensor]:
    return [tensor for tensor in tensors_of(found) if tensor.is_floating_point()]


def _named(found: Any) -> Tensor | None:
    loss = found.get("loss") if isinstance(found, Mapping) else getattr(found, "loss", None)
    return loss if isinstance(loss, Tensor) else None


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


def _is_in(part: tuple[Tensor, ...], whole: tuple[Tensor, ...]) -> bool:
    """Whether what is in `part` is in `whole`: rows of it, a cast, another order of axes. A few entries tell."""
    size = part[0].numel()
    if size > whole[0].numel() or len(part) != len(whole) or not size:
        return False
    few = range(0, size, max(1, size // _SOME))
    parts, wholes = ([t.detach().reshape(-1) for t in side] for side in (part, whole))

    def here(n: int, at: Any) -> Tensor:
        same = [w[at].to(p.dtype) == p[n] for p, w in zip(parts, wholes, strict=True)]
        return torch.stack(same).all(0)

    looked = [n for n in few if bool(parts[0][n].isfinite())]
    if part[0].shape == whole[0].shape and all(bool(here(n, n)) for n in looked):
        return True
    return all(bool(here(n, slice(None)).any()) for n in looked)
