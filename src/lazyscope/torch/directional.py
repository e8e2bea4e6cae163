"""h(w0) + Dh(w0)(w − w0) of what a PyTorch module computes, with the derivatives that its training has.

Forward mode is the cheaper way. Where an operator has none (a custom Function, weight normalisation, most fused
kernels), or where its own derivative is missing, the backward pass v ↦ Dh(w0)ᵀv, which is linear, is differentiated.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]
from torch.autograd import forward_ad  # pyright: ignore[reportMissingImports]
from torch.func import functional_call  # pyright: ignore[reportMissingImports]
from torch.nn.attention import SDPBackend, sdpa_kernel  # pyright: ignore[reportMissingImports]
from torch.overrides import TorchFunctionMode  # pyright: ignore[reportMissingImports]
from torch.utils import _pytree  # pyright: ignore[reportMissingImports]

from lazyscope.torch.structures import tensors_of

_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


class Pass(NamedTuple):
    """A pass of the module as it was at w0, and what is made of tensors that it computes."""

    run: Callable[..., Any]
    lifted: Callable[[list[Tensor]], list[Tensor]]  # to first order
    varies: Callable[[Tensor], bool]  # whether it depends on the weights
    rests: Callable[[Tensor], bool]  # whether it does otherwise than by what was lifted
    parts: Callable[[Tensor], tuple[Tensor, ...]]  # which together tell it from others


@contextmanager
def by_forward_mode(base: nn.Module, own: Mapping[str, Tensor], inputs: Any) -> Iterator[Pass]:
    """The pass whose numbers carry their derivative along w − w0, w0 the weights of `base` and w those of `own`."""
    through = have_gradients(inputs)

    def lifted(tensors: list[Tensor]) -> list[Tensor]:
        duals = [forward_ad.unpack_dual(tensor) for tensor in tensors]
        if not through and any(dual.tangent is not None and dual.primal.requires_grad for dual in duals):
            # As PEFT and checkpoints make embeddings: beside such a derivative that of a softmax's tangent is missing.
            raise NotImplementedError("forward mode beside gradients of a tensor within the module")
        return [dual.primal if dual.tangent is None else dual.primal + dual.tangent for dual in duals]

    with _differentiable(through), forward_ad.dual_level():
        start = dict(base.named_parameters())
        weights = [name for name, w0 in start.items() if is_weight(w0)]
        duals = {name: forward_ad.make_dual(start[name].detach(), own[name] - start[name].detach()) for name in weights}
        given = (start | duals, dict(base.named_buffers()))

        def run(*args: Any, **kwargs: Any) -> Any:
            return functional_call(base, given, args, kwargs)

        yield Pass(run, lifted, _has_tangent, _has_tangent, _dual_parts)


@contextmanager
def by_backward_passes(base: nn.Module, own: Mapping[str, Tensor], inputs: Any) -> Iterator[Pass]:
    """The pass whose vector-Jacobian product is differentiated, once for all tensors that are asked for."""
    named = {name: w0 for name, w0 in base.named_parameters() if is_weight(w0)}
    weights, moved = list(named.values()), [own[name] - w0.detach() for name, w0 in named.items()]
    through, at_first = have_gradients(inputs), True

    def lifted(tensors: list[Tensor]) -> list[Tensor]:
        nonlocal at_first
        asked = [t for t in tensors if t.requires_grad and (through or _reaches(t, weights))]
        if not asked:
            return tensors
        if through and not at_first:
            raise ValueError(
                "a loss within a model that has no forward mode has no derivative by its inputs: compute it outside"
            )
        # Of inputs, or of what was lifted before, there are derivatives beside those of the weights: a graph for all.
        if through or (not at_first and any(_reaches(t, moved) for t in asked)):
            along = _along(asked, weights, moved, graph=True)
            found = {id(a): a + b for a, b in zip(asked, along, strict=True)}
        else:
            along = _Pushed.apply(asked, weights, *moved)
            found = {id(a): a.detach() + b for a, b in zip(asked, along, strict=True)}
        at_first = False
        return [found.get(id(t), t) for t in tensors]

    for w0 in weights:
        w0.grad = None  # a backward pass by inputs comes through it
        w0.requires_grad_()  # in the module itself: a checkpoint computes again with what it holds
    with _differentiable(through):
        yield Pass(base, lifted, lambda t: t.requires_grad, lambda t: _reaches(t, weights), lambda t: (t,))


def _reaches(tensor: Tensor, ends: Sequence[Tensor]) -> bool:
    """Whether a backward pass from it would come to one of these."""
    leaves, made = {id(end) for end in ends if end.is_leaf}, {end.grad_fn for end in ends if not end.is_leaf}
    nodes, seen = [tensor.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in made or id(getattr(node, "variable", None)) in leaves:
            return True
        nodes += [following for following, _ in node.next_functions]
    return False


class _Pushed(torch.autograd.Function):
    """Dh v of the v given, whose own derivative is Dhᵀ."""

    @staticmethod
    def forward(ctx: Any, tensors: list[Tensor], weights: list[Tensor], *v: Tensor) -> tuple[Tensor, ...]:
        ctx.tensors, ctx.weights = tensors, weights
        with torch.enable_grad():
            return tuple(_along(tensors, weights, list(v), graph=False))

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (None, None, *_Pulled.apply(ctx.tensors, ctx.weights, *slopes))


class _Pulled(torch.autograd.Function):
    """Dhᵀ u of the u given, None where h does not depend on a weight; its own derivative is Dh."""

    @staticmethod
    def forward(ctx: Any, tensors: list[Tensor], weights: list[Tensor], *u: Tensor) -> tuple[Tensor | None, ...]:
        ctx.tensors, ctx.weights = tensors, weights
        return tuple(torch.autograd.grad(tensors, weights, u, retain_graph=True, allow_unused=True))

    @staticmethod
    def backward(ctx: Any, *steps: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        v = [torch.zeros_like(w) if step is None else step for w, step in zip(ctx.weights, steps, strict=True)]
        return (None, None, *_Pushed.apply(ctx.tensors, ctx.weights, *v))


def _along(tensors: list[Tensor], weights: Sequence[Tensor], moved: list[Tensor], *, graph: bool) -> list[Tensor]:
    """Dh(w − w0): the derivative by v of <Dhᵀv, w − w0>, at v = 0."""
    v = [torch.zeros_like(tensor, requires_grad=True) for tensor in tensors]
    back = torch.autograd.grad(tensors, weights, v, create_graph=True, allow_unused=True)
    inner = [(g.conj() * step).sum().real for g, step in zip(back, moved, strict=True) if g is not None]
    if not inner:
        return v
    return list(torch.autograd.grad(inner, v, create_graph=graph, retain_graph=True, materialize_grads=True))


def have_gradients(inputs: Any) -> bool:
    """Whether there are derivatives by a tensor of these."""
    return any(tensor.requires_grad for tensor in tensors_of(inputs))


def is_weight(tensor: Tensor) -> bool:
    """Whether a model is linearised in it."""
    return tensor.is_floating_point() or tensor.is_complex()


@contextmanager
def _differentiable(through: bool) -> Iterator[None]:
    """Kernels that can be differentiated twice: fused attention cannot; nothing compiled."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ExitStack() as stack:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(_AsTrained(through))
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _AsTrained(TorchFunctionMode):
    """Operations with the derivatives that a backward pass has, and kernels that have them.

    Where the module turns gradients off, nothing has any. Attention in this form lays its result out otherwise than
    fused kernels do: where no view of it is, a copy. With gradients `through` inputs statistics are computed in parts:
    PyTorch takes those of a fused normalisation for constants in the derivative of its derivative.
    """

    def __init__(self, through: bool) -> None:
        super().__init__()
        self.through = through

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.embedding_bag and _has_tangent(args[1]):
            func = _embedding_bag
        if self.through:
            func = _NORMALISED.get(func, func)
            if func in _SOLVES and any(_has_tangent(t) for t in tensors_of((args, kwargs))):
                raise NotImplementedError("forward mode of a solution beside its derivative by inputs, which is wrong")
        recurrent = getattr(func, "__name__", "") in _RECURRENT
        try:
            with _without_fused() if recurrent else nullcontext():
                found = func(*args, **(kwargs or {}))
        except RuntimeError:
            if func is not Tensor.view or isinstance(args[-1], torch.dtype):
                raise
            found = args[0].reshape(*args[1:])
        if torch.is_grad_enabled():
            return found
        return _pytree.tree_map_only(Tensor, lambda t: _primal(t) if _has_tangent(t) else t, found)


