"""The first-order model of a PyTorch module, as a module of the same kind.

h̄(w) = h(w0) + Dh(w0)(w − w0) (note, §1.1), of the module as it was at w0. Whatever trains the module trains its
linearisation: it has its class, its signature, the names of its parameters and buffers.
"""

import functools
import inspect
import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]
from torch.utils import _pytree  # pyright: ignore[reportMissingImports]

from lazyscope.torch.directional import by_backward_passes, by_forward_mode, have_gradients, is_weight
from lazyscope.torch.random_state import random_state, random_state_kept
from lazyscope.torch.structures import is_filled_cache, tensors_mapped, tensors_of
from lazyscope.torch.weights import copied, unwrapped
from lazyscope.torch.within import (
    candidates,
    elsewhere,
    kind_of,
    lifted_at,
    losses_of,
    near,
    outputs_of,
    seen_by_losses,
)


def linearize(model: Any, *, output: str | None = None) -> nn.Module:
    """h̄(w) = h(w0) + Dh(w0)(w − w0) at the present weights w0 of `model`, an `nn.Module` to be trained like it.

    It has the model's class, signature, parameter and buffer names and requires_grad flags, and starts at w0, where
    it equals the model in evaluation mode: dropout is off and the statistics of BatchNorm stay as they are, whatever
    mode it is in (a warning says so where the model has either). Derivatives are those of its backward pass, with what
    is under `no_grad` or detached in it, and rules of its own (`autograd.Function`). Tied weights stay tied. `model`
    itself is not touched; w0 is kept in a copy, so that there are two sets of weights. A state dict holds w alone: load
    it into `linearize` of the model at its start.

    What is linearised are all outputs: tensors, in containers or dataclasses. A model that is handed labels and returns
    a loss beside its outputs (as `loss`, or as the number beside one tensor with axes, as in `(logits, loss)`) computes
    that loss of the linearised ones: where losses of `torch.nn.functional` take them, or as submodules give them. Which
    is right is tried at the first call with a loss; `output` names a submodule instead, '' the model itself, where that
    number is no loss. Decoders of transformers keep no keys and values (`use_cache` is off in its configuration).

    Training must call the linearised module itself: its submodules are the model's own, which it does not go through.

    Raises ValueError for a model without floating parameters, or that cannot be copied, that is wrapped or compiled by
    others, or has operators that PyTorch cannot differentiate twice, where a loss is of more than the outputs or these
    are not found in it, and where training calls a submodule that has weights.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"linearize needs a torch.nn.Module, got {type(model).__name__}: pass the model")
    if isinstance(model, _Linearized):
        raise ValueError("linearize needs a model, got one that is linearised already: pass the model it was made of")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("linearize needs a module in Python, got one of torch.jit: pass the module it was made of")
    if (inner := unwrapped(model)) is not model:
        kind = type(model).__name__
        raise ValueError(
            f"linearize needs the model itself, got it within {kind}: pass the {type(inner).__name__} in it"
        )
    if not any(is_weight(parameter) for parameter in model.parameters()):
        raise ValueError(f"linearize needs floating parameters, got none in {type(model).__name__}")
    if any(getattr(part, "max_norm", None) is not None for part in model.modules()):
        raise ValueError("linearize needs weights that training alone moves, got an embedding with max_norm: drop it")
    if output is not None and output not in dict(model.named_modules()):
        raise ValueError(f"output must name a submodule of {type(model).__name__}, got {output!r}: see named_modules()")
    fixed = _fixed(model)
    if fixed:
        warnings.warn(f"in the linearised model {' and '.join(fixed)}", stacklevel=2)
    trained, base = copied(model), copied(model)
    for each in (trained, base):
        _without_caches(each)
    _drop_own_forward(trained)
    return _linearized(trained, base, output)


class _Linearized:
    """What is put before the model's own class: the forward pass of the first-order model at `_base`."""

    _base: nn.Module
    _output: str | None  # as it was given
    _places: dict[tuple[Any, ...], tuple[str, ...]]  # where outputs are lifted for a loss, by the kind of call
    _by_backward: dict[bool, bool]  # by whether inputs have a derivative; empty before a pass that is differentiated

    def _first_order(self, *args: Any, **kwargs: Any) -> Any:
        grad = torch.is_grad_enabled()
        # Inference tensors take part in no derivative; in the module's own no_grad, nothing does.
        with torch.inference_mode(False), torch.enable_grad():
            args, kwargs = _pytree.tree_map_only(Tensor, lambda t: t.clone() if t.is_inference() else t, (args, kwargs))
            own = dict(self.named_parameters())  # type: ignore[attr-defined]
            _check_call(self._base, own, kwargs)
            if not grad:
                own = {name: parameter.detach() for name, parameter in own.items()}
            through = have_gradients((args, kwargs))
            by_backward = self._by_backward.get(through)
            if by_backward is None:
                by_backward = not self._has_forward_mode(own, args, kwargs)
            try:
                try:
                    found = self._passed(own, args, kwargs, by_backward)
                except NotImplementedError:
                    if by_backward:
                        raise
                    by_backward = True  # another path through the module than at first
                    found = self._passed(own, args, kwargs, by_backward)
            except NotImplementedError as error:
                raise ValueError(f"linearize needs what PyTorch can differentiate twice, got: {error}") from error
            except RuntimeError as error:
                if "use_reentrant" not in str(error):
                    raise
                raise ValueError(
                    "linearize needs checkpoints that can be differentiated twice, got a reentrant one: "
                    "use_reentrant=False"
                ) from error
            if grad or by_backward:  # else no backward pass was tried
                self._by_backward[through] = by_backward
        return found if grad else tensors_mapped(lambda tensors: [t.detach() for t in tensors], found)

    def _has_forward_mode(self, own: dict[str, Tensor], args: Any, kwargs: Any) -> bool:
        """Whether all operators have forward mode, and what it gives a backward pass."""
        sought = [tensor for tensor in (*own.values(), *tensors_of((args, kwargs))) if tensor.requires_grad]
        with random_state_kept():
            try:
                found = tensors_of(self._passed(own, args, kwargs, by_backward=False))
                real = [t.real.sum() for t in found if t.requires_grad]
                if real and sought:
                    torch.autograd.grad(real, sought, allow_unused=True)
            except RuntimeError:  # NotImplementedError is one; errors of the module come again
                return False
        return True

    def _passed(self, own: dict[str, Tensor], args: Any, kwargs: Any, by_backward: bool) -> Any:
        kind = kind_of((args, kwargs))
        known = [self._places.get(kind, ())]  # nowhere, where no loss is: then that pass was the right one
        if kind in self._places:  # the model may have gone on to another task
            known += [places for places in dict.fromkeys(self._places.values()) if places not in known][:2]
        again = random_state()
        for places in known:
            found, settled = self._once(own, args, kwargs, by_backward, places)
            if settled:
                self._places.setdefault(kind, places)
                return found
            again()
        self._places[kind] = self._settled(own, args, kwargs, by_backward)
        found, settled = self._once(own, args, kwargs, by_backward, self._places[kind])
        if not settled:
            raise self._mixed()
        return found

    def _once(
        self, own: dict[str, Tensor], args: Any, kwargs: Any, by_backward: bool, places: tuple[str, ...]
    ) -> tuple[Any, bool]:
        """What a pass gives, if a loss in it is that of what is lifted at these places, and whether it is."""
        base = self._base
        way = by_backward_passes if by_backward else by_forward_mode
        with way(base, own, (args, kwargs)) as taken:
            with lifted_at(base, places, taken), seen_by_losses() as seen:
                found = taken.run(*args, **kwargs)
            losses = losses_of(found, taken, seen)
            # Without a place nothing was lifted for a loss; with one, no other way may lead from it to the weights.
            if losses and (not places or any(taken.rests(loss) for loss in losses)):
                return None, False
            return tensors_mapped(taken.lifted, found), True

    def _settled(self, own: dict[str, Tensor], args: Any, kwargs: Any, by_backward: bool) -> tuple[str, ...]:
        """The places at which outputs are linearised for the loss of such a call."""
        base, again = self._base, random_state()
        way = by_backward_passes if by_backward else by_forward_mode
        with random_state_kept(), elsewhere(base) as away:
            away = own | away
            with way(base, away, (args, kwargs)) as taken:
                tried, outputs = candidates(base, lambda: taken.run(*args, **kwargs), taken)
            for places in tried if self._output is None else [(self._output,)]:
                again()
                found, settled = self._once(away, args, kwargs, by_backward, places)
                if settled and near(base, outputs_of(found), outputs):
                    return places
        raise self._mixed()

    def _mixed(self) -> ValueError:
        known = "as far as losses of torch.nn.functional and submodules show" if self._output is None else "by output="
        return ValueError(
            f"the loss of {type(self._base).__name__} must be computed of its linearised outputs alone, got another "
            f"{known}: compute it outside, or pass output='NAME OF THE SUBMODULE' that gives them (output='' if it is "
            "no loss)"
        )

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self._base._apply(function)
        return super()._apply(function, recurse)  # type: ignore[misc]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        own = _own(self)
        memo[id(self)] = made = object.__new__(type(own))  # what is bound to the module is bound to its copy
        made.__dict__.update(deepcopy(own.__dict__, memo))
        return _linearized(made, deepcopy(self._base, memo), self._output)

    def __reduce_ex__(self, protocol: Any) -> Any:
        own = _own(self)
        _drop_own_forward(own)  # a library's: to be prepared again
        return _linearized, (own, self._base, self._output)


