"""What `lazyscope.monitor` measures along a run, of a PyTorch module that somebody else trains."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from jaxtyping import Array
from torch import Tensor, nn  # pyright: ignore[reportMissingImports]
from torch.utils import _pytree  # pyright: ignore[reportMissingImports]

from lazyscope import examples, tree
from lazyscope.adapters import from_torch
from lazyscope.adapters.torch.comparison import left_of_parts
from lazyscope.adapters.torch.converted import travelling
from lazyscope.adapters.torch.outputs import Choice, flat
from lazyscope.adapters.torch.preserving import evaluation
from lazyscope.diagnose import monitor
from lazyscope.groups import Groups
from lazyscope.torch.padding import WithoutPadding, is_padded, tokens
from lazyscope.torch.random_state import random_state_kept
from lazyscope.torch.weights import unwrapped

_HALF = (torch.bfloat16, torch.float16)


class Monitor:
    """How far a module that trains has gone from its start w0, and from its linearisation there.

        monitor = lst.Monitor(model, batch)
        ...                     # any loop that trains `model`
        monitor.measure()       # {"lazyscope/gap": 0.031, "lazyscope/differential": 0.12, ...}

    `batch` is one fixed batch as the loader yields it, on any device, with or without labels (they are left out: what
    is measured are outputs, not losses; `output` says which, as for `lazyscope.adapters.from_torch`). A few dozen
    examples are enough. The module is traced once, in evaluation mode, and left as it was found, with its modes,
    gradients and the random states of Python, NumPy and PyTorch; later its weights are read, and where its outputs are
    others than theirs (a temperature was annealed, a part replaced) it is traced anew and a warning says so. w0 are the
    trainable weights (`requires_grad`) now, or those in `start`; what is frozen now counts as frozen. `start` holds
    them, with the buffers of the start, as NumPy arrays by name.

    `measure` gives floats by name, h̄ being the linearisation at w0:

        lazyscope/gap                 ‖h(w) − h̄(w)‖/‖h(w) − h(w0)‖ (`linearization_gap`)
        lazyscope/differential        j = ‖Dh(w) − Dh(w0)‖_F/‖Dh(w0)‖_F (`differential_change`)
        lazyscope/differential_error  its standard error over random directions, 0 where j is exact
        lazyscope/movement            ‖w − w0‖/‖w0‖
        lazyscope/distance            ‖w − w0‖
        lazyscope/buffers             only where buffers changed: their part of the change of the outputs
        lazyscope/differential/GROUP  the same of one group of parameters
        lazyscope/movement/GROUP      the same, or ‖w − w0‖ itself for a group that starts at zero

    A group is a module, the two factors of a LoRA one group; `groups` maps globs over names to other ones
    (`{"*.h.0.*": "block 0"}`, or `{"*": "all"}` for no more than that). Buffers that changed (the statistics of
    BatchNorm) have their present values at w and at w0 alike, so that all of these are of weights alone (`diagnose` has
    each end with its own, and tells their part apart); `lazyscope/buffers` is ‖h(w0) − h_0(w0)‖/‖h(w) − h_0(w0)‖, h_0
    with the buffers of the start. What a model of tokens gives at padding (by its `attention_mask`) is left out. Half
    precision, and autocast, is measured in float32, which adds no rounding.

    Costs, once: tracing and compilation, 10 to 40 seconds. Then, in gradients of the same batch: two for each direction
    in which an example is differentiated and two more. There are k directions where the model has k outputs and j is
    exact, else 4 (with fewer than 16 examples, 64 in all). Measured on one core with 4 blocks of width 128: 9 gradients
    for a language model, 12 for a classifier of 3 classes and 5 for its LoRA; for a small convolutional net of 10
    classes, whose examples convolve one by one, 100. JAX computes this on its default device, which is the CPU unless
    JAX for the GPU is installed (set XLA_PYTHON_CLIENT_PREALLOCATE=false there, or it takes the memory that training
    needs). In memory: w0, w, and what is frozen, once each. Workers of a DataLoader that fork later make JAX warn of
    deadlocks; they do not use it.

    Raises ValueError for sharded weights (FSDP, ZeRO-3), and as `from_torch` does.
    """

    def __init__(
        self,
        model: Any,
        batch: Any,
        *,
        output: Any = None,
        groups: Groups = None,
        start: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self._model = unwrapped(model)
        if not isinstance(self._model, nn.Module):
            raise ValueError(f"Monitor needs a torch.nn.Module, got {type(model).__name__}: pass the model")
        _check_whole(self._model)
        self._wide = any(tensor.dtype == torch.float64 for tensor in _tensors(self._model))
        half = any(tensor.dtype in _HALF for tensor in _tensors(self._model))
        self._groups, self._key, self._told = groups, jax.random.key(seed), False
        self._output, self._type = output, "float32" if half else None
        with self._types(), random_state_kept():
            self._batch = _on_device_of(self._model, batch)
            params0 = self._trace()
            self._names = list(params0)
            leaves = [_array(leaf) for leaf in self._apply.taken.leaves(self._batch)]
            self._x = examples.as_batch("batch", self._apply.taken.batch(leaves))
        self._padded = is_padded(self._x, self._apply.shape)
        self.described = self._apply.described + ("; padding left out" if self._padded else "")
        self.start = {name: np.asarray(leaf) for name, leaf in params0.items()} | self._buffers
        if start is not None:
            self.restart(start)

    def restart(self, start: Mapping[str, Any]) -> None:
        """Take `start`, arrays or tensors by name, for the start. ValueError where it is none of this module."""
        found = {name: _array(value) for name, value in start.items()}
        shapes, own = ({name: value.shape for name, value in side.items()} for side in (found, self.start))
        if shapes != own:
            apart = sorted(name for name in shapes.keys() | own.keys() if shapes.get(name) != own.get(name))
            raise ValueError(
                f"start must have the trainable weights and buffers of the module, got others in "
                f"{', '.join(apart[:4])}{f' and {len(apart) - 4} more' if len(apart) > 4 else ''}: pass those that it "
                "started from"
            )
        self.start = {name: found[name].astype(value.dtype) for name, value in self.start.items()}

    def measure(self) -> dict[str, float]:
        """The measures at the module's present weights, all of them 0 at w0."""
        with self._types(), random_state_kept():
            params, changed = self._present(), self._changed()
            if not self._thawed() and self._computes_otherwise(params, changed):
                self._trace_anew()
                changed = self._changed()
            given = self._apply.given(changed)
            apply = WithoutPadding(given, tokens) if self._padded else given
            now, before = _travelling(changed), _travelling({name: self.start[name] for name in changed})
            params0 = {name: jnp.asarray(self.start[name]) for name in self._names}
            measure = monitor(apply, params0 | now, self._x, kernel=False, groups=self._groups, key=self._key)
            found: dict[str, Any] = measure(params | now)
            if changed:
                start, moved, end = (apply(at, self._x) for at in (params0 | before, params0 | now, params | now))
                found["buffers"] = tree.ratio(tree.norm(moved - start), tree.norm(end - start))
        found.setdefault("differential_error", 0.0)
        return {f"lazyscope/{name}": float(found[name]) for name in sorted(found, key=_order)}

    def _types(self) -> Any:
        return jax.enable_x64(True) if self._wide else nullcontext()

    def _trace(self) -> dict[str, Array]:
        """The module as it is now, and its weights."""
        with _as_its_class(self._model):
            self._apply, params = from_torch(self._model, self._batch, output=self._output, dtype=self._type)
        self._buffers = {name: np.asarray(v) for name, v in self._apply.buffers.items() if v.dtype.kind == "f"}
        return params

    def _computes_otherwise(self, params: dict[str, Array], changed: dict[str, np.ndarray]) -> bool:
        """Whether the module gives other outputs now than what was traced does at its weights and buffers."""
        choice, taken = Choice(self._output, type(self._model).__name__), self._apply.taken
        with _as_its_class(self._model), evaluation(self._model), torch.no_grad():
            expected = _array(flat(self._model, taken, choice)(*taken.leaves(self._batch)))
        apply, buffers = self._apply.given(changed), _travelling(changed)
        found = np.asarray(apply(params | buffers, self._x))
        apart, size = (float(np.linalg.norm(v.astype(float))) for v in (found - expected, expected))
        # TF32 rounds to three digits, and half precision to two: layers add up to more.
        tolerance = 1e-3 if self._wide else 0.01 if self._type is None else 0.1
        if apart <= tolerance * size or not np.isfinite(expected).all():
            return False
        pull = jax.vjp(lambda weights: apply(weights | buffers, self._x), params)[1]
        gradients = pull(jnp.asarray(np.random.default_rng(0).standard_normal(found.shape), found.dtype))[0]
        parts = left_of_parts(*({name: np.asarray(v) for name, v in each.items()} for each in (gradients, params)))
        return not apart <= tolerance * parts

    def _trace_anew(self) -> None:
        warnings.warn(
            f"{type(self._model).__name__} computes something else than when it was traced, with the same weights "
            "(what it is set to, its other buffers, frozen weights, hooks or parts): it is traced anew, as it is now",
            stacklevel=3,
        )
        flags = [(weight, weight.requires_grad) for weight in self._model.parameters()]
        try:
            for name, weight in self._model.named_parameters():
                weight.requires_grad_(name in self._names)
            self._trace()
        finally:
            for weight, trains in flags:
                weight.requires_grad_(trains)

    def _present(self) -> dict[str, Array]:
        weights = dict(self._model.named_parameters())
        if gone := [name for name in self._names if name not in weights]:
            raise ValueError(
                f"a module must keep its weights while it is measured, {gone[0]} is gone: make a Monitor anew"
            )
        if unlike := [name for name in self._names if tuple(weights[name].shape) != self.start[name].shape]:
            raise ValueError(
                f"a module must keep its weights while it is measured, {unlike[0]} has another shape: make a Monitor "
                "anew"
            )
        if (late := self._thawed()) and not self._told:
            self._told = True
            warnings.warn(
                f"{len(late)} weights train that were frozen when measuring began, {late[0]} first: they are measured "
                "as if they had stayed, make a Monitor anew to see them",
                stacklevel=3,
            )
        return {name: jnp.asarray(_array(weights[name]), self.start[name].dtype) for name in self._names}

    def _thawed(self) -> list[str]:
        weights = self._model.named_parameters()
        return [name for name, weight in weights if weight.requires_grad and name not in self._names]

    def _changed(self) -> dict[str, np.ndarray]:
        """Floating buffers that are not what they were at the start, or when the module was traced."""
        now = dict(self._model.named_buffers())
        present = {name: _array(now[name]) for name in self._buffers if name in now}
        before = (self.start, self._buffers)
        return {
            name: v
            for name, v in present.items()
            if not all(np.array_equal(v, values[name], equal_nan=True) for values in before)
        }


