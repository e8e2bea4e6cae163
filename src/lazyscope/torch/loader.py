"""Examples and their targets from whatever a training loop goes over."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any, NamedTuple

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from torch import Tensor  # pyright: ignore[reportMissingImports]
from torch.nn import functional  # pyright: ignore[reportMissingImports]
from torch.utils import _pytree  # pyright: ignore[reportMissingImports]

Targets = str | int | Callable[[Any], Any] | None
LABELS = ("labels", "label", "label_ids", "targets", "target", "y")
UNCOUNTED = -100


class Examples(NamedTuple):
    """Examples as the module takes them, in main memory, their targets, and how many of how many they are."""

    inputs: Any
    targets: Tensor
    number: int
    said: str
    key: str | None  # under which a mapping has the targets


def examples_of(name: str, batches: Any, model: Any, most: int, targets: Targets) -> Examples:
    """At most `most` examples of a batch, or of an iterable of batches.

    A batch is a tensor, a mapping, or a tuple or list of tensors as a DataLoader collates them; other iterables give
    batches. Targets are what `targets` says (a key, a position, a function of the batch), by default the entry of a
    mapping that is called labels, or the last of several entries. Token batches of different lengths are filled up
    where they have an attention mask. Raises ValueError for what is none of these.
    """
    kept: list[tuple[Any, Tensor]] = []
    number, key, more = 0, None, False
    for batch in [batches] if _is_batch(batches) else _iterable(name, batches):
        if not _is_batch(batch):
            raise ValueError(
                f"{name} must give batches, each a tensor, a tuple of tensors or a mapping, got "
                f"{type(batch).__name__}: collate them as a torch.utils.data.DataLoader does"
            )
        inputs, target, key = _parted(name, batch, model, targets)
        kept.append((_pytree.tree_map(_on_cpu, inputs), _on_cpu(torch.as_tensor(target))))
        rows = _rows(name, *kept[-1])
        number += rows
        if number >= most:
            more = True
            break
    if not number:
        raise ValueError(f"{name} must have an example, got none: a generator that has ended, or an empty loader")
    whole = _joined(name, _filled(kept, model))
    inputs, target = (_pytree.tree_map(lambda leaf: _first(leaf, most), part) for part in whole)
    number = min(number, most)
    return Examples(inputs, target, number, f"the first {number}" if more else f"all {number}", key)


def alike(data: Examples, rest: Examples | None, model: Any) -> tuple[Examples, Examples | None]:
    """Training and held-out examples of tokens in one length."""
    if rest is None:
        return data, None
    pairs = _filled([(one.inputs, one.targets) for one in (data, rest)], model)
    first, second = (
        one._replace(inputs=inputs, targets=y) for one, (inputs, y) in zip((data, rest), pairs, strict=True)
    )
    return first, second


def _iterable(name: str, batches: Any) -> Iterable[Any]:
    data = torch.utils.data
    if isinstance(batches, data.Dataset) and not isinstance(batches, data.IterableDataset):
        raise ValueError(
            f"{name} must give batches, got a {type(batches).__name__} of single examples: "
            "pass DataLoader(dataset, batch_size=64)"
        )
    if not isinstance(batches, Iterable):
        raise ValueError(f"{name} must be a batch or an iterable of batches, got {type(batches).__name__}")
    return batches


def _is_batch(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and any(map(_is_array, value))
    return _is_array(value) or isinstance(value, Mapping)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) and value.ndim > 0


def _parted(name: str, batch: Any, model: Any, targets: Targets) -> tuple[Any, Any, str | None]:
    """What the module takes, the targets, and the key of these in a mapping, which the module may need, too."""
    if callable(targets):
        return _arguments(batch, model), targets(batch), None
    if isinstance(batch, Mapping):
        keys = [targets] if targets is not None else [key for key in LABELS if key in batch]
        if not keys or keys[0] not in batch:
            raise _without(name, f"a mapping of {', '.join(map(str, batch))}", targets)
        entries = {key: value for key, value in batch.items() if _is_array(value) or _is_setting(value)}
        return entries | {k: v for k, v in batch.items() if _holds(v)}, batch[keys[0]], str(keys[0])
    if _is_array(batch) or len(batch) < 2 or isinstance(targets, str):
        raise _without(name, "a tensor" if _is_array(batch) else f"{len(batch)} entries", targets)
    at = len(batch) - 1 if targets is None else range(len(batch))[targets]
    return _arguments([entry for i, entry in enumerate(batch) if i != at], model), batch[at], None


def _without(name: str, got: str, targets: Targets) -> ValueError:
    wanted = "targets" if targets is None else f"targets={targets!r}"
    return ValueError(
        f"{name} must have {wanted}, got {got} by itself: pass (inputs, targets), a mapping with labels, or "
        "targets= as a key, a position or a function of the batch"
    )


def _arguments(entries: Any, model: Any) -> Any:
    """Positional entries by the names that the module has for them: what is left of a batch is for the module."""
    if not isinstance(entries, list | tuple):
        return entries
    if len(entries) == 1:
        return entries[0]
    slots = [p for p in signature(model.forward).parameters.values() if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    if len(slots) < len(entries):
        return tuple(entries)
    return {slot.name: entry for slot, entry in zip(slots, entries, strict=False)}


def _is_setting(value: Any) -> bool:
    return isinstance(value, bool | int | float | str)


def _holds(value: Any) -> bool:
    leaves = _pytree.tree_leaves(value)
    return bool(leaves) and all(map(_is_array, leaves))


def _on_cpu(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        leaf = torch.as_tensor(leaf)
    return leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf


def _rows(name: str, inputs: Any, target: Tensor) -> int:
    counts = {len(leaf) if leaf.ndim else 0 for leaf in (*_pytree.tree_leaves(inputs), target) if _is_tensor(leaf)}
    if len(counts) != 1:
        raise ValueError(
            f"every entry of a batch in {name} must have a row for each example, got {sorted(counts)} rows: the first "
            "axis counts examples (a DataLoader puts single ones together)"
        )
    return counts.pop()


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)


def _first(leaf: Any, most: int) -> Any:
    return leaf[:most] if _is_tensor(leaf) else leaf


def _joined(name: str, parts: Sequence[tuple[Any, Tensor]]) -> tuple[Any, Tensor]:
    """The batches as one."""
    structures = {str(_pytree.tree_structure(part)) for part in parts}
    shapes = [{tuple(leaf.shape[1:]) for leaf in column} for column in _columns(parts)]
    if len(structures) > 1 or any(len(each) > 1 for each in shapes):
        differing = next((sorted(each) for each in shapes if len(each) > 1), "other entries")
        raise ValueError(
            f"the batches of {name} must have examples of one shape, got {differing}: pad them to one length, or pass "
            "a mapping with input_ids and attention_mask, which is padded here"
        )
    leaves = [_pytree.tree_flatten(part) for part in parts]
    columns = zip(*(leaf for leaf, _ in leaves), strict=True)
    joined = [torch.cat(column) if _is_tensor(column[0]) else column[0] for column in columns]
    return _pytree.tree_unflatten(joined, leaves[0][1])


def _columns(parts: Sequence[Any]) -> Iterable[list[Tensor]]:
    for column in zip(*(_pytree.tree_leaves(part) for part in parts), strict=False):
        yield [leaf for leaf in column if _is_tensor(leaf)]


def _filled(parts: Sequence[tuple[Any, Tensor]], model: Any) -> Sequence[tuple[Any, Tensor]]:
    """Token batches filled up on the right to the longest: tokens that the attention mask takes out."""
    if not all(isinstance(inputs, Mapping) and "attention_mask" in inputs for inputs, _ in parts):
        return parts
    pad = getattr(getattr(model, "config", None), "pad_token_id", None)
    fillers = {"input_ids": pad if isinstance(pad, int) else 0} | dict.fromkeys(LABELS, UNCOUNTED)
    lengths = [inputs["attention_mask"].shape[1] for inputs, _ in parts]
    return [
        (
            {key: _longer(value, now, max(lengths), fillers.get(key, 0)) for key, value in inputs.items()},
            _longer(target, now, max(lengths), UNCOUNTED),
        )
        for (inputs, target), now in zip(parts, lengths, strict=True)
    ]


def _longer(value: Any, now: int, length: int, filler: int) -> Any:
    if not _is_tensor(value) or value.ndim < 2 or value.shape[1] != now or value.is_floating_point():
        return value
    return functional.pad(value, (0, 0) * (value.ndim - 2) + (0, length - now), value=filler)
