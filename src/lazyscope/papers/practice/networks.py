"""Standard networks under standard initialisations, trained as in practice.

Three nets on 8 x 8 images, one hidden block each, a readout and no output scale:

    MLP        64 -> m -> m -> 10, ReLU;
    conv net   3 x 3 convolutions of m/8 channels, 2 x 2 mean pooling between the two, global mean, readout;
    attention  the 8 rows as tokens, embedded in m/4 dimensions, one softmax head with a residual, mean token, readout.

An initialisation is a standard deviation and a multiplier per weight, a parametrisation also a learning rate per
weight (f fan-in, g fan-out; biases only where the default of a library has them, so nowhere here):

    PyTorch default   uniform of variance 1/(3f): `reset_parameters` of Linear and Conv2d
    He                normal, 2/f (He et al. 2015)
    Xavier            normal, 2/(f + g) (Glorot & Bengio 2010)
    LeCun             normal, 1/f (LeCun et al. 1998)
    NTK               normal, 1, the weight multiplied by √(2/f) (Jacot et al. 2018; √2 so that outputs start as He's)
    muP               as He but for the readout, √(2·m0)/f, m0 = 64; rates m/m0 for the first layer and m0/m for the
                      readout with SGD, m0/m for hidden and readout with Adam (Yang et al. 2022, Table 8)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from lazyscope.criterion import ingredients
from lazyscope.datasets import CLASSES, digits
from lazyscope.differential import differential_change
from lazyscope.krylov import lanczos
from lazyscope.linearize import linearize
from lazyscope.measures import kernel_change, relative_change, trained_gap
from lazyscope.models import Apply
from lazyscope.papers.figure import Cell
from lazyscope.problems import Problem, square_loss

INITIALISATIONS = ("PyTorch default", "He", "Xavier", "LeCun", "NTK", "muP")
OPTIMISERS = ("SGD", "Adam")
BASE_WIDTH = 64
INPUT, HIDDEN, OUTPUT = range(3)


class Weight(NamedTuple):
    """Shape of a weight, its fans, and which layer it belongs to."""

    shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    role: int


class Net(NamedTuple):
    """Weights by name at a width, and the forward pass with effective weights (multipliers included)."""

    weights: Callable[[int], dict[str, Weight]]
    forward: Callable[[dict[str, Array], Array], Array]


def _dense(before: int, after: int, role: int) -> Weight:
    return Weight((before, after), before, after, role)


def _mlp_weights(width: int) -> dict[str, Weight]:
    return {
        "first": _dense(64, width, INPUT),
        "hidden": _dense(width, width, HIDDEN),
        "readout": _dense(width, CLASSES, OUTPUT),
    }


def _mlp(w: dict[str, Array], x: Float[Array, "n 8 8 1"]) -> Array:
    x = jax.nn.relu(x.reshape(x.shape[0], -1) @ w["first"])
    return jax.nn.relu(x @ w["hidden"]) @ w["readout"]


def _conv_weights(width: int) -> dict[str, Weight]:
    channels = width // 8
    return {
        "first": Weight((9, channels), 9, 9 * channels, INPUT),
        "hidden": Weight((9 * channels, channels), 9 * channels, 9 * channels, HIDDEN),
        "readout": _dense(channels, CLASSES, OUTPUT),
    }


def _patches(x: Float[Array, "n h w c"]) -> Float[Array, "n h w c9"]:
    # Shifts and one product: inside a compiled loop XLA's own convolutions are some ten times slower on a CPU.
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=-1)


def _conv(w: dict[str, Array], x: Float[Array, "n 8 8 1"]) -> Array:
    x = jax.nn.relu(_patches(x) @ w["first"])
    x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    return jax.nn.relu(_patches(x) @ w["hidden"]).mean(axis=(1, 2)) @ w["readout"]


def _attention_weights(width: int) -> dict[str, Weight]:
    size = width // 4
    hidden = {name: _dense(size, size, HIDDEN) for name in ("query", "key", "value")}
    return {"first": _dense(8, size, INPUT), **hidden, "readout": _dense(size, CLASSES, OUTPUT)}


def _attention(w: dict[str, Array], x: Float[Array, "n 8 8 1"]) -> Array:
    tokens = x[..., 0] @ w["first"]
    query, key, value = (tokens @ w[name] for name in ("query", "key", "value"))
    scores = jnp.einsum("nid,njd->nij", query, key) / math.sqrt(query.shape[-1])
    return (tokens + jax.nn.softmax(scores) @ value).mean(axis=1) @ w["readout"]


NETS = {
    "MLP": Net(_mlp_weights, _mlp),
    "conv net": Net(_conv_weights, _conv),
    "attention": Net(_attention_weights, _attention),
}


class _Scales(NamedTuple):
    deviation: Float[Array, " inits"]
    multiplier: Float[Array, " inits"]
    rate: Float[Array, "inits optimisers"]


def _scales(weight: Weight, width: int) -> _Scales:
    """Per initialisation: standard deviation, multiplier, and learning rate relative to the common one."""
    f, g, wider = weight.fan_in, weight.fan_out, width / BASE_WIDTH
    he = math.sqrt(2 / f)
    mup = he / math.sqrt(wider) if weight.role == OUTPUT else he
    deviation = [math.sqrt(1 / (3 * f)), he, math.sqrt(2 / (f + g)), math.sqrt(1 / f), 1.0, mup]
    multiplier = [1.0, 1.0, 1.0, 1.0, he, 1.0]
    sgd = {INPUT: wider, HIDDEN: 1.0, OUTPUT: 1 / wider}[weight.role]
    adam = {INPUT: 1.0, HIDDEN: 1 / wider, OUTPUT: 1 / wider}[weight.role]
    plain = [[1.0, 1.0]] * (len(INITIALISATIONS) - 1)
    return _Scales(jnp.array(deviation), jnp.array(multiplier), jnp.array([*plain, [sgd, adam]]))


@dataclass(frozen=True)
class Practice:
    """Settings of a training run; all ours, since neither paper tabulates practice."""

    n: int = 1000
    n_test: int = 500
    batch: int = 64
    num_steps: int = 1000
    momentum: float = 0.9
    adam_rate: float = 1e-3  # the default of every library
    norm_examples: int = 128  # for ‖Dh‖ and ‖D²h‖
    differential_examples: int = 32  # for j, which forms no kernel and so affords more inputs
    kernel_examples: int = 8


def initial(key: Key[Array, ""], net: Net, width: int, initialisation: Int[Array, ""]) -> PyTree:
    """Weights of an initialisation, with its number beside them: an integer leaf, which is no parameter."""
    weights, shapes = {}, net.weights(width)
    for (name, weight), one in zip(shapes.items(), jax.random.split(key, len(shapes)), strict=True):
        normal = jax.random.normal(one, weight.shape)
        uniform = jax.random.uniform(one, weight.shape, minval=-math.sqrt(3), maxval=math.sqrt(3))
        unit = jnp.where(initialisation == INITIALISATIONS.index("PyTorch default"), uniform, normal)
        weights[name] = _scales(weight, width).deviation[initialisation] * unit
    return {"weights": weights, "initialisation": initialisation}


def model(net: Net, width: int) -> Apply:
    """h(params, x) of a net: its forward pass with each weight times the multiplier of its initialisation."""
    shapes = net.weights(width)

    def apply(params: PyTree, x: Array) -> Array:
        number = params["initialisation"]
        effective = {k: _scales(shapes[k], width).multiplier[number] * w for k, w in params["weights"].items()}
        return net.forward(effective, x)

    return apply


def trained(
    key: Key[Array, ""],
    *,
    initialisation: Int[Array, ""],
    optimiser: Int[Array, ""],
    initialisations: tuple[str, ...],
    optimisers: tuple[str, ...],
    net: str,
    width: int,
    settings: Practice,
) -> dict[str, Array]:
    """One training of a net and of its linearisation by the same minibatches: kappa, g, j, k, movement, accuracy.

    `initialisation` and `optimiser` are places in the names that stand beside them, one program for all. SGD has
    momentum and steps by half the stability limit 2/λmax of plain descent, per-weight rates included; Adam steps by its
    default.
    """
    number = jnp.array([INITIALISATIONS.index(name) for name in initialisations])[initialisation]
    adam = jnp.array([OPTIMISERS.index(name) for name in optimisers])[optimiser]
    key_data, key_init, key_train = jax.random.split(key, 3)
    problem = digits(key_data, n=settings.n, n_test=settings.n_test)
    x_test, y_test = problem.x_test, problem.y_test
    assert x_test is not None
    assert y_test is not None
    apply, shapes = model(NETS[net], width), NETS[net].weights(width)
    params0 = initial(key_init, NETS[net], width, number)
    rates = {name: _scales(shapes[name], width).rate[number, adam] for name in shapes}
    few = problem.x[: settings.norm_examples]
    top = _largest(apply, params0, few, rates)
    rate = jnp.where(adam == 1, settings.adam_rate, 1 / top)
    linear = linearize(apply, params0)
    ends = [_train(f, params0, problem, rates, rate, adam, settings, key_train) for f in (apply, linear)]
    f0, f, f_linear = apply(params0, x_test), apply(ends[0], x_test), linear(ends[1], x_test)
    # Random directions are taken above 4·10^5 weights only, from a fourth key beside the three of `split`.
    key_probes = jax.random.fold_in(key, 3)
    change = differential_change(apply, params0, ends[0], x_test[: settings.differential_examples], key=key_probes)
    kernels = kernel_change(apply, params0, ends[0], x_test[: settings.kernel_examples])
    return {
        "kappa": ingredients(apply, params0, Problem(few, problem.y[: settings.norm_examples])).kappa(),
        "gap": trained_gap(f, f_linear, f0, y_test),
        "differential_change": change.value,
        "kernel_change": jnp.max(jnp.stack(list(kernels.groups.values()))),
        "movement": relative_change(params0, ends[0]).all,
        "accuracy": _accuracy(f, y_test),
        "linear_accuracy": _accuracy(f_linear, y_test),
        "train_loss": square_loss(apply(ends[0], problem.x), problem.y),
    }


TRAINED = Cell(trained, 1)


def _train(
    apply: Apply,
    params0: PyTree,
    problem: Problem,
    rates: dict[str, Array],
    rate: Array,
    adam: Array,
    settings: Practice,
    key: Key[Array, ""],
) -> PyTree:
    """Both optimisers at once, of which one is followed: what differs is a number, so one program serves both."""
    moments, momentum = optax.scale_by_adam(), optax.trace(settings.momentum)

    def step(carry: tuple[dict[str, Array], Any], one: Key[Array, ""]) -> tuple[tuple[dict[str, Array], Any], None]:
        weights, (first, second) = carry
        rows = jax.random.randint(one, (settings.batch,), 0, settings.n)

        def loss(w: dict[str, Array]) -> Array:
            return square_loss(apply(params0 | {"weights": w}, problem.x[rows]), problem.y[rows])

        gradient = jax.grad(loss)(weights)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
            by_adam, first = moments.update(gradient, first)
        by_sgd, second = momentum.update(gradient, second)
        chosen = jax.tree.map(lambda a, b: jnp.where(adam == 1, a, b), by_adam, by_sgd)
        moved = {name: w - rate * rates[name] * chosen[name] for name, w in weights.items()}
        return (moved, (first, second)), None

    weights0 = params0["weights"]
    start = (weights0, (moments.init(weights0), momentum.init(weights0)))
    (weights, _), _ = jax.lax.scan(step, start, jax.random.split(key, settings.num_steps))
    return params0 | {"weights": weights}


def _largest(apply: Apply, params: PyTree, x: Array, rates: dict[str, Array]) -> Array:
    """λmax of Σ_g r_g K_g/n, the kernel of descent with a rate r_g per weight."""
    outputs, push = jax.linearize(lambda w: apply(params | {"weights": w}, x), params["weights"])
    pull = jax.linear_transpose(push, params["weights"])

    def product(v: Array) -> Array:
        (back,) = pull(v.reshape(outputs.shape))
        return push({name: rates[name] * leaf for name, leaf in back.items()}).reshape(-1) / x.shape[0]

    start = 1.0 + jnp.cos(jnp.arange(outputs.size, dtype=outputs.dtype) ** 2)
    return jnp.max(lanczos(product, start, depth=9).values)


def _accuracy(f: Array, y: Array) -> Array:
    return jnp.mean(jnp.argmax(f, axis=1) == jnp.argmax(y, axis=1))
