"""What does a card do: figures at paper size, steps of full VGG-11, diagnoses of GPT-2 small and of ViT-B/16?

    python benchmarks/gpu.py                    on the card at hand, 15 minutes, most of which is compiling
    python benchmarks/gpu.py --only VGG-11      this one alone; the others are kept as they were on the same card
    python benchmarks/gpu.py --dry              everything once at a size for a CPU: does it run?

Wall seconds, compilation included but for steps, gradients and second diagnoses. The rate of the card is that of one
large product in full float32; shares are of it. Goal, on a card of the H200's class: each figure in 60 seconds, with
the outcomes of the CPU. A kernel in float32 beside one of the CPU in float64 tells how many digits the card keeps.
Without a card nothing but `--dry` runs, and nothing is kept from it.
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
from transformer_nets import ANSWERS, GPT2_SMALL, PATCH, SIDE, VIT_B16, Shape, gpt2, vit

import jax  # isort: skip
import jax.numpy as jnp
import numpy as np

import lazyscope as ls
from lazyscope import tree
from lazyscope.papers.reproduce import reproduce
from lazyscope.vision import vgg11

FIGURES, GOAL = ("chizat2019-fig1c", "note-fig3"), 60
FLOAT32 = "float32 product"
FILE = RESULTS / "gpu.json"
Case = Callable[["Size"], dict[str, Any]]


class Size(NamedTuple):
    """How large everything is."""

    figures: str
    product: int
    factor: float
    images: int
    steps: int
    gpt2: Shape
    sequences: tuple[int, int]
    vit: Shape
    side: int
    pictures: int


FULL = Size("paper", 8192, 1.0, 512, 50, GPT2_SMALL, (8, 64), VIT_B16, SIDE, 16)
DRY = Size("tiny", 256, 1 / 16, 4, 2, Shape(2, 16, 2, 64, 8, ANSWERS), (4, 8), Shape(2, 16, 2, 0, 5, 10), 2 * PATCH, 4)


def rate(dtype: Any) -> Case:
    """FLOP/s of a large product, none of whose digits are dropped."""

    def measured(size: Size) -> dict[str, Any]:
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            a = jnp.ones((size.product, size.product), dtype)
            product = jax.jit(lambda u: u @ u)
            seconds = _best(lambda: product(a), 5)
        return {"GFLOP/s": 2 * size.product**3 / seconds / 1e9}

    return measured


def digits(_size: Size) -> dict[str, Any]:
    """Distance of a tangent kernel of VGG-11 in float32 from that of the CPU in float64, over its largest entry."""

    def kernel(device: jax.Device, dtype: Any) -> np.ndarray:
        there = jax.device_put(jax.tree.map(lambda leaf: leaf.astype(dtype), (params, x)), device)
        return np.asarray(ls.tangent_kernel(model.apply, *there), np.float64)

    with jax.enable_x64(True):
        model = vgg11(factor=1 / 16)
        params = model.init(jax.random.key(0), 2**0.5)
        x = jax.random.normal(jax.random.key(1), (8, 32, 32, 3))
        here, exact = kernel(jax.devices()[0], jnp.float32), kernel(jax.devices("cpu")[0], jnp.float64)
    return {"float32 from float64": float(np.abs(here - exact).max() / np.abs(exact).max())}


def figure(name: str) -> Case:
    """A figure from nothing to its page."""

    def measured(size: Size) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            _, findings = reproduce(name, size=size.figures, seeds=None, out=Path(folder))
            seconds = time.perf_counter() - began
        others = [f.claim.sentence for f in findings if f.claim.expected.get(size.figures, f.outcome) != f.outcome]
        return {"seconds": seconds, "goal": GOAL, "claims": len(findings), "other than on the CPU": others}

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
        for _ in range(size.steps):
            began = time.perf_counter()
            params = jax.block_until_ready(compiled(params))
            seconds.append(time.perf_counter() - began)
    one = float(np.median(seconds))
    return {"steps a second": 1 / one, "images a second": size.images / one, "GFLOP/s": _flop(step, params) / one / 1e9}


def language_model(size: Size) -> dict[str, Any]:
    """A model of GPT-2 small's shape and the logits of eight answers."""
    apply, params = gpt2(size.gpt2, jax.random.key(0))
    random = np.random.default_rng(0)
    ids = jnp.asarray(random.integers(0, size.gpt2.tokens, size.sequences), jnp.int32)
    labels = jnp.asarray(random.integers(0, ANSWERS, size.sequences[0]), jnp.int32)
    return _diagnosed(apply, params, ls.Problem(ids, labels, loss=ls.cross_entropy))


