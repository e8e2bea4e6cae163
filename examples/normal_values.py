"""What is a normal value of g and j? Reference diagnoses, from a linear model to nets as they are trained in practice.

    python examples/normal_values.py                          # all of them, as a table
    python examples/normal_values.py "an MLP that classifies"  # some
    python examples/normal_values.py --out FOLDER             # also as JSON, CSV and a picture

Two-layer nets learn from a teacher by full-batch descent; the nets on handwritten digits are trained by minibatches, as
in practice. `docs/normal.md` shows the table, and `diagnose` says between which two of these its own result lies.
"""

import argparse
import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import lazyscope as ls
from lazyscope import figures, views

CLASSES, BATCH, STEPS = 10, 64, 300
MOMENTUM, ADAM_RATE = 0.9, 1e-3
NARROW, WIDE = 32, 128  # at the narrow one muP is the standard parametrisation
N, D, WIDTH, DESCENT_STEPS = 500, 50, 50, 1000  # the two-layer nets
EXAMPLES = 100  # held-out inputs on which j and the kernel are measured


# Data: a teacher to learn from, and handwritten digits.


def teacher() -> ls.Problem:
    return ls.teacher_student(jax.random.key(0), n=N, d=D, n_test=N)


@cache
def digits(loss: Callable, first: int = 0, classes: int = CLASSES) -> ls.Problem:
    """Digits `first` to `first + classes − 1`; one-hot targets for the square loss. 600 to learn from, 300 held out."""
    images, labels = load_digits(return_X_y=True)
    chosen = np.flatnonzero((labels >= first) & (labels < first + classes))[:900]
    x = jnp.asarray(((images - images.mean()) / images.std())[chosen].reshape(-1, 8, 8, 1))
    y = jnp.asarray(labels[chosen] - first, jnp.int32)
    if loss is ls.square_loss:
        y = jax.nn.one_hot(y, classes, dtype=x.dtype)
    held_out = np.arange(len(y)) % 3 == 0
    return ls.Problem(x[~held_out], y[~held_out], x[held_out], y[held_out], loss=loss)


# Nets: the shapes of their weights, and the forward pass.


def mlp_shapes(width: int) -> dict[str, tuple[int, int]]:
    return {"first": (64, width), "hidden": (width, width), "readout": (width, CLASSES)}


def mlp(w, x):
    x = jax.nn.relu(x.reshape(x.shape[0], -1) @ w["first"])
    return jax.nn.relu(x @ w["hidden"]) @ w["readout"]


def conv_shapes(width: int) -> dict[str, tuple[int, int]]:
    channels = width // 4
    return {"first": (9, channels), "hidden": (9 * channels, channels), "readout": (channels, CLASSES)}


def patches(x):
    # Shifts and one product: inside a compiled loop XLA's own convolutions are many times slower on a CPU.
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=-1)


def conv(w, x):
    x = jax.nn.relu(patches(x) @ w["first"])
    x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    return jax.nn.relu(patches(x) @ w["hidden"]).mean(axis=(1, 2)) @ w["readout"]


def attention_shapes(width: int) -> dict[str, tuple[int, int]]:
    size = width // 2
    hidden = dict.fromkeys(("query", "key", "value"), (size, size))
    return {"first": (8, size), **hidden, "readout": (size, CLASSES)}


def attention(w, x):
    """The eight rows of an image are the tokens."""
    tokens = x[..., 0] @ w["first"]
    query, key, value = (tokens @ w[name] for name in ("query", "key", "value"))
    scores = jax.nn.softmax(jnp.einsum("nid,njd->nij", query, key) / math.sqrt(query.shape[-1]))
    return (tokens + scores @ value).mean(axis=1) @ w["readout"]


NETS = {"MLP": (mlp_shapes, mlp), "conv net": (conv_shapes, conv), "attention block": (attention_shapes, attention)}


def standard(_name: str, fan_in: int, _width: int) -> tuple[float, float]:
    """Standard deviation and multiplier of a weight: He et al. (2015)."""
    return math.sqrt(2 / fan_in), 1.0


def ntk(_name: str, fan_in: int, _width: int) -> tuple[float, float]:
    """Jacot et al. (2018): weights of size 1, scaled in the forward pass; the outputs start as with `standard`."""
    return 1.0, math.sqrt(2 / fan_in)