def _travelling(buffers: Mapping[str, np.ndarray]) -> dict[str, Array]:
    return {name: travelling(value) for name, value in buffers.items()}


def _order(name: str) -> tuple[bool, int]:
    """What is of all first, as in the docstring; groups as they come."""
    first = ("gap", "differential", "differential_error", "movement", "distance", "buffers")
    return name not in first, first.index(name) if name in first else 0


def checked_every(every: Any) -> int:
    """A number of steps."""
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"every must be a number of steps of at least 1, got {every!r}: every=100")
    return every


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _check_whole(model: nn.Module) -> None:
    sharded = any(type(part).__name__ == "FullyShardedDataParallel" for part in model.modules())
    for name, weight in model.named_parameters():
        if sharded or hasattr(weight, "device_mesh") or hasattr(weight, "ds_shape") or weight.is_meta:
            raise ValueError(
                f"Monitor needs whole weights in this process, got a part of {name}: measure a checkpoint of the run"
            )


def _on_device_of(model: nn.Module, batch: Any) -> Any:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def moved(entry: Any) -> Any:
        return entry.to(device) if isinstance(entry, Tensor) else entry

    if isinstance(batch, Mapping):  # one of transformers' own is no pytree
        return {name: _pytree.tree_map(moved, entry) for name, entry in batch.items()}
    return _pytree.tree_map(moved, batch) if isinstance(batch, Sequence) else moved(batch)


def _array(value: Any) -> np.ndarray:
    if not isinstance(value, Tensor):
        return np.asarray(value)
    value = value.detach()
    return np.array((value.float() if value.dtype in _HALF else value).numpy(force=True))


@contextmanager
def _as_its_class(model: nn.Module) -> Iterator[None]:
    """Without what autocast (accelerate) and compilation (Lightning, `Module.compile`) put before `forward`."""
    aside: list[tuple[nn.Module, str, Any]] = []
    for part in model.modules():
        held = vars(part)
        wrapped = "forward" in held and ("_original_forward" in held or "_compiler_ctx" in held)
        compiled = held.get("_compiled_call_impl") is not None
        aside += [(part, "forward", held["forward"])] if wrapped else []
        aside += [(part, "_compiled_call_impl", held["_compiled_call_impl"])] if compiled else []
    try:
        for part, name, _ in aside:
            vars(part)[name] = None if name == "_compiled_call_impl" else type(part).forward.__get__(part)
        yield
    finally:
        for part, name, value in aside:
            vars(part)[name] = value