def _linearized(model: nn.Module, base: nn.Module, output: str | None) -> nn.Module:
    kind = type(model)

    @functools.wraps(kind.forward)
    def forward(self: _Linearized, *args: Any, **kwargs: Any) -> Any:
        return self._first_order(*args, **kwargs)

    of_base = inspect.signature(base.forward)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    forward.__signature__ = of_base.replace(parameters=[own, *of_base.parameters.values()])  # type: ignore[attr-defined]
    del forward.__wrapped__  # that of the model, which accelerate would put back
    plain = torch.compiler.disable(forward)  # kernels are chosen in it, which compilation cannot
    made = type(kind.__name__, (_Linearized, kind), {"forward": plain, "__module__": kind.__module__})
    for part in model.modules():
        if part is not model and any(p.requires_grad for p in part.parameters()) and not _refused(part):
            part.register_forward_pre_hook(_refuse)
    model.__class__ = made
    base.eval().requires_grad_(False)
    # Past nn.Module's registration: w0 is no parameter of the linearised model.
    object.__setattr__(model, "_base", base)
    object.__setattr__(model, "_output", output)
    object.__setattr__(model, "_places", {})
    object.__setattr__(model, "_by_backward", {})
    return model


def _check_call(base: nn.Module, own: dict[str, Tensor], kwargs: dict[str, Any]) -> None:
    if any(name not in own for name, _ in base.named_parameters()):
        raise ValueError(
            "a linearised module must keep the names of its weights, got others: linearize the model after what "
            "changes them, adapters of PEFT or parametrizations"
        )
    for name, value in kwargs.items():
        if ("past" in name or "cache" in name) and is_filled_cache(value):
            raise ValueError(
                f"a linearised module takes no keys and values of an earlier call, got {name}: pass all tokens, "
                "use_cache=False"
            )