def mup(name: str, fan_in: int, width: int) -> tuple[float, float]:
    """Yang et al. (2022), Table 8, for SGD: a multiplier c does what c² times the learning rate of that weight does."""
    wider = width / NARROW
    deviation = math.sqrt(2 / fan_in) / (math.sqrt(wider) if name == "readout" else 1.0)
    multiplier = {"first": math.sqrt(wider), "readout": 1 / math.sqrt(wider)}.get(name, 1.0)
    return deviation / multiplier, multiplier


def build(net: str, parametrisation: Callable, width: int, seed: int = 1) -> tuple[Callable, dict]:
    """A net and its weights: `apply(params, x)`, `params0`."""
    shapes_of, forward = NETS[net]
    shapes = shapes_of(width)
    scales = {name: parametrisation(name, shape[0], width) for name, shape in shapes.items()}
    keys = dict(zip(shapes, jax.random.split(jax.random.key(seed), len(shapes)), strict=True))
    params0 = {name: scales[name][0] * jax.random.normal(keys[name], shape) for name, shape in shapes.items()}

    def apply(params, x):
        return forward({name: scales[name][1] * w for name, w in params.items()}, x)

    return apply, params0


# Trainers: plain loops, which follow the output scale that they are told (`ls.Scale`). `shrink` is the part of every
# weight that a step takes besides: decoupled weight decay times the learning rate, whatever the scale.


def descent(problem: ls.Problem, shrink: float = 0.0) -> Callable:
    """Full-batch descent at half the stability limit of the model that it gets, which has alpha in it."""

    def train(apply, params0, _scale):
        optimizer = optax.sgd(ls.stable_step_size(apply, params0, problem))
        return loop(apply, params0, problem, optimizer, DESCENT_STEPS, shrink=shrink)

    return train


def minibatches(
    problem: ls.Problem, optimizer: Callable[[ls.Scale], Any], shrink: float = 0.0, num_steps: int = STEPS
) -> Callable:
    """Steps on random minibatches, the same ones each time, by the optimiser that fits the scale."""

    def train(apply, params0, scale):
        return loop(apply, params0, problem, optimizer(scale), num_steps, batch=BATCH, shrink=shrink)

    return train


def sgd(rate: float) -> Callable[[ls.Scale], Any]:
    return lambda scale: optax.sgd(rate * scale.sgd, momentum=MOMENTUM)


def adam(rate: float = ADAM_RATE) -> Callable[[ls.Scale], Any]:
    return lambda scale: optax.adam(rate * scale.adam)


def limit(apply, params0, problem) -> float:
    """Half the step at which plain descent gets unstable: the rate of SGD here."""
    few = ls.Problem(problem.x[:128], problem.y[:128], loss=problem.loss)
    return float(ls.stable_step_size(apply, params0, few))


def loop(apply, params0, problem, optimizer, num_steps, *, batch=None, shrink=0.0):
    optimizer = optax.chain(optimizer, optax.add_decayed_weights(-shrink))

    def step(state, key):
        params, memory = state
        x, y = problem.x, problem.y
        if batch is not None:
            rows = jax.random.randint(key, (batch,), 0, problem.num_examples)
            x, y = x[rows], y[rows]
        gradient = jax.grad(lambda p: problem.loss(apply(p, x), y))(params)
        updates, memory = optimizer.update(gradient, memory, params)
        return (optax.apply_updates(params, updates), memory), None

    @jax.jit
    def run(params):
        keys = jax.random.split(jax.random.key(2), num_steps)
        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    return run(params0)


# The references.


def two_layer(tau: float, doubled: bool = True, shrink: float = 0.0) -> ls.Case:
    problem, model = teacher(), ls.two_layer(WIDTH, D)
    params0 = model.init(jax.random.key(1), tau=tau, doubled=doubled)
    return ls.Case(model.apply, params0, problem, train=descent(problem, shrink))


def centred_tanh(alpha: float) -> ls.Case:
    problem, model = teacher(), ls.two_layer(WIDTH, D, jnp.tanh)
    params0 = model.init(jax.random.key(1))
    return ls.Case(ls.center(model.apply, params0), params0, problem, train=descent(problem), alpha=alpha)


def linear_model() -> ls.Case:
    problem = teacher()
    return ls.Case(lambda w, x: x @ w, jnp.zeros(D), problem, train=descent(problem))


def net(
    name: str,
    width: int,
    parametrisation: Callable = standard,
    loss: Callable = ls.square_loss,
    by: str = "SGD",
    shrink: float = 0.0,
) -> ls.Case:
    problem = digits(loss)
    apply, params0 = build(name, parametrisation, width)
    optimizer = sgd(limit(apply, params0, problem)) if by == "SGD" else adam()
    return ls.Case(apply, params0, problem, train=minibatches(problem, optimizer, shrink))


