"""Trained weights and buffers, wherever they are, in a copy of the model."""

import dis
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from fnmatch import fnmatchcase
from functools import partial
from os import PathLike
from pathlib import Path
from types import CellType, FunctionType, MethodType
from typing import Any, NamedTuple

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]

from lazyscope.adapters.checkpoint import is_copy
from lazyscope.adapters.folders import Stored, read, some

_UNUSED = ("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks")


class End(NamedTuple):
    """A module at the end of training; where its weights are from, in words; the module itself where that was given."""

    module: Any
    said: str
    given: Any


class _Own(NamedTuple):
    """A tensor of the model, under all of its names."""

    names: tuple[str, ...]
    tensor: Tensor
    kind: str  # "trained", "frozen", "buffer", or "passing": a buffer that no state dict has


def at_end(model: Any, trained: Any, ignore: Sequence[str] = ()) -> End:
    """A copy of `model` with the weights and buffers of `trained`.

    `trained` is a folder in the layout of Hugging Face or a file (`adapters.folders.read`), a state dict, or a module.
    Names may have another prefix than those of the model (`module.`, `_orig_mod.`, `transformer.`) and leave out the
    name of an adapter; a tied weight may be there under any of its names. Of frozen weights nothing need be there, as
    in an adapter of PEFT; what is there must be what the model has. `ignore` lists names, with *, of what to leave out,
    as they are stored or as errors say them. Other floats are cast to the type of the model.

    Raises ValueError, in one line, for anything that does not fit: nothing is left as it was at the start in silence.
    """
    stored, where = _stored(trained)
    found, cast = _matched(model, stored._replace(arrays=_without(stored.arrays, ignore)), where, ignore)
    copy = copied(model)
    with torch.no_grad():
        for own in _own(copy):
            if own.names[0] in found:
                own.tensor.copy_(_tensor(found[own.names[0]]).reshape(own.tensor.shape))
    given = unwrapped(trained)
    alike = type(given) is type(model) and _kinds(given) == _kinds(copy)
    return End(copy, where + (f" ({', '.join(sorted(cast))})" if cast else ""), given if alike else copy)


def _kinds(module: Any) -> list[tuple[Any, ...]]:
    return [(name, held.dtype, held.device) for name, held in module.named_parameters()]


def copied(model: Any) -> Any:
    """A copy of the module, with weights of its own; ValueError where there is none that trains like it."""
    parts = list(model.modules()) if isinstance(model, nn.Module) else []
    own = {id(held) for part in parts for held in (part, *part.parameters(recurse=False))}
    computed: dict[
        int, Any
    ] = {}  # by an earlier pass, as weight normalisation keeps it: of leaves alone there are copies
    for name, value in ((name, value) for part in parts for name, value in vars(part).items()):
        for leaf in _in(value):
            if isinstance(leaf, Tensor) and not leaf.is_leaf:
                computed[id(leaf)] = leaf.detach().clone()
            elif name not in _UNUSED and any(id(held) in own for held in _held(leaf)):
                called = getattr(leaf, "__name__", type(leaf).__name__)
                raise ValueError(
                    f"a copy of the module must have weights of its own, got the function {called!r} in its "
                    f"{name}, which holds a part of the module and would in the copy, too: make it a method"
                )
    try:
        return deepcopy(model, computed)
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"the module must be one that can be copied, got: {reason}: copy.deepcopy(model)") from error


def _in(value: Any) -> Iterable[Any]:
    """What a container holds, itself in none: not deeper, it may hold itself."""
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple | set) else [value]


def _held(leaf: Any) -> list[Any]:
    """What a function has from elsewhere: a variable around it, a global one, a default, and what such functions have.

    Of methods and partials themselves a copy is bound to the copy; in a function around it they stay as they are.
    """
    held: list[Any] = []
    nodes = _functions(leaf)
    for node in nodes:
        if isinstance(node, FunctionType):
            around = [cell.cell_contents for cell in node.__closure__ or () if cell != CellType()]
            defaults = (*(node.__defaults__ or ()), *(node.__kwdefaults__ or {}).values())
            named = {i.argval for i in dis.get_instructions(node) if i.opname == "LOAD_GLOBAL"}
            globals_ = [node.__globals__.get(name) for name in named]
            held += globals_
            found = [*around, *defaults, *(one for one in globals_ if isinstance(one, MethodType | partial))]
        else:
            found = [getattr(node, "__self__", None), *getattr(node, "args", ()), *_functions(node)]
        held += found
        nodes += [one for one in found if isinstance(one, _CALLED) and not any(one is known for known in nodes)]
    return held


