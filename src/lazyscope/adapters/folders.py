"""Arrays by name from a checkpoint on disk: a file, or a folder as Hugging Face's libraries write it.

Nothing that is read is executed: a pickled file is refused by name.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

INDEX = ".safetensors.index.json"
ADAPTER = "adapter_model.safetensors"
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_WEIGHTS = ("state_dict", "model_state_dict", "model")  # where trainers put them beside their own state
_OF_A_TRAINER = ("optimizer", "scheduler", "scaler", "training_args", "rng_state")


class Stored(NamedTuple):
    """Arrays by name; for a tied weight the name under which it is stored; whether they are an adapter of PEFT."""

    arrays: dict[str, np.ndarray]
    ties: dict[str, str]
    adapter: bool = False


def read(path: Path) -> Stored:
    """What is stored at a `.safetensors` or `.npz` file, or in a folder.

    In a folder: its one safetensors file, or the shards that its index names; what a trainer keeps beside them stays
    unread. FileNotFoundError for a path that is not there, ValueError for files that are damaged, missing, pickled or
    of another format.
    """
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"a checkpoint must be an existing file, got {path}: check the path (or that of its folder)"
        )
    if path.suffix == ".npz":
        return Stored(_npz(path), {})
    if path.suffix == ".safetensors":
        return Stored(*_safetensors(path), adapter=path.name == ADAPTER)
    if path.name.endswith(INDEX):
        return _shards(path)
    if path.suffix in _PICKLED:
        raise _pickled(path)
    raise ValueError(f"a checkpoint must be .safetensors or .npz, got {path.name}: save the state dict in one of them")


def _folder(folder: Path) -> Stored:
    # Hidden ones are no checkpoint: `lst.Callback` keeps the start in one, and some systems put notes beside files.
    indices, files = (
        [file for file in sorted(folder.glob(f"*{ending}")) if file.name[0] not in "_."]
        for ending in (INDEX, ".safetensors")
    )
    if len(indices) == 1:
        return _shards(indices[0])
    if not indices and len(files) == 1:
        return read(files[0])
    if indices or files:
        found = some(file.name for file in indices or files)
        raise ValueError(f"a folder must hold one checkpoint, {folder} has {found}: name the file that is meant")
    pickled = [file for file in sorted(folder.iterdir()) if file.suffix in _PICKLED]
    weights = [file for file in pickled if not file.name.startswith(_OF_A_TRAINER)]
    if weights:
        raise _pickled(weights[0])
    inner = [one.name for one in sorted(folder.glob("checkpoint-*")) if one.is_dir()]
    hint = (
        f"name one of its folders, {some(inner)}" if inner else "save the weights there, model.save_pretrained(FOLDER)"
    )
    raise ValueError(f"a folder must hold weights in safetensors, {folder} has none: {hint}")


def _shards(index: Path) -> Stored:
    try:
        places = json.loads(index.read_text())["weight_map"]
        shards = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"an index of shards must be JSON with a weight_map of names to files, {index} is not ({error}): "
            "save the model again"
        ) from None
    if foreign := [shard for shard in shards if not isinstance(shard, str) or Path(shard).name != shard]:
        raise ValueError(f"the shards of {index} must be files beside it, got {some(map(str, foreign))}")
    if missing := [shard for shard in shards if not (index.parent / shard).is_file()]:
        raise ValueError(
            f"{index} needs all of its shards, {index.parent} lacks {some(missing)}: copy the whole folder"
        )
    arrays: dict[str, np.ndarray] = {}
    ties: dict[str, str] = {}
    for shard in shards:
        part, noted = _safetensors(index.parent / shard)
        arrays, ties = arrays | part, ties | noted
    if lost := [name for name in places if name not in arrays]:
        raise ValueError(f"the shards of {index} must have what it names, they lack {some(lost)}: copy them again")
    return Stored(arrays, ties)


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (ValueError, EOFError, BadZipFile) as error:
        # NumPy takes any other file for a pickle and advises to trust it.
        raise ValueError(
            f"{path} must be an npz file of plain arrays, got another format or pickled objects: write it with np.savez"
        ) from error


def _safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise ValueError(f"reading {path} needs safetensors: pip install 'lazyscope[torch]'") from None
    try:
        with safe_open(path, framework="np") as file:
            return dict(zip(file.keys(), map(file.get_tensor, file.keys()), strict=True)), file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} must be a safetensors file, got: {error}") from error
    except AttributeError as error:  # of NumPy, by the name of the type
        kind = str(error).rpartition(" ")[2]
        raise ValueError(
            f"the trained weights must be of types that NumPy has, got {kind} in {path}: load the checkpoint without "
            "quantisation and save it so"
        ) from error


def _pickled(path: Path) -> ValueError:
    line = (
        f"import torch, safetensors.torch as s; d = torch.load({str(path)!r}, map_location='cpu', weights_only=True); "
        f"d = next((d[k] for k in {_WEIGHTS} if isinstance(d.get(k), dict)), d); "
        "s.save_file({k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}, "
        f"{str(path.with_suffix('.safetensors'))!r})"
    )
    return ValueError(
        f"a checkpoint must be safetensors, got {path.name}, a pickle, which runs code when it is loaded: if you trust "
        f'it, convert it by  python -c "{line}"'
    )


def some(names: Iterable[Any], most: int = 4) -> str:
    """The first few of some names, and how many more."""
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