RANK, HALF, PROBING = 4, 5, 30  # of LoRA; digits a task; steps in which the new head is fitted before


@cache
def pretrained() -> dict:
    """An MLP after five of the digits, with a head fitted to the other five on its features (Kumar et al. 2022)."""
    apply, params0 = build("MLP", standard, WIDE)
    params0 = params0 | {"readout": params0["readout"][:, :HALF]}
    one = ls.Scale(1.0)
    params = minibatches(digits(ls.cross_entropy, 0, HALF), adam())(apply, params0, one)
    problem = digits(ls.cross_entropy, HALF, HALF)

    def head(readout, x):
        return apply(params | {"readout": readout}, x)

    fit = minibatches(problem, adam(1e-2), num_steps=PROBING)
    return params | {"readout": fit(head, jnp.zeros_like(params["readout"]), one)}


def fine_tuned(lora: bool) -> ls.Case:
    """All weights, or a pair of rank 4 beside each hidden matrix, its b zero, and the head (Hu et al. 2022)."""
    start, problem = pretrained(), digits(ls.cross_entropy, HALF, HALF)
    if not lora:
        return ls.Case(mlp, start, problem, train=minibatches(problem, adam()))
    keys = jax.random.split(jax.random.key(3), 2)
    params0: dict[str, Any] = {"readout": start["readout"]}
    for key, name in zip(keys, ("first", "hidden"), strict=True):
        rows, columns = start[name].shape
        a = jax.random.normal(key, (RANK, columns)) / math.sqrt(columns)
        params0[name] = {"a": a, "b": jnp.zeros((rows, RANK))}

    def apply(params, x):
        corrected = {name: start[name] + params[name]["b"] @ params[name]["a"] for name in ("first", "hidden")}
        return mlp(corrected | {"readout": params["readout"]}, x)

    return ls.Case(apply, params0, problem, train=minibatches(problem, adam()))


@dataclass(frozen=True)
class Reference:
    """What is trained, how, and the case. Its name is what `diagnose` prints."""

    name: str
    loss: str
    by: str
    build: Callable[[], ls.Case]


def in_practice(article: str, name: str) -> list[Reference]:
    """A net in three parametrisations at two widths. At the narrow one muP is the standard one."""
    ways = (("standard", standard), ("NTK", ntk), ("muP", mup))
    return [
        Reference(
            f"{article} {name} of width {width}, {way}", "square", "SGD", partial(net, name, width, parametrisation)
        )
        for width in (NARROW, WIDE)
        for way, parametrisation in ways
        if (width, way) != (NARROW, "muP")
    ]


classifier = partial(net, "MLP", WIDE, loss=ls.cross_entropy)
REFERENCES = (
    Reference("a linear model", "square", "descent", linear_model),
    Reference("a plain two-layer ReLU net, tau = 2", "square", "descent", partial(two_layer, 2.0, doubled=False)),
    Reference("a symmetrised two-layer ReLU net, tau = 0.1", "square", "descent", partial(two_layer, 0.1)),
    Reference("a symmetrised two-layer ReLU net, tau = 0.3", "square", "descent", partial(two_layer, 0.3)),
    Reference("a symmetrised two-layer ReLU net, tau = 0.5", "square", "descent", partial(two_layer, 0.5)),
    Reference("a symmetrised two-layer ReLU net, tau = 2", "square", "descent", partial(two_layer, 2.0)),
    Reference(
        "a symmetrised two-layer ReLU net, tau = 2, weight decay",
        "square",
        "descent, decay",
        partial(two_layer, 2.0, shrink=2e-4),
    ),
    Reference("a centred two-layer tanh net, alpha = 0.3", "square", "descent", partial(centred_tanh, 0.3)),
    Reference("a centred two-layer tanh net", "square", "descent", partial(centred_tanh, 1.0)),
    Reference("a centred two-layer tanh net, alpha = 10", "square", "descent", partial(centred_tanh, 10.0)),
    *in_practice("an", "MLP"),
    *in_practice("a", "conv net"),
    *in_practice("an", "attention block"),
    Reference(f"an MLP of width {WIDE}, Adam", "square", "Adam", partial(net, "MLP", WIDE, by="Adam")),
    Reference("an MLP that classifies", "cross-entropy", "SGD", classifier),
    Reference("an MLP that classifies, weight decay", "cross-entropy", "SGD, decay", partial(classifier, shrink=1e-3)),
    Reference("an MLP that classifies, Adam", "cross-entropy", "Adam", partial(classifier, by="Adam")),
    Reference("an MLP that classifies, AdamW", "cross-entropy", "AdamW", partial(classifier, by="Adam", shrink=1e-3)),
    Reference("fine-tuning of all weights", "cross-entropy", "Adam", partial(fine_tuned, lora=False)),
    Reference("fine-tuning by LoRA", "cross-entropy", "Adam", partial(fine_tuned, lora=True)),
)


