"""Is an image model in float32 refused at some seed? Its conversion, at random weights and images of every seed.

    python benchmarks/seeds.py {resnet50,efficientnet_lite0} [--seeds COUNT] [--first SEED]

Images are of 64 by 64. All of the conversion is run for each seed but what does not depend on it: the module is traced
once, its weights are replaced in place, and the program of the check in JAX is compiled once, a function of the
weights. Seconds are those of the processor. Exit status 1 when a seed was refused.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from zoo_models.operators import declare_operators

import lazyscope as ls
from lazyscope.adapters.torch import comparison


def built(name: str, seed: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """The model and two images."""
    declare_operators()
    import timm
    import torchvision

    torch.manual_seed(seed)
    models = {"resnet50": torchvision.models.resnet50, "efficientnet_lite0": timm.models.efficientnet_lite0}
    return models[name](num_classes=10).eval(), torch.randn(2, 3, 64, 64)


def main() -> int:
    """Convert at each seed; returns 1 when one was refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("resnet50", "efficientnet_lite0"))
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    module, _ = built(asked.model, asked.first)
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    _kept()
    refused = 0
    for seed in range(asked.first, asked.first + asked.seeds):
        other, x = built(asked.model, seed)
        # They are constants of what is kept.
        assert all(torch.equal(buffers[name], buffer) for name, buffer in other.named_buffers()), "buffers differ"
        module.load_state_dict(other.state_dict())
        began, said = time.process_time(), "converts"
        try:
            ls.adapters.from_torch(module, x)
        except ValueError as error:
            said, refused = str(error), refused + 1
        print(f"{asked.model} {seed}: {said}, {time.process_time() - began:.1f} s, {refused} refused", flush=True)
    return int(refused > 0)


def _kept() -> None:
    """From now on the first graph is each one's, and so is the first program of the check."""
    export, products = torch.export.export, comparison.products
    kept: dict[str, Any] = {}

    def exported(function: Any, rows: Any) -> Any:
        if "graph" not in kept:
            kept["graph"] = export(function, rows)
        return kept["graph"]

    def compiled(apply: Any) -> Any:
        if "program" not in kept:
            kept["program"] = products(apply)
        return kept["program"]

    torch.export.export, comparison.products = exported, compiled


if __name__ == "__main__":
    sys.exit(main())
