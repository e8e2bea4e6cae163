"""torchvision's compiled operators, where its compiled part does not load: no model here calls one."""

import importlib.util
import re
from pathlib import Path

import torch

LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def declare_operators() -> None:
    """Name them to PyTorch, before anything imports torchvision."""
    found = importlib.util.find_spec("torchvision")
    if found is None or hasattr(torch.ops.torchvision, "nms"):
        return
    (folder,) = found.submodule_search_locations or [""]
    source = Path(folder, "_meta_registrations.py").read_text()
    for name in re.findall(r'register_(?:meta|fake)\("(?:torchvision::)?(\w+)"', source):
        LIBRARY.define(f"{name}(Tensor inputs) -> Tensor")
