"""The loss that a PyTorch user means, as one of ours or as a function of JAX.

What a function computes is found by calling it: a loss of PyTorch's, and that which a model returns for its labels, is
the one of ours with the same value.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import signature
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import torch  # pyright: ignore[reportMissingImports]
from jaxtyping import Array
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]
from torch.func import functional_call  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]

from lazyscope.adapters.torch.graph import run
from lazyscope.adapters.torch.outputs import Choice
from lazyscope.adapters.torch.tracing import export, first_line, trace
from lazyscope.problems import IGNORED, Loss, cross_entropy, square_loss, token_cross_entropy

Torch = Callable[[Tensor, Tensor], Tensor]
_ENTRIES = 2**24  # of outputs at which a loss is evaluated at once
_VALUES = 3  # of a loss that are compared, at least, where there are examples enough: one may be equal by chance
_Block = tuple[Tensor, Tensor, Tensor]  # the value of a loss, at outputs and targets


class Found(NamedTuple):
    """A loss of JAX, what makes its targets of the batch's, and what it is, in words."""

    loss: Loss
    targets: Callable[[Tensor], Tensor]
    said: str


class _Known(NamedTuple):
    """A loss under its name: as PyTorch computes it, whether it takes such outputs and targets, and ours."""

    value: Torch
    fits: Callable[[Tensor, Tensor], bool]
    loss: Loss | None
    targets: Callable[[Tensor], Tensor]
    said: str


def _as_they_are(y: Tensor) -> Tensor:
    return y


def _next(y: Tensor) -> Tensor:
    """The label of the next token at each position, none at the last."""
    return functional.pad(y[:, 1:], (0, 1), value=IGNORED)