def _embedding_bag(ids: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Sums and means of bags, linear in the weight: PyTorch has no forward mode of them and differentiates once."""
    given = inspect.signature(nn.functional.embedding_bag).bind(ids, weight, *args, **kwargs).arguments
    scales = given.get("per_sample_weights")
    if given.get("mode", "mean") == "max" or (scales is not None and _has_tangent(scales)):
        raise NotImplementedError("forward mode of an embedding bag that is not linear in its weight")
    start, step = forward_ad.unpack_dual(weight)
    assert step is not None
    found, along = (nn.functional.embedding_bag(ids, one, *args, **kwargs) for one in (start, step))
    return forward_ad.make_dual(found, along)


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    found = _standardised(x, tuple(range(-len(shape), 0)), eps)
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


def _instance_norm(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    given = inspect.signature(nn.functional.instance_norm).bind(x, *args, **kwargs)
    given.apply_defaults()
    if not given.arguments["use_input_stats"]:
        return nn.functional.instance_norm(x, *args, **kwargs)
    return _of_channels(_standardised(x, tuple(range(2, x.ndim)), given.arguments["eps"]), given.arguments)


def _batch_norm(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    given = inspect.signature(nn.functional.batch_norm).bind(x, *args, **kwargs)
    given.apply_defaults()
    if not given.arguments["training"] or given.arguments["running_mean"] is not None:
        return nn.functional.batch_norm(x, *args, **kwargs)
    return _of_channels(_standardised(x, (0, *range(2, x.ndim)), given.arguments["eps"]), given.arguments)


def _standardised(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True) + eps).sqrt()


def _of_channels(x: Tensor, given: Mapping[str, Any]) -> Tensor:
    weight, bias = given["weight"], given["bias"]
    shape = (-1, *[1] * (x.ndim - 2))
    x = x if weight is None else x * weight.view(shape)
    return x if bias is None else x + bias.view(shape)


_SOLVES = (torch.linalg.solve, torch.linalg.inv, torch.inverse)
_NORMALISED: dict[Any, Callable[..., Tensor]] = {
    nn.functional.layer_norm: _layer_norm,
    nn.functional.instance_norm: _instance_norm,
    nn.functional.batch_norm: _batch_norm,
}


@contextmanager
def _without_fused() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of TF32, which stays as it is
        with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
            yield


def _dual_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    primal, tangent = forward_ad.unpack_dual(tensor)
    return (primal,) if tangent is None else (primal, tangent)


def _primal(tensor: Tensor) -> Tensor:
    return forward_ad.unpack_dual(tensor).primal


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None
