"""What does a diagnosis cost, in gradients of the model's loss and in compilations of that gradient?

    python benchmarks/diagnose.py                       the models of 5 million weights, and those of 40
    python benchmarks/diagnose.py --only bert-5 --rounds 1
    python benchmarks/diagnose.py --only gpt2-small vit-b16 --rounds 4      to size, five diagnoses each, with memory

Fully connected, VGG-11, BERT- and GPT-2-shaped models (`transformer_nets.py`), float32, judged at weights one step of
descent away. A process of its own a model, with JAX's persistent cache in a fresh folder: one diagnosis compiles, then
come ROUNDS of a diagnosis and gradients taking turns, then a second process diagnoses once more. Times are processor
seconds of all threads. Goals: g and j at most 12 gradients, kappa at most 60; compiling at most 4 times that of the
gradient; no program compiled in the second process. To size the first diagnosis, its compiling apart, is a round, too;
goals are 15 minutes and 14 GiB on two cores.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from measure import RESULTS, ROUNDS, Ratio, conclude

HERE = Path(__file__).parent
GOALS = {"g and j": 12, "kappa": 60, "compiling": 4, "programs": 0, "minutes": 15, "GiB": 14}
WEIGHTS = (5, 40)  # millions


class Work(NamedTuple):
    """A model with its data; `examples` are as many as a batch of such a model has."""

    apply: Callable
    params: dict
    problem: Any  # ls.Problem, imported where a model is made


def mlp(millions: int) -> Work:
    """Three hidden layers on 64 images of 784 pixels, ten outputs, square loss."""
    import jax
    import jax.numpy as jnp

    import lazyscope as ls

    widths = (784, *{5: (1600, 1600, 800), 40: (4800, 4800, 2500)}[millions], 10)
    model = ls.mlp(widths, bias=True)
    params = model.init(jax.random.key(0), jnp.sqrt(2 / jnp.array(widths[:-1])))
    return _regression(model.apply, params, (64, 784))


def vgg(millions: int) -> Work:
    """VGG-11 on 16 images of CIFAR's shape, ten outputs, square loss."""
    import jax

    from lazyscope.vision import vgg11

    model = vgg11(factor={5: 0.75, 40: 2.0625}[millions])
    return _regression(model.apply, model.init(jax.random.key(0), 2**0.5), (16, 32, 32, 3))


def bert(millions: int) -> Work:
    """A BERT-shaped classifier of two classes on 16 sequences of 32 tokens."""
    from transformer_nets import Shape, bert

    shape = {5: Shape(4, 256, 4, 8192, 128, 2), 40: Shape(8, 512, 8, 29000, 512, 2)}[millions]
    return _tokens(bert, shape, (16, 32))


def gpt2(millions: int) -> Work:
    """A GPT-2-shaped model, logits of eight answers after 8 sequences of 64 tokens; 124 is GPT-2 small."""
    from transformer_nets import GPT2_SMALL, Shape, gpt2

    shapes = {5: Shape(4, 256, 4, 8192, 128, 8), 40: Shape(8, 512, 8, 29000, 512, 8), 124: GPT2_SMALL}
    return _tokens(gpt2, shapes[millions], (8, 64))


def vit(_millions: int) -> Work:
    """ViT-B/16 on 16 images of 224 x 224, ten outputs, square loss."""
    import jax
    from transformer_nets import SIDE, VIT_B16, vit

    return _regression(*vit(VIT_B16, jax.random.key(0)), (16, SIDE, SIDE, 3))


CASES: dict[str, tuple[Callable[[int], Work], int]] = {
    f"{name}-{size}": (make, size)
    for size in WEIGHTS
    for name, make in (("mlp", mlp), ("vgg", vgg), ("bert", bert), ("gpt2", gpt2))
}
TO_SIZE: dict[str, tuple[Callable[[int], Work], int]] = {"gpt2-small": (gpt2, 124), "vit-b16": (vit, 86)}


def _regression(apply: Callable, params: dict, shape: tuple[int, ...]) -> Work:
    import jax
    import jax.numpy as jnp
    import numpy as np

    import lazyscope as ls

    random = np.random.default_rng(0)
    x, y = random.standard_normal(shape), np.eye(10)[random.integers(0, 10, shape[0])]
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    return Work(apply, params, ls.Problem(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)))


def _tokens(make: Callable, shape: Any, batch: tuple[int, int]) -> Work:
    import jax
    import jax.numpy as jnp
    import numpy as np

    import lazyscope as ls

    random = np.random.default_rng(0)
    ids = jnp.asarray(random.integers(0, shape.tokens, batch), jnp.int32)
    labels = jnp.asarray(random.integers(0, shape.outputs, batch[0]), jnp.int32)
    apply, params = make(shape, jax.random.key(0))
    return Work(apply, params, ls.Problem(ids, labels, loss=ls.cross_entropy))


