"""What does a card do: figures at paper size, steps of full VGG-11, a diagnosis of GPT-2 small?

    python benchmarks/gpu.py            on the card at hand
    python benchmarks/gpu.py --dry      everything once at a size for a CPU: does it run?

Wall seconds, compilation included but for the steps. The rate of the card is that of one large product in
full float32; shares are of it. Goal, on a card of the H200's class: each figure in 60 seconds. Without a card nothing
but `--dry` runs, and nothing is kept from it.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from measure import RESULTS, environment
from transformer_nets import ANSWERS, Shape, gpt2

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np

import lazyscope as ls
from lazyscope import tree
from lazyscope.papers.reproduce import reproduce
from lazyscope.vision import vgg11

FIGURES, GOAL = ("chizat2019-fig1c", "note-fig3"), 60
Case = Callable[["Size"], dict[str, Any]]


class Size(NamedTuple):
    """How large everything is."""

    figures: str
    product: int
    factor: float
    images: int
    steps: int
    layers: int
    width: int
    heads: int
    tokens: int
    sequences: tuple[int, int]


FULL = Size("paper", 8192, 1.0, 512, 50, 12, 768, 12, 50257, (8, 64))
DRY = Size("tiny", 256, 1 / 16, 4, 2, 2, 16, 2, 64, (4, 8))


def rate(size: Size) -> dict[str, Any]:
    """FLOP/s of a large product of float32 matrices, none of whose digits are dropped."""
    a = jnp.ones((size.product, size.product), jnp.float32)
    with jax.default_matmul_precision("highest"):
        product = jax.jit(lambda u: u @ u)
        seconds = _best(lambda: product(a), 5)
    return {"GFLOP/s": 2 * size.product**3 / seconds / 1e9}


def figure(name: str) -> Case:
    """A figure from nothing to its page."""

    def measured(size: Size) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            _, findings = reproduce(name, size=size.figures, seeds=None, out=Path(folder))
            seconds = time.perf_counter() - began
        return {"seconds": seconds, "goal": GOAL, "claims": [str(finding.outcome.value) for finding in findings]}

    return measured


def image_net(size: Size) -> dict[str, Any]:
    """Full-batch steps of descent of VGG-11 on 32 x 32 images, as one compiled step."""
    model = vgg11(factor=size.factor)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model.init(jax.random.key(0), 2**0.5))
    x = jax.random.normal(jax.random.key(1), (size.images, 32, 32, 3), jnp.float32)
    y = jax.nn.one_hot(jnp.arange(size.images) % 10, 10, dtype=jnp.float32)

    @jax.jit
    def step(params: Any) -> Any:
        slope = jax.grad(lambda p: ls.square_loss(model.apply(p, x), y))(params)
        return jax.tree.map(lambda leaf, change: leaf - 1e-3 * change, params, slope)

    with jax.default_matmul_precision("highest"):
        compiled, seconds = step.lower(params).compile(), []
        flop = float((compiled.cost_analysis() or {}).get("flops", np.nan))
        for _ in range(size.steps):
            began = time.perf_counter()
            params = jax.block_until_ready(compiled(params))
            seconds.append(time.perf_counter() - began)
    one = float(np.median(seconds))
    return {"steps a second": 1 / one, "images a second": size.images / one, "GFLOP/s": flop / one / 1e9}


def language_model(size: Size) -> dict[str, Any]:
    """The diagnosis, kappa included, of a model of GPT-2 small's shape after one step of descent."""
    shape = Shape(size.layers, size.width, size.heads, size.tokens, size.sequences[1], ANSWERS)
    apply, params = gpt2(shape, jax.random.key(0))
    random = np.random.default_rng(0)
    ids = jnp.asarray(random.integers(0, size.tokens, size.sequences), jnp.int32)
    problem = ls.Problem(
        ids, jnp.asarray(random.integers(0, ANSWERS, size.sequences[0]), jnp.int32), loss=ls.cross_entropy
    )
    slope = jax.jit(jax.grad(lambda p: ls.cross_entropy(apply(p, ids), problem.y)))(params)
    after = jax.tree.map(lambda leaf, change: leaf - 0.1 * change, params, slope)
    began = time.perf_counter()
    found = ls.diagnose(apply, params, problem, params=after, key=jax.random.key(2))
    return {"seconds": time.perf_counter() - began, "weights": tree.size(params), "regime": str(found.regime)}


CASES: dict[str, Case] = {
    "float32 product": rate,
    **{name: figure(name) for name in FIGURES},
    "VGG-11": image_net,
    "GPT-2 small, diagnosis": language_model,
}


def main() -> int:
    """Print every number; keep them in results/gpu.json where they are a card's."""
    given = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    given.add_argument("--dry", action="store_true", help="everything once, at a size for a CPU")
    dry = given.parse_args().dry
    device = jax.devices()[0]
    if device.platform == "cpu" and not dry:
        print("benchmarks/gpu.py must have a card, got a CPU: install JAX for the card, or pass --dry", file=sys.stderr)
        return 2
    found = {}
    for name, measured in CASES.items():
        found[name] = measured(DRY if dry else FULL)
        if "GFLOP/s" in found[name]:
            found[name]["share of the product's rate"] = found[name]["GFLOP/s"] / found["float32 product"]["GFLOP/s"]
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    if not dry:
        kept = {"card": device.device_kind, "numbers": found, "environment": environment()}
        (RESULTS / "gpu.json").write_text(json.dumps(kept, indent=1) + "\n")
    return int(any(row["seconds"] > row["goal"] for row in found.values() if "goal" in row and not dry))


def _best(call: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return min(times[1:])


if __name__ == "__main__":
    sys.exit(main())
