"""Is an image model in float32 refused at some seed? Its conversion, at random weights and images of every seed.

    python benchmarks/seeds.py {resnet50,efficientnet_lite0} [--seeds COUNT] [--first SEED]

Images are of 64 by 64. All of the conversion is run for each seed but what does not depend on it: the module is traced
once, its weights are replaced in place, and XLA's compilation is kept. Exit status 1 when a seed was refused.
"""

import argparse
import sys
import tempfile
import time
import warnings
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import jax
import torch
from zoo_models.operators import declare_operators

import lazyscope as ls


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
    export = torch.export.export

    @cache
    def exported(count: int) -> Any:
        return export(*call[count])

    call: dict[int, Any] = {}

    def once(function: Any, rows: Any) -> Any:
        call[len(rows[0])] = function, rows
        return exported(len(rows[0]))

    torch.export.export = once
    refused = 0
    with tempfile.TemporaryDirectory() as kept:
        jax.config.update("jax_compilation_cache_dir", kept)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        for seed in range(asked.first, asked.first + asked.seeds):
            other, x = built(asked.model, seed)
            module.load_state_dict(other.state_dict())
            began, said = time.perf_counter(), "converts"
            try:
                ls.adapters.from_torch(module, x)
            except ValueError as error:
                said, refused = str(error), refused + 1
            print(f"{asked.model} {seed}: {said}, {time.perf_counter() - began:.0f} s, {refused} refused", flush=True)
    return int(refused > 0)


if __name__ == "__main__":
    sys.exit(main())
