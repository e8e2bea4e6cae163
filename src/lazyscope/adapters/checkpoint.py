"""Weights from a file into the parameters of a model. Nothing that is read is executed."""

from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lazyscope import tree
from lazyscope.adapters.folders import read, some


def load_checkpoint(path: str | PathLike[str], params0: PyTree, *, ignore: Sequence[str] = ()) -> PyTree:
    """Parameters like `params0` with the values of a `.safetensors` or `.npz` file, or of a folder (`folders.read`).

    Arrays go by the names of `tree.group_names` (`layers/0/w`; dots do as well), which for `from_torch` are PyTorch's
    own. `ignore` lists names in the file that are no parameters (`"*.running_mean"`). Tied weights may be there under
    one of their names, which `safetensors.torch.save_model` notes, or under all with equal values. A file for any
    model:

        np.savez(path, **dict(zip(tree.group_names(params), tree.split(params)[0])))

    Raises FileNotFoundError for a missing file and ValueError for one of another format, for names that are missing,
    left over or the same with dots for slashes, and for another shape or type: nothing is widened, narrowed or
    reshaped silently.
    """
    theta0, merge = tree.split(params0)
    names = _distinct(tree.group_names(params0), "the model")
    stored, ties, _ = read(Path(path))
    arrays = dict(zip(_distinct(stored, str(path)), stored.values(), strict=True))
    arrays = _untied(arrays, {_plain(name): _plain(kept) for name, kept in ties.items()}, names)
    arrays = {name: v for name, v in arrays.items() if not any(fnmatchcase(name, _plain(p)) for p in ignore)}
    if missing := [name for name in names if name not in arrays]:
        raise ValueError(
            f"a checkpoint needs every parameter, {path} lacks {some(missing)} and has "
            f"{some(arrays)}: save all parameters under the names of the model"
        )
    if extra := sorted(arrays.keys() - set(names)):
        raise ValueError(
            "a checkpoint must have nothing but parameters, once or as equal values under the names of a tie, "
            f"{path} also has {some(extra)}: name those in ignore=[...]"
        )
    for name, leaf in zip(names, theta0, strict=True):
        if leaf.dtype == jnp.bfloat16 and arrays[name].dtype == np.dtype("V2"):
            arrays[name] = arrays[name].view(
                leaf.dtype
            )  # npz keeps the bits of a type that NumPy has not, not its name
        found = arrays[name]
        if found.shape == leaf.shape and found.dtype != leaf.dtype:
            raise ValueError(
                f"a checkpoint must fit the model, {name} in {path} is {found.dtype} where the model has {leaf.dtype}: "
                "cast the arrays of the file, or build the model's parameters in that type"
            )
        if found.shape != leaf.shape:
            raise ValueError(
                f"a checkpoint must fit the model, {name} in {path} is {found.dtype} of shape {found.shape} where the "
                f"model has {leaf.dtype} of shape {tuple(leaf.shape)}: build the model of the checkpoint"
            )
    return merge([jnp.array(arrays[name]) for name in names])


def _distinct(names: Iterable[str], where: str) -> list[str]:
    plain = [_plain(name) for name in names]
    if repeated := sorted(name for name, count in Counter(plain).items() if count > 1):
        raise ValueError(
            f"names in a checkpoint must differ when a / is read as a dot, {where} has several {some(repeated)}: "
            "rename them"
        )
    return plain


def _untied(arrays: dict[str, np.ndarray], ties: dict[str, str], names: list[str]) -> dict[str, np.ndarray]:
    """The arrays under the names of the model, without the other names of its tied weights."""
    noted = {name: ties[name] for name in names if name not in arrays and ties.get(name) in arrays}
    named = {name: arrays[noted.get(name, name)] for name in names if name in arrays or name in noted}
    extra = {name: v for name, v in arrays.items() if name not in named and name not in noted.values()}
    return named | {name: v for name, v in extra.items() if not is_copy(v, named.values())}


def is_copy(array: np.ndarray, others: Iterable[np.ndarray]) -> bool:
    """Whether an array, of more than one value, is equal to one of the others."""
    bits = array.tobytes()
    if bits == bits[: array.itemsize] * array.size:
        return False  # one value says nothing: zeros may as well be a bias that this model does not have
    return any(v.dtype == array.dtype and v.shape == array.shape and v.tobytes() == bits for v in others)


def _plain(name: str) -> str:
    return name.replace("/", ".")
