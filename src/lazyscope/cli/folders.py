"""Two checkpoint folders in Hugging Face's layout, and a file with a batch, for `lazyscope diagnose`.

transformers is imported here alone. No code that a folder brings is run.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lazyscope.adapters.folders import read, some
from lazyscope.diagnose import Diagnosis


def diagnosed(
    before: Path, after: Path, batch: Path, held_out: Path | None, *, ignore: Sequence[str], **options: Any
) -> Diagnosis:
    """The diagnosis of the model in `before` with the weights in `after`, on the entries of the file `batch`.

    `options` are those of `lazyscope.torch.diagnose`.

    ValueError or FileNotFoundError, in one line, for folders that hold no such model or need code of their own.
    """
    kind = _architecture(before)
    if (after / "adapter_config.json").is_file():
        raise ValueError(
            f"an adapter does not say where its own weights started, {after} is one: in Python, "
            "lazyscope.torch.diagnose(get_peft_model(model, config), batches, trained=FOLDER)"
        )
    if not after.exists():
        raise FileNotFoundError(f"AFTER must be a folder or a file of weights, got {after}: check the path")
    try:
        import lazyscope.torch as lst
    except ImportError:
        raise ValueError("folders of models need PyTorch: pip install 'lazyscope[transformers]'") from None
    data, rest = _batch(batch), None if held_out is None else _batch(held_out)
    model = _model(before, kind)
    try:
        return lst.diagnose(model, data, held_out=rest, trained=after, ignore=ignore, **options)
    except ValueError as error:
        raise ValueError(str(error).replace("ignore=[...]", "--ignore NAME ...")) from error


def _architecture(folder: Path) -> str:
    """The class of the model in a folder, by its config.json."""
    config = folder / "config.json"
    if not config.is_file():
        hint = " (an adapter of PEFT)" if (folder / "adapter_config.json").is_file() else ""
        raise ValueError(
            f"BEFORE must be a folder with config.json and weights, {folder} has none{hint}: save_pretrained"
        )
    try:
        found = json.loads(config.read_text())
        names = found.get("architectures") or []
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{config} must be the JSON of a model's settings, got another text: {error}") from None
    if found.get("auto_map"):
        raise ValueError(
            f"no code of a folder is run, and the model in {folder} needs some (auto_map in config.json): build it in "
            "Python and pass it to lazyscope.torch.diagnose"
        )
    if len(names) != 1 or not isinstance(names[0], str):
        raise ValueError(f"{config} must name one class in architectures, got {names}: save it with save_pretrained")
    return names[0]


def _model(folder: Path, kind: str) -> Any:
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("folders of models need transformers: pip install 'lazyscope[transformers]'") from None
    import torch  # pyright: ignore[reportMissingImports]

    built = getattr(transformers, kind, None)
    if built is None or not hasattr(built, "from_pretrained"):
        raise ValueError(f"architectures in {folder} must be a class of transformers, got {kind}: update transformers")
    read(folder)  # says in a line what is wrong with the files
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # In more digits than half precision has; attention in the form that has derivatives of every order.
    settings = {"dtype": torch.float32, "attn_implementation": "eager", "output_loading_info": True}
    try:
        model, info = built.from_pretrained(folder, local_files_only=True, use_safetensors=True, **settings)
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"{kind} must load from {folder}, got: {reason}") from error
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"BEFORE must have every weight at its start, {folder} lacks {some(missing)}: save the model as training "
            "finds it, model.save_pretrained(FOLDER)"
        )
    return model


def _batch(path: Path) -> dict[str, Any]:
    import torch  # pyright: ignore[reportMissingImports]

    arrays = read(path).arrays
    if words := [name for name, array in arrays.items() if array.dtype.kind not in "biufc"]:
        raise ValueError(
            f"a batch must hold numbers, got {some(words)} in {path}: leave out what the model does not take"
        )
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