_CALLED = (FunctionType, MethodType, partial)


def _functions(leaf: Any) -> list[Any]:
    """A function itself, or that of a method or partial."""
    if isinstance(leaf, FunctionType):
        return [leaf]
    inner = getattr(leaf, "__func__", None) if isinstance(leaf, MethodType) else getattr(leaf, "func", None)
    return _functions(inner) if isinstance(leaf, MethodType | partial) else []


def unwrapped(model: Any) -> Any:
    """The module within what `torch.compile` and data-parallel training put around it."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod
        else:
            return model


def _stored(trained: Any) -> tuple[Stored, str]:
    if isinstance(trained, nn.Module):
        arrays = dict(trained.named_buffers(remove_duplicate=False))
        arrays |= dict(trained.named_parameters(remove_duplicate=False))
        return Stored({name: _array(tensor) for name, tensor in arrays.items()}, {}), "the module given"
    if isinstance(trained, Mapping):
        others = [str(name) for name, value in trained.items() if not isinstance(value, Tensor | np.ndarray)]
        others = [name for name in others if not name.endswith("_extra_state")]
        if others or not trained:
            raise ValueError(
                f"a state dict must map names to tensors, got {some(others) or 'nothing'} in it: pass the entry that "
                "holds the weights, trained=checkpoint['state_dict'] say"
            )
        held = {str(name): value for name, value in trained.items() if not str(name).endswith("_extra_state")}
        return Stored({name: _array(value) for name, value in held.items()}, {}), "the state dict given"
    if isinstance(trained, str | PathLike):
        return read(Path(trained)), Path(trained).name or str(trained)
    raise ValueError(
        "trained must be a folder, a .safetensors file, a state dict or a module, got "
        f"{type(trained).__name__}: pass model.state_dict() say"
    )


def _without(arrays: Mapping[str, np.ndarray], ignore: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: value for name, value in arrays.items() if not any(fnmatchcase(name, glob) for glob in ignore)}


def _matched(model: Any, stored: Stored, where: str, ignore: Sequence[str]) -> tuple[dict[str, np.ndarray], set[str]]:
    """Values by the first names of the model's tensors, and which types are cast."""
    adapters = tuple(getattr(model, "peft_config", None) or ())
    owned = _own(model)
    kind = type(model).__name__
    if stored.adapter and not adapters:
        raise ValueError(
            f"{where} is an adapter of PEFT, and {kind} has none: pass the model with its adapter at the start, "
            "get_peft_model(model, config)"
        )
    plain = {id(own): [_plain(name, adapters) for name in own.names] for own in owned}
    # What the writer left out is noted as a tie: of two names that the model has apart, both are filled.
    arrays = {_plain(name, adapters): value for name, value in stored.arrays.items()}
    for name, held in stored.ties.items():
        if (kept := _plain(held, adapters)) in arrays:
            arrays.setdefault(_plain(name, adapters), arrays[kept])
    # A file of an adapter, or of what trained, has nothing of the rest.
    names_frozen = {name for own in owned if own.kind == "frozen" for name in plain[id(own)]}
    rest = names_frozen and not any(_ends(name, names_frozen) for name in arrays)
    needed = [own for own in owned if own.kind == "trained" or (own.kind == "buffer" and not rest and _counts(own))]
    arrays = _without(_shifted(arrays, [plain[id(own)] for own in needed]), ignore)  # by the names that errors say
    found, cast, used = {}, set(), set()
    for own in owned:
        here = [name for name in plain[id(own)] if name in arrays]
        used |= set(here)
        if not here:
            continue
        value = arrays[here[0]]
        if any(not _same(arrays[name], value) for name in here[1:]):
            raise ValueError(
                f"{some(here)} are one weight in {kind}, and differ in {where}: it was trained with them apart"
            )
        _check_fits(own, value, where, kind)
        if own.tensor.is_floating_point() and value.dtype != _numpy_type(own.tensor):
            cast.add(f"{value.dtype} cast to {_numpy_type(own.tensor)}")
        found[own.names[0]] = value
    if missing := [own.names[0] for own in needed if own.names[0] not in found]:
        raise ValueError(
            f"the trained weights must be those of {kind}, {where} lacks {some(missing)} and has {some(arrays)}: build "
            "the model of the checkpoint, or freeze what did not train, requires_grad_(False)"
        )
    matched = list(found.values())
    if extra := [name for name in arrays if name not in used and not is_copy(arrays[name], matched)]:
        raise ValueError(
            f"the trained weights must be those of {kind}, {where} also has {some(extra)}: build the model of the "
            "checkpoint, or leave them out, ignore=[...]"
        )
    return found, cast