def picture_model(size: Size) -> dict[str, Any]:
    """A model of ViT-B/16's shape and ten outputs."""
    apply, params = vit(size.vit, jax.random.key(0))
    random = np.random.default_rng(0)
    x = jnp.asarray(random.standard_normal((size.pictures, size.side, size.side, 3)), jnp.float32)
    y = jnp.asarray(np.eye(10)[random.integers(0, 10, size.pictures)], jnp.float32)
    return _diagnosed(apply, params, ls.Problem(x, y))


def _diagnosed(apply: Any, params: Any, problem: Any) -> dict[str, Any]:
    # Two diagnoses, kappa included, of weights one step of descent away; the second compiles nothing.
    def loss(weights: Any) -> Any:
        return problem.loss(apply(weights, problem.x), problem.y)

    with jax.default_matmul_precision("highest"):
        gradient = jax.jit(jax.grad(loss)).lower(params).compile()
        slope = gradient(params)
        one = _best(lambda: gradient(params), 10)
    length = sum(float(jnp.vdot(leaf, leaf)) for leaf in jax.tree.leaves(slope)) ** 0.5
    after = jax.tree.map(lambda leaf, change: leaf - 0.1 * change / length, params, slope)

    def diagnosed() -> tuple[Any, float]:
        began = time.perf_counter()
        found = ls.diagnose(apply, params, problem, params=after, key=jax.random.key(2), costs=True)
        return found, time.perf_counter() - began

    _, first = diagnosed()
    found, second = diagnosed()
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", np.nan)
    return {
        "weights": tree.size(params),
        "seconds": first,
        "seconds, compiled": second,
        "seconds of a gradient": one,
        "gradients": second / one,
        "parts": {} if found.costs is None else {part.part: part.seconds for part in found.costs.parts},
        "GFLOP/s": _flop(jax.grad(loss), params) / one / 1e9,
        "GiB": memory / 2**30,
        "regime": str(found.regime),
        "g": float(found.gap),
        "j": float(found.differential),
        "kappa": None if found.criterion is None else float(found.criterion.kappa),
    }


CASES: dict[str, Case] = {
    FLOAT32: rate(jnp.float32),
    "float64 product": rate(jnp.float64),
    "digits": digits,
    **{name: figure(name) for name in FIGURES},
    "VGG-11": image_net,
    "GPT-2 small, diagnosis": language_model,
    "ViT-B/16, diagnosis": picture_model,
}


def main() -> int:
    """Print every number, and keep it in results/gpu.json where it is a card's."""
    given = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    given.add_argument("--dry", action="store_true", help="everything once, at a size for a CPU")
    given.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    asked = given.parse_args()
    device = jax.devices()[0]
    if device.platform == "cpu" and not asked.dry:
        print("benchmarks/gpu.py must have a card, got a CPU: install JAX for the card, or pass --dry", file=sys.stderr)
        return 2
    found = {} if asked.dry else _kept(device.device_kind)
    for name, measured in CASES.items():
        if name in asked.only:
            row = found[name] = measured(DRY if asked.dry else FULL)
            if "GFLOP/s" in row and FLOAT32 in found:
                row["share of the product's rate"] = row["GFLOP/s"] / found[FLOAT32]["GFLOP/s"]
            print(f"{name}: {json.dumps(row)}", flush=True)
            if not asked.dry:
                numbers = {case: found[case] for case in CASES if case in found}
                kept = {"card": device.device_kind, "numbers": numbers, "environment": environment()}
                FILE.write_text(json.dumps(kept, indent=1) + "\n")
    figures = [row for name, row in found.items() if name in asked.only and "goal" in row]
    return int(not asked.dry and any(row["seconds"] > row["goal"] or row["other than on the CPU"] for row in figures))


def _kept(card: str) -> dict[str, Any]:
    kept = json.loads(FILE.read_text()) if FILE.is_file() else {}
    return kept["numbers"] if kept.get("card") == card else {}


def _flop(function: Callable[..., Any], *inputs: Any) -> float:
    # Of the program as it is written, for the CPU: a card's products are calls of a library, which nobody counts.
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), inputs)
    with jax.default_device(jax.devices("cpu")[0]):
        return float((jax.jit(function).lower(*shapes).cost_analysis() or {}).get("flops", np.nan))


def _best(call: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - began)
    return min(times[1:])


if __name__ == "__main__":
    sys.exit(main())