def _tokens(f: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(f.flatten(0, 1), y.flatten().long())


def _square(f: Tensor, y: Tensor) -> Tensor:
    return functional.mse_loss(f, y.reshape(f.shape).to(f.dtype))


def _binary(f: Tensor, y: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(f, y.reshape(f.shape).to(f.dtype))


def _is_index(y: Tensor) -> bool:
    return not (y.is_floating_point() or y.is_complex() or y.dtype == torch.bool)


def _same_shape(f: Tensor, y: Tensor) -> bool:
    """Equal shapes, but for axes of one entry at the end."""
    short, long = sorted((tuple(f.shape), tuple(y.shape)), key=len)
    return long[: len(short)] == short and set(long[len(short) :]) <= {1}


def _classes(f: Tensor, y: Tensor) -> bool:
    return _is_index(y) and f.ndim == 2 and f.shape[1] > 1 and y.shape == f.shape[:1]


def _positions(f: Tensor, y: Tensor) -> bool:
    return _is_index(y) and f.ndim == 3 and y.shape == f.shape[:2]


KNOWN = {
    "cross_entropy": _Known(
        lambda f, y: functional.cross_entropy(f, y.long()), _classes, cross_entropy, _as_they_are, "cross-entropy"
    ),
    "token_cross_entropy": _Known(
        _tokens, _positions, token_cross_entropy, _as_they_are, "cross-entropy of tokens, labels beside their outputs"
    ),
    "next_token_cross_entropy": _Known(
        lambda f, y: _tokens(f, _next(y)), _positions, token_cross_entropy, _next, "cross-entropy of the next token"
    ),
    "square": _Known(
        _square, lambda f, y: y.is_floating_point() and _same_shape(f, y), square_loss, _as_they_are, "½‖f − y‖²"
    ),
    "binary_cross_entropy": _Known(_binary, _same_shape, None, _as_they_are, "binary cross-entropy of logits"),
}


def loss_of(
    given: str | Callable[..., Any] | None, own: Tensor | None, f: Tensor, y: Tensor, at_own: Tensor, targets: Tensor
) -> Found:
    """The loss that `given` says: a name of `KNOWN`, a function of PyTorch, or one of lazyscope's.

    `y` are the targets of outputs `f` of a few examples; a function is compared on all `targets`, since what tells two
    losses apart may be rare, a class or a label that is ignored.

    None: the one whose value `own` is, that of the model itself at outputs `at_own`; where it has none, the one that
    outputs f and targets y have the shapes and types for. Raises ValueError where that is none, for a name that is
    unknown, and for a function that is no mean over examples.
    """
    if isinstance(given, str):
        if given not in KNOWN:
            raise ValueError(f"loss must be one of {', '.join(KNOWN)}, or a function, got {given!r}")
        return _ours(KNOWN[given], f, y)
    if given is not None:
        if str(getattr(given, "__module__", "")).startswith("lazyscope."):
            shaped = _shaped(f) if given is square_loss else _as_they_are
            return Found(given, shaped, getattr(given, "__name__", "loss").replace("_", " "))
        known = _equal_to(_blocks(given, f, targets))
        return _converted(given, _blocks(given, f, targets)) if known is None else _ours(known, f, y)
    if own is not None:
        known = _equal_to([(own, at_own, y)])
        if known is None:
            raise ValueError(
                f"the loss that the model returns is none of {', '.join(KNOWN)}: say which with loss=, a name or a "
                "function of (outputs, targets)"
            )
        return _ours(known, f, y)
    for name in ("cross_entropy", "token_cross_entropy", "square"):
        if KNOWN[name].fits(f, y):
            return _ours(KNOWN[name], f, y)
    raise ValueError(
        f"loss must be said for outputs of shape (n, {', '.join(map(str, f.shape[1:]))}) and {y.dtype} targets of "
        f"shape (n, {', '.join(map(str, y.shape[1:]))}): loss='binary_cross_entropy', or a function of "
        "(outputs, targets) as torch.nn.CrossEntropyLoss() is"
    )


def own_loss(model: nn.Module, batch: Any, key: str | None, choice: Choice) -> tuple[Tensor | None, Tensor | None]:
    """The loss that the model returns for the labels of a batch, and its outputs, at weights that are moved a little.

    At its own weights losses may have one value: with a head of zeros label smoothing does nothing.
    """
    parameters = signature(model.forward).parameters
    named, anything = key in parameters, any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not isinstance(batch, Mapping) or key is None or not (named or anything):
        return None, None
    entries = {name: entry for name, entry in batch.items() if anything or name in parameters}
    with torch.no_grad():
        try:
            result = functional_call(model, _moved(model), (), entries)
        except Exception as error:
            if not named:
                return None, None
            raise ValueError(
                f"{type(model).__name__} must run on a batch with its labels, got: {first_line(error)}: pass what its "
                "training step passes"
            ) from error
    loss: Any = result.get("loss") if isinstance(result, Mapping) else getattr(result, "loss", None)
    if not isinstance(loss, Tensor) or loss.ndim:
        return None, None
    return loss.cpu(), choice(result).detach().cpu()


def _moved(model: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def moved(p: Tensor) -> Tensor:
        if not p.is_floating_point() or p.numel() == 0:
            return p
        noise = torch.randn(p.shape, generator=generator).to(p)
        return p + 0.1 * (p.square().mean().sqrt() + 0.1) * noise

    return {name: moved(p) for name, p in model.named_parameters()}


def _ours(known: _Known, f: Tensor, y: Tensor) -> Found:
    if known.loss in (None, square_loss):
        shaped = _shaped(f)
        if known.loss is not None:
            return Found(known.loss, shaped, known.said)
        block = known.value(f, shaped(y)), f, shaped(y)
        return _converted(known.value, [block])._replace(targets=shaped, said=known.said)
    return Found(known.loss, known.targets, known.said)


def _shaped(f: Tensor) -> Callable[[Tensor], Tensor]:
    """Targets in the type of outputs like f, and in their shape where they have as many entries."""

    def shaped(y: Tensor) -> Tensor:
        return (y.reshape(len(y), *f.shape[1:]) if _same_shape(f[:1], y[:1]) else y).to(f.dtype)

    return shaped


def _blocks(given: Torch, f: Tensor, y: Tensor) -> Iterator[_Block]:
    """Outputs away from the start, where different losses may have one value, with all targets in a random order."""
    generator = torch.Generator().manual_seed(0)
    width = f.std(correction=0) + 1
    at_once = max(len(f), min(-(-len(y) // _VALUES), _ENTRIES // max(f[0].numel(), 1)))
    for rows in torch.randperm(len(y), generator=generator).split(at_once):
        near, of = f[rows % len(f)], y[rows]
        at = near + torch.randn(near.shape, generator=generator).to(f.dtype) * width
        try:
            value = _value(given, at, of)
        except ValueError:
            value = None
        if value is None or not torch.isfinite(value):
            # Between outputs where it has no value elsewhere: that of probabilities is one of outputs in [0, 1].
            share = torch.rand(len(near), *[1] * (near.ndim - 1), generator=generator).to(f.dtype)
            at = near + share * (near.flip(0) - near)
            value = _value(given, at, of)
        yield value, at, of


def _equal_to(blocks: Iterable[_Block]) -> _Known | None:
    """Ours that has all of these values of a loss."""
    left = list(KNOWN.values())
    for value, f, y in blocks:
        left = [known for known in left if known.fits(f, y) and _same(known.value(f, y), value)]
        if not left:
            return None
    return left[0]


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(torch.isclose(a.double(), b.double(), rtol=1e-4, atol=0, equal_nan=True))


def _value(loss: Torch, f: Tensor, y: Tensor) -> Tensor:
    name = getattr(loss, "__name__", type(loss).__name__)
    try:
        value = loss(f, y)
    except Exception as error:
        raise ValueError(
            f"loss must be a function of (outputs, targets), got from {name}: {first_line(error)} for outputs of shape "
            f"{tuple(f.shape)} and {y.dtype} targets of shape {tuple(y.shape)}"
        ) from error
    if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
        raise ValueError(f"loss must return one real number, got another value from {name}: reduction='mean'")
    return value.detach()


def _converted(loss: Torch, blocks: Iterable[_Block]) -> Found:
    """A function of PyTorch's as the mean of what it gives for each example by itself."""
    name = getattr(loss, "__name__", type(loss).__name__)

    class OfOne(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loss = loss

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return self.loss(outputs, targets)

    f = y = torch.zeros(0)
    for whole, f, y in blocks:
        each = torch.stack([_value(loss, f[i : i + 1], y[i : i + 1]) for i in range(len(f))]).mean()
        if not torch.isclose(each.double(), whole.double(), rtol=1e-4, atol=1e-12):
            raise ValueError(
                f"loss must be a mean over examples, got {float(whole):.4g} from {name} on {len(f)} of them, whose own "
                f"losses have mean {float(each):.4g}: reduction='mean', without weights of classes"
            )
    module = OfOne()
    program = trace(export(module, name, {}, (f[:1], y[:1])), name, module, {})

    def of_one(outputs: Array, target: Array) -> Array:
        given = zip(program.sources, (outputs[None], target[None]), strict=True)
        return run(program, {source: leaf for source, leaf in given if source is not None}).reshape(())

    def mean(outputs: Array, targets: Array) -> Array:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return jnp.mean(jax.vmap(of_one)(outputs, targets))

    mean.__name__ = name
    return Found(mean, _as_they_are, name)