def measured(name: str, rounds: int, cache: str) -> dict:
    """Diagnoses of one model in this process: the first, which compiles, and `rounds` more."""
    import jax
    import numpy as np

    import lazyscope as ls
    from lazyscope.cli import programs

    os.environ[programs.VARIABLE] = cache
    programs.keep()
    make, millions = (CASES | TO_SIZE)[name]
    apply, params0, problem = make(millions)

    @jax.jit
    def step(params: dict) -> dict:
        slope = jax.grad(lambda p: problem.loss(apply(p, problem.x), problem.y))(params)
        length = sum(jax.numpy.vdot(leaf, leaf) for leaf in jax.tree.leaves(slope)) ** 0.5
        return jax.tree.map(lambda leaf, change: leaf - 0.1 * change / length, params, slope)

    params = jax.block_until_ready(step(params0))
    own, found, walls = programs.report()["compiled"], [], []
    for _ in range(1 + rounds):
        began = time.perf_counter()
        found.append(ls.diagnose(apply, params0, problem, params=params, key=jax.random.key(1), costs=True))
        walls.append(time.perf_counter() - began)
        print(f"{name}: {walls[-1]:.0f} s", file=sys.stderr, flush=True)
    crit, costs = found[0].criterion, found[0].costs
    assert crit is not None
    assert costs is not None
    weights = sum(leaf.size for leaf in jax.tree.leaves(params0))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "weights": weights,
        "first": costs._asdict() | {"parts": [part._asdict() for part in costs.parts]},
        "rounds": [
            {part.part: part.gradients for part in one.costs.parts}
            for one in (found if name in TO_SIZE else found[1:])
            if one.costs
        ],
        "programs": programs.report()["compiled"] - own,
        "megabytes": programs.report()["bytes"] / 2**20,
        "walls": walls,
        "peak_gib": peak,
        "peak_copies": peak * 2**30 / (4 * weights),
        "search": {
            "value": crit.hessian_norm.value,
            "starts": crit.hessian_norm.starts,
            "agree": crit.hessian_norm.agree,
            "spread": crit.hessian_norm.spread,
            "converged": crit.hessian_norm.converged,
            "products": crit.products,
        },
        "kernel_examples": found[0].kernel_examples,
        "j": [float(v) for v in (found[0].differential, found[0].differential.low, found[0].differential.high)],
        "finite": bool(np.isfinite(float(found[0].gap))),
    }


def process(name: str, rounds: int, cache: str) -> dict:
    """`measured` in a process of its own."""
    command = [sys.executable, __file__, "--one", name, "--rounds", str(rounds), "--cache", cache]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def rows_of(name: str, found: dict, again: dict | None) -> list[Ratio]:
    """The goals of one model."""
    compiling = sum(part["compiling"] for part in found["first"]["parts"]) / found["first"]["gradient_compiling"]
    rows = []
    if found["rounds"]:
        for label, words in (("g and j", ("measuring the gap", "measuring j")), ("kappa", ("kappa, products",))):
            costs = sorted(sum(one.get(word, 0.0) for word in words) for one in found["rounds"])
            rows.append(_at_most(name, f"{label}, gradients", costs, GOALS[label]))
        for word in ("measuring layers", "measuring kernels"):
            rows.append(
                _at_most(name, f"{word.split()[1]}, gradients", [one.get(word, 0.0) for one in found["rounds"]])
            )
    if name in TO_SIZE:
        rows.append(_at_most(name, "minutes", [seconds / 60 for seconds in found["walls"]], GOALS["minutes"]))
        rows.append(_at_most(name, "peak of the process, GiB", [found["peak_gib"]], GOALS["GiB"]))
    rows.append(_at_most(name, "compiling, over the gradient's", [compiling], GOALS["compiling"]))
    if again is not None:
        rows.append(
            _at_most(name, "programs compiled by a second process", [float(again["programs"])], GOALS["programs"])
        )
    return rows


def _at_most(case: str, name: str, values: list[float], goal: float | None = None) -> Ratio:
    return Ratio(case, name, min(values), statistics.median(values), max(values), goal, at_most=True)


def kept() -> dict:
    """What was measured before."""
    file = RESULTS / "diagnose.json"
    return json.loads(file.read_text()) if file.is_file() else {"rows": [], "numbers": {}}


def _others(names: list[str]) -> tuple[list[Ratio], dict]:
    """What was measured before of models that are not measured now."""
    before, fields = kept(), Ratio.__dataclass_fields__
    rows = [Ratio(**{key: row[key] for key in fields}) for row in before["rows"] if row["case"] not in names]
    return rows, {name: found for name, found in before["numbers"].items() if name not in names}


def main() -> int:
    """Print the table and keep it; returns the number of goals missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=[*CASES, *TO_SIZE])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--more", action="store_true", help="count the rounds that are kept of a model, too")
    parser.add_argument("--one", choices=[*CASES, *TO_SIZE], help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measured(asked.one, asked.rounds, asked.cache)))
        return 0
    rows, numbers = _others(asked.only)
    before = kept()["numbers"] if asked.more else {}
    for name in asked.only:
        with tempfile.TemporaryDirectory() as cache:
            found = process(name, asked.rounds, cache)
            again = process(name, 0, cache) if name in CASES else None
        if name in before:
            found |= {part: before[name][part] + found[part] for part in ("rounds", "walls")}
            found["peak_gib"] = max(before[name]["peak_gib"], found["peak_gib"])
        rows += rows_of(name, found, again)
        numbers[name] = found
        print(name, json.dumps(found), flush=True)
    return conclude("diagnose", rows, numbers)


if __name__ == "__main__":
    sys.exit(main() > 0)