def at_the_same_weights(case: ls.Case, params: Any) -> float:
    """The gap of `diagnose(params=...)`: between the model and its linearisation, both at the trained weights."""
    x, y, loss = case.problem.x_test, case.problem.y_test, case.problem.loss
    models = (case.apply, params), (ls.linearize(case.apply, case.params0), params), (case.apply, case.params0)
    f, f_linear, f0 = (case.alpha * apply(w, x) for apply, w in models)
    if loss is ls.square_loss:
        return float(ls.trained_gap(f, f_linear, f0, y))
    by_loss = abs(loss(f, y) - loss(f_linear, y)) / abs(loss(f0, y) - loss(f, y))
    return max(float(ls.trained_gap(f, f_linear, f0)), float(by_loss))


def measure(reference: Reference) -> dict[str, Any]:
    """One row of the table: g and j with their intervals, and the gap at the same weights."""
    case, ends = reference.build(), []

    def train(apply, params0, scale):
        ends.append(case.train(apply, params0, scale))
        return ends[-1]

    found = ls.diagnose(
        case.apply,
        case.params0,
        case.problem,
        train=train,
        alpha=case.alpha,
        key=jax.random.key(5),
        examples=EXAMPLES,
        with_kappa=False,
    )
    return {
        "name": reference.name,
        "loss": reference.loss,
        "by": reference.by,
        "g": found.gap.value,
        "g low": found.gap.low,
        "g high": found.gap.high,
        "j": found.differential.value,
        "j low": found.differential.low,
        "j high": found.differential.high,
        "regime": found.regime,
        "g at the same weights": at_the_same_weights(case, ends[0]),
        "kernel 1 − cosine": found.indicators["kernel 1 − cosine"],
        "movement": found.indicators["movement in all"],
        "loss at start": found.losses["loss at start"],
        "loss, trained": found.losses["loss, trained"],
        "loss, linearised": found.losses["loss, linearised"],
    }


COLUMNS = ("g", "j", "regime", "g at the same weights", "kernel 1 − cosine", "by", "loss")


def line(row: dict[str, Any]) -> str:
    """A row of the table, in Markdown."""
    intervals = [f"{row[name]:.3g} ({row[f'{name} low']:.2g} to {row[f'{name} high']:.2g})" for name in ("g", "j")]
    numbers = [f"{row[name]:.2g}" for name in ("g at the same weights", "kernel 1 − cosine")]
    return " | ".join(["", row["name"], *intervals, row["regime"], *numbers, row["by"], row["loss"], ""]).strip()


def ratios(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """The gap between two trained models over the gap at the same weights, of references that are not linear."""
    return np.array([row["g"] / row["g at the same weights"] for row in rows if row["g at the same weights"] > 1e-9])


def write(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """normal-values.json and .csv, and the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "normal-values.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    with (folder / "normal-values.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    named = [(row["name"], row["g"], row["j"]) for row in rows]
    (folder / "normal-values.png").write_bytes(figures.to_png(views.reference_map(named)))


def main(names: Sequence[str] = (), out: str | Path | None = None) -> list[dict[str, Any]]:
    """Print the table of the references named, of all without names, and write it to the folder `out`."""
    jax.config.update("jax_enable_x64", True)
    known = {reference.name: reference for reference in REFERENCES}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"names must be those of references, got {unknown[0]!r}: take them from the table")
    print("| " + " | ".join(["", *COLUMNS]).strip() + " |\n|" + "---|" * (len(COLUMNS) + 1))
    rows = []
    for name in names or known:
        rows.append(measure(known[name]))
        print(line(rows[-1]), flush=True)
    near, far = (ratios([row for row in rows if (row["regime"] == "not lazy") is away]) for away in (False, True))
    for which, apart in (("lazy or mixed", near), ("not lazy", far)):
        if len(apart):
            print(
                f"\n{which}: g between the trained models is {np.median(apart):.2g} times g at the same weights in the "
                f"median, {apart.min():.2g} to {apart.max():.2g}"
            )
    if out is not None:
        write(rows, Path(out))
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", help="folder for the table as JSON and CSV, and the picture")
    arguments = parser.parse_args()
    main(arguments.names, arguments.out)
