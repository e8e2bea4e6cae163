"""A module that is run for a look at it, and left exactly as it was found."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from inspect import ismodule
from typing import Any

_CONTAINERS = (dict, defaultdict, list, set, OrderedDict)  # none of somebody's own, which might not like to be refilled


@contextmanager
def evaluation(module: Any) -> Iterator[None]:
    """The module in evaluation mode, with gradients, in its own type whatever autocast it is called under.

    Without the fused attention that exists only for inference.

    Afterwards its modes, flags, attributes, buffers, gradients and PyTorch's random state are as before, whatever
    `forward` did: a cache that it fills at its first call is empty again.
    """
    import torch  # pyright: ignore[reportMissingImports]

    fused = torch.backends.mha.get_fastpath_enabled()
    restore = _restoring(module)
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    try:
        module.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=list(devices)))
            for kind in {"cpu", *(device.type for device in devices)}:
                stack.enter_context(torch.autocast(kind, enabled=False))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for put_back in restore:
            put_back()


def _restoring(module: Any) -> list[Callable[[], None]]:
    """What puts back the containers and tensors that the parts of a module hold, containers in containers too.

    Of other objects it puts back the attributes, not what is within them.
    """
    import torch  # pyright: ignore[reportMissingImports]

    parts = list(module.modules())
    restore, seen, waiting = [], set(), [vars(part) for part in parts]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            restore.append(_tensor(value))
        elif type(value) in _CONTAINERS:
            restore.append(_container(value))
            waiting += value.values() if isinstance(value, dict) else value
    held = {id(value): value for part in parts for value in vars(part).values()}
    return restore + [_container(vars(value)) for value in held.values() if _is_record(value)]


def _is_record(value: Any) -> bool:
    """Whether it is an object with attributes, such as a configuration, in which a call may note what it was given."""
    return isinstance(getattr(value, "__dict__", None), dict) and not callable(value) and not ismodule(value)


def _container(container: Any) -> Callable[[], None]:
    kept = container.copy()  # keeps the values alive, so that their ids stay theirs

    def put_back() -> None:
        container.clear()
        (container.extend if isinstance(container, list) else container.update)(kept)

    return put_back


def _tensor(tensor: Any) -> Callable[[], None]:
    from torch import isclose  # pyright: ignore[reportMissingImports]

    values, leaf, trained = tensor.detach().clone(), tensor.is_leaf, tensor.requires_grad
    gradient = tensor.grad if leaf else None

    def put_back() -> None:
        if not isclose(tensor.detach(), values, rtol=0, atol=0, equal_nan=True).all():
            tensor.data.copy_(values)
        if leaf:
            tensor.requires_grad_(trained)
            tensor.grad = gradient

    return put_back