def _own(model: Any) -> list[_Own]:
    names: dict[int, list[str]] = {}
    tensors: dict[int, tuple[Tensor, str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        tensors[id(parameter)] = (parameter, "trained" if parameter.requires_grad else "frozen")
    lasting = model.state_dict(keep_vars=True)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        names.setdefault(id(buffer), []).append(name)
        tensors[id(buffer)] = (buffer, "buffer" if name in lasting else "passing")
    return [_Own(tuple(names[key]), *tensors[key]) for key in names]


def _plain(name: str, adapters: tuple[str, ...]) -> str:
    """The name without what `torch.compile` and PEFT put into it."""
    unnamed = ("_orig_mod", *(("modules_to_save", *adapters) if adapters else ()))
    return ".".join(part for part in name.split(".") if part not in unnamed)


def _shifted(arrays: dict[str, np.ndarray], needed: list[list[str]]) -> dict[str, np.ndarray]:
    """The arrays under the model's names, where these differ by a prefix of one side."""

    def lacking(held: Iterable[str]) -> int:
        names = set(held)
        return sum(names.isdisjoint(group) for group in needed)

    best = lacking(arrays)
    if best == 0:
        return arrays
    options = [arrays]
    wanted = [name for group in needed for name in group]
    for prefix in sorted({name[: -len(own)] for own in wanted[:1] for name in arrays if name.endswith("." + own)}):
        options.append({name.removeprefix(prefix): value for name, value in arrays.items()})
    first = next(iter(arrays), "")
    for prefix in sorted({own[: -len(first)] for own in wanted if first and own.endswith("." + first)}):
        options.append({prefix + name: value for name, value in arrays.items()})
    return min(options, key=lambda option: (len(option) != len(arrays), lacking(option)))


def _ends(name: str, names: set[str]) -> bool:
    """Whether a stored name is one of these, but for a prefix of one side."""
    parts = name.split(".")
    return any(".".join(parts[at:]) in names for at in range(len(parts))) or any(
        own.endswith("." + name) for own in names
    )


def _check_fits(own: _Own, value: np.ndarray, where: str, kind: str) -> None:
    name, tensor = own.names[0], own.tensor
    if value.shape != tuple(tensor.shape):
        raise ValueError(
            f"the trained weights must be those of {kind}, {name} in {where} has shape {value.shape} where the model "
            f"has {tuple(tensor.shape)}: build the model of the checkpoint"
        )
    if tensor.is_floating_point() != _is_float(value):
        raise ValueError(
            f"the trained weights must be those of {kind}, {name} in {where} is {value.dtype} where the model has "
            f"{_numpy_type(tensor)}: load the checkpoint without quantisation"
        )
    if own.kind == "frozen" and not _same(_array(tensor).astype(value.dtype), value):
        raise ValueError(
            f"frozen weights must be the same at both ends, {name} in {where} differs from that of the model: start "
            "from the weights that were trained on, or unfreeze what trained, requires_grad_(True)"
        )


def _counts(own: _Own) -> bool:
    return own.tensor.is_floating_point()


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=_is_float(a)))


def _is_float(value: np.ndarray) -> bool:
    return value.dtype.kind == "f" or value.dtype.name.startswith(("bfloat", "float"))


def _numpy_type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _array(tensor: Any) -> np.ndarray:
    """A copy as an array, of NumPy's bfloat16 where it is that."""
    if isinstance(tensor, np.ndarray):
        return tensor
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.float().numpy().astype("bfloat16")
    return tensor.resolve_conj().numpy().copy()


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array.astype(np.float32) if array.dtype.name == "bfloat16" else array))
