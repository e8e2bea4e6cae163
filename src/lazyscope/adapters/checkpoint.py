"""Weights from a file into the parameters of a model. Nothing that is read is executed."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from zipfile import BadZipFile

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from lazyscope import tree


def load_checkpoint(path: str | PathLike[str], params0: PyTree, *, ignore: Sequence[str] = ()) -> PyTree:
    """Parameters like `params0` with the values of a `.safetensors` or `.npz` file.

    Arrays go by the names of `tree.group_names` (`layers/0/w`; dots do as well), which for `from_torch` are PyTorch's
    own. `ignore` lists names in the file that are no parameters (`"*.running_mean"`). A file for any model:

        np.savez(path, **dict(zip(tree.group_names(params), tree.split(params)[0])))

    Raises FileNotFoundError for a missing file and ValueError for one of another format, for names that are missing
    or left over, and for another shape or type: nothing is widened, narrowed or reshaped silently.
    """
    theta0, merge = tree.split(params0)
    names = [_plain(name) for name in tree.group_names(params0)]
    arrays = {_plain(name): array for name, array in _read(Path(path)).items()}
    arrays = {name: v for name, v in arrays.items() if not any(fnmatchcase(name, _plain(p)) for p in ignore)}
    if missing := [name for name in names if name not in arrays]:
        raise ValueError(
            f"a checkpoint needs every parameter, {path} lacks {_some(missing)} and has "
            f"{_some(arrays)}: save all parameters under the names of the model"
        )
    if extra := sorted(arrays.keys() - set(names)):
        raise ValueError(
            f"a checkpoint must have nothing but parameters, {path} also has {_some(extra)}: name those in ignore=[...]"
        )
    for name, leaf in zip(names, theta0, strict=True):
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


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise FileNotFoundError(f"a checkpoint must be an existing file, got {path}: check the path")
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                return dict(file)
        except (ValueError, EOFError, BadZipFile) as error:
            # NumPy takes any other file for a pickle and advises to trust it.
            raise ValueError(
                f"{path} must be an npz file of plain arrays, got another format or pickled objects: write it with "
                "np.savez"
            ) from error
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    raise ValueError(f"a checkpoint must be .safetensors or .npz, got {path.name}: save the state dict in one of them")


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise ValueError(f"reading {path} needs safetensors: pip install 'lazyscope[torch]'") from None
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} must be a safetensors file, got: {error}") from error


def _plain(name: str) -> str:
    return name.replace("/", ".")


def _some(names: object, most: int = 4) -> str:
    listed = list(names)  # type: ignore[call-overload]
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