def _without_caches(model: nn.Module) -> None:
    """Let decoders of transformers keep no keys and values, whose derivatives would be lost between calls."""
    for part in model.modules():
        for name in ("config", "generation_config"):
            config: Any = getattr(part, name, None)
            for each in (config, *getattr(config, "__dict__", {}).values()):
                if getattr(each, "use_cache", None):
                    each.use_cache = False


def _drop_own_forward(model: nn.Module) -> None:
    """Take away what a library has put before the `forward` of the class; `base` keeps its own."""
    for name in ("forward", "_original_forward", "_old_forward"):  # as accelerate names them
        vars(model).pop(name, None)


def _refuse(part: nn.Module, _: Any) -> None:
    if torch.is_grad_enabled():
        raise ValueError(
            f"the linearised module must be called itself in training, got a call of its {type(part).__name__}, which "
            "is that of the model, not linearised: write self(x) or model(x), and let forward call its parts"
        )


def _refused(part: nn.Module) -> bool:
    return _refuse in part._forward_pre_hooks.values()


def _own(model: Any) -> nn.Module:
    """The module of the model's own class with the weights and buffers of a linearised one."""
    kind = type(model).__mro__[2]
    own = object.__new__(kind)
    own.__dict__.update(
        {name: value for name, value in model.__dict__.items() if name not in _Linearized.__annotations__}
    )
    return own


def _fixed(model: nn.Module) -> list[str]:
    drops = any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0 for module in model.modules())
    tracks = any(getattr(module, "running_mean", None) is not None for module in model.modules())
    said = {"dropout is off": drops, "the running statistics of normalisation are fixed": tracks}
    return [words for words, present in said.items() if present]
