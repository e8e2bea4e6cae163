"""Every public function that takes a model, against what people do with their models, weights and data.

Each gives the numbers of the plain model, a function of a dict of float64 arrays and one array, or refuses in one line.
"""

import dataclasses
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lazyscope as ls
from lazyscope.criterion import Budget

KEY = jax.random.key(0)
STEPS: Any = np.int64(3)
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((5, 3)), RNG.standard_normal(5)
W0 = {"w": RNG.standard_normal((3, 2)), "v": RNG.standard_normal(2)}
W = {name: 1.25 * leaf for name, leaf in W0.items()}
FEW = Budget(
    products=16, jacobian_steps=3, kernel_starts=1, probes=2, coordinates=0, keep=0, random_starts=0, climb_steps=2
)


class Setting(NamedTuple):
    """A model at two sets of weights, with its data, and what happens to the weights once they are handed over."""

    apply: Callable[..., Any]
    params0: Any
    params: Any
    x: Any = X
    y: Any = Y
    key: Any = KEY
    afterwards: Callable[[Any], None] = lambda params: None

    @property
    def problem(self) -> ls.Problem:
        return ls.Problem(self.x, self.y)


def net(p, x):
    return jnp.tanh(x @ p["w"]) @ p["v"]


def plain() -> Setting:
    return Setting(net, arrays(W0), arrays(W))


def arrays(weights):
    return {name: jnp.asarray(leaf) for name, leaf in weights.items()}


def kept(made: Callable[[], Any], s: Setting) -> Any:
    """What is made of the first weights, which then meet their fate."""
    function = made()
    s.afterwards(s.params0)
    return function


MEASURES: dict[str, Callable[[Setting], Any]] = {
    "tangent_kernel": lambda s: ls.tangent_kernel(s.apply, s.params0, s.x),
    "blocked_tangent_kernel": lambda s: ls.blocked_tangent_kernel(s.apply, s.params0, s.x, memory_budget=3000),
    "traced_kernel": lambda s: ls.traced_kernel(s.apply, s.params0, s.x),
    "diagonal_kernel": lambda s: ls.diagonal_kernel(s.apply, s.params0, s.x),
    "group_kernels": lambda s: [ls.group_kernels(s.apply, s.params0, s.x)[name] for name in ("v", "w")],
    "kernel_product": lambda s: kept(lambda: ls.kernel_product(s.apply, s.params0, s.x), s)(Y),
    "kernel_change": lambda s: ls.kernel_change(s.apply, s.params0, s.params, s.x).all,
    "kernel_distance": lambda s: ls.kernel_distance(s.apply, s.params0, s.params, s.x),
    "kernel_time": lambda s: ls.kernel_time(s.apply, s.params0, s.x, 2.0),
    "target_alignment": lambda s: ls.target_alignment(s.apply, s.params0, s.problem),
    "linearization_gap": lambda s: ls.linearization_gap(s.apply, s.params0, s.params, s.x),
    "linearize": lambda s: kept(lambda: ls.linearize(s.apply, s.params0), s)(s.params, s.x),
    "center": lambda s: kept(lambda: ls.center(s.apply, s.params0), s)(s.params, s.x),
    "stable_step_size": lambda s: ls.stable_step_size(s.apply, s.params0, s.problem, key=s.key),
    "kernel_flow": lambda s: ls.kernel_flow(s.apply, s.params0, s.problem, times=[1.0]).train_loss,
    "linearized_descent": lambda s: weights(
        ls.linearized_descent(s.apply, s.params0, s.problem, step_size=0.1, steps=[np.int64(3)])
    ),
    "gradient_descent": lambda s: weights(
        ls.gradient_descent(s.apply, s.params0, s.problem, step_size=np.float64(0.1), num_steps=STEPS)
    ),
    "sgd": lambda s: weights(
        ls.sgd(
            s.apply,
            s.params0,
            ls.minibatches(s.problem, 5),
            optimizer=optax.sgd(0.1),
            num_steps=3,
            key=s.key,
            loss=ls.square_loss,
        )
    ),
    "gradient_flow": lambda s: ls.gradient_flow(s.apply, s.params0, s.problem, times=[0.5]).train_loss,
    "criterion": lambda s: ls.criterion(s.apply, s.params0, s.problem, key=s.key, budget=FEW).jacobian_norm.value,
    "ingredients": lambda s: ls.ingredients(s.apply, s.params0, s.problem).kappa(),
    "alpha_for": lambda s: ls.alpha_for(
        ls.center(s.apply, s.params0), s.params0, s.problem, kappa=0.5, key=s.key, budget=FEW
    ),
    "differential_change": lambda s: changes(ls.differential_change(s.apply, s.params0, s.params, s.x)),
    "partial_gap": lambda s: [ls.partial_gap(s.apply, s.params0, s.params, s.x)[name] for name in ("v", "w")],
    "monitor": lambda s: scalars(kept(lambda: ls.monitor(s.apply, s.params0, s.x), s)(s.params)),
    "diagnose": lambda s: deciders(
        inspect.unwrap(ls.diagnose)(  # without the suite's check of annotations, which an old key does not pass
            s.apply, s.params0, s.problem, key=s.key, num_steps=3, with_kappa=False
        )
    ),
    "freeze_activations": lambda s: kept(
        lambda: ls.freeze_activations(ls.Model(lambda key: None, applied(s), seen(s)), s.params0), s
    )(s.params, s.x),
    "double": lambda s: ls.double(ls.Model(lambda key: None, s.apply)).apply(ls.Doubled(s.params, s.params0), s.x),
}
ELSEWHERE = {"crossover"}  # `diagnose` at one alpha after another, a dozen trainings


def weights(run):
    """The losses of a run and the weights that it ends with, which the caller's own structure gives by name."""
    return run.train_loss, run.params["w"], run.params["v"]


def changes(found):
    return found.value, found.examples, found.groups["v"], found.groups["w"]


def scalars(found):
    return [found[name] for name in sorted(found) if not name.endswith("/empty")]


def deciders(found):
    return found.gap, found.differential, found.kernel_change, [found.kernel_changes[name] for name in ("v", "w")]


def applied(s: Setting):
    return lambda p, x, gates=None: s.apply(p, x) * (1.0 if gates is None else 1 + gates.mean(1, dtype=float))


def seen(s: Setting):
    return lambda p, x: jnp.asarray(s.apply(p, x)[:, None] > 0)


# --- habits ----------------------------------------------------------------------------------------------------------


def leaves_of_every_kind() -> Setting:
    """Keys, numbers, booleans and strings that steer the model, what has no entries, what is no array."""
    others = {
        "rng": jax.random.key(1),
        "legacy": jax.random.PRNGKey(1),
        "depth": 1,
        "first": True,
        "act": "tanh",
        "function": jnp.tanh,
        "none": None,
        "empty": jnp.zeros((0,)),
        "buffer": jnp.arange(3),
        "counter": jnp.asarray(1),
        "number": np.int64(1),
        "list": [object],
    }

    def apply(p, x):
        assert p["act"] == "tanh"
        assert p["list"] == [object]
        z = x @ p["w"]
        for _ in range(p["depth"] * int(p["number"])):
            z = p["function"](z) if p["first"] else z
        return z @ p["v"] + 0 * p["empty"].sum()

    return Setting(apply, arrays(W0) | others, arrays(W) | others)


def a_counter_that_steers() -> Setting:
    def apply(p, x):
        z = x @ p["w"]
        for _ in range(int(p["depth"])):
            z = jnp.tanh(z)
        return z @ p["v"]

    other = {"depth": jnp.asarray(1)}
    return Setting(apply, arrays(W0) | other, arrays(W) | other)


def float32_weights_float64_data() -> Setting:
    def cast(weights):
        return {name: jnp.asarray(leaf, jnp.float32) for name, leaf in weights.items()}

    return Setting(net, cast(W0), cast(W))


def mixed_types() -> Setting:
    def cast(weights):
        return {"w": jnp.asarray(weights["w"], jnp.float32), "v": jnp.asarray(weights["v"])}

    return Setting(net, cast(W0), cast(W))


@dataclasses.dataclass
class Net:
    """Equal by value, hence without a hash."""

    scale: float

    def __call__(self, p, x):
        return self.scale * net(p, x)


def unhashable() -> Setting:
    return Setting(Net(1.0), arrays(W0), arrays(W))


def changed_in_place() -> Setting:
    def afterwards(params):
        params["w"] *= 0
        params["v"] = None

    return Setting(
        net, {k: v.copy() for k, v in W0.items()}, {k: v.copy() for k, v in W.items()}, afterwards=afterwards
    )


def donated() -> Setting:
    def afterwards(params):
        jax.tree.map(lambda leaf: leaf.delete(), params)

    return plain()._replace(afterwards=afterwards)


def dict_of_inputs() -> Setting:
    def apply(p, batch):
        return net(p, batch["x"] * batch["mask"][:, None])

    return Setting(apply, arrays(W0), arrays(W), {"x": X, "mask": np.ones(5)})


def lists() -> Setting:
    return plain()._replace(x=X.tolist(), y=Y.tolist())


def legacy_key() -> Setting:
    return plain()._replace(key=jax.random.PRNGKey(0))


@jax.custom_vjp
def handmade(z):
    return jnp.tanh(z)


handmade.defvjp(lambda z: (jnp.tanh(z), jnp.tanh(z)), lambda t, g: (g * (1 - t**2),))


def rule_of_ones_own() -> Setting:
    return Setting(lambda p, x: handmade(x @ p["w"]) @ p["v"], arrays(W0), arrays(W))


HABITS = (
    leaves_of_every_kind,
    a_counter_that_steers,
    float32_weights_float64_data,
    mixed_types,
    unhashable,
    changed_in_place,
    donated,
    dict_of_inputs,
    lists,
    legacy_key,
    rule_of_ones_own,
)
HEAVY = {"gradient_flow", "criterion", "ingredients", "alpha_for", "sgd", "diagnose"}  # seconds to compile
# The second derivative of a model takes a forward product through its rule for reverse mode.
REFUSED = {(rule_of_ones_own, name) for name in ("criterion", "alpha_for", "ingredients")}
LOOSE = {float32_weights_float64_data: 1e-5, mixed_types: 1e-5}
_PLAIN: dict[str, Any] = {}


def numbers(name: str, setting: Setting) -> list[np.ndarray]:
    return [np.asarray(leaf, float) for leaf in jax.tree.leaves(MEASURES[name](setting))]


def expected(name: str) -> list[np.ndarray]:
    if name not in _PLAIN:
        _PLAIN[name] = numbers(name, plain())
    return _PLAIN[name]


def assert_expected(name: str, setting: Setting, tolerance: float = 1e-9) -> None:
    for got, right in zip(numbers(name, setting), expected(name), strict=True):
        np.testing.assert_allclose(got, right, rtol=tolerance, atol=tolerance)


def test_every_public_function_that_takes_a_model_is_tried():
    taking = {
        name
        for name in ls.__all__
        if inspect.isfunction(thing := getattr(ls, name))
        and {"apply", "model", "case"} & set(inspect.signature(thing).parameters)
    }
    assert taking == {*MEASURES, *ELSEWHERE}


@pytest.fixture(autouse=True)
def promotion():
    """As people have it, in all cases: JAX compiles anew where it is another."""
    with jax.numpy_dtype_promotion("standard"):
        yield


NAMES = [pytest.param(name, marks=pytest.mark.slow if name in HEAVY else ()) for name in MEASURES]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.__name__)
def test_a_habit_changes_no_number(name, habit):
    if (habit, name) in REFUSED:
        with pytest.raises(ValueError, match="needs forward mode, which a function with a"):
            numbers(name, habit())
        return
    expected(name)
    assert_expected(name, habit(), LOOSE.get(habit, 1e-9))


@pytest.mark.parametrize("name", NAMES)
def test_switches_of_the_callers_change_no_number(name):
    expected(name)
    with ExitStack() as switches:
        for switch in (jax.debug_nans(True), jax.debug_infs(True), jax.default_matmul_precision("bfloat16")):
            switches.enter_context(switch)
        assert_expected(name, plain(), 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_that_changes_between_two_calls_is_seen(name):
    model = Net(0.5)
    setting = plain()._replace(apply=model)
    numbers(name, setting)
    model.scale = 1.0
    assert_expected(name, plain()._replace(apply=model))


def integers(p, x):
    return (net(p, x) > 0).astype(int)


def complex_numbers(p, x):
    return net(p, x) + 0j


def few_digits(p, x):
    return net(p, x).astype("bfloat16")


def several(p, x):
    return net(p, x), x


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (integers, "real floating-point numbers, got int64"),
        (complex_numbers, "real floating-point numbers, got complex128"),
        (few_digits, "float32 or float64, got bfloat16"),
        (several, "real floating-point numbers, got a tuple"),
    ],
)
def test_outputs_that_are_not_real_are_refused_before_anything_is_made_of_them(name, outputs, message):
    if name in ("freeze_activations", "double"):
        pytest.skip("makes another model, whose outputs are looked at where it is used")
    with pytest.raises(ValueError, match=f"^outputs must be {message}"):
        numbers(name, plain()._replace(apply=outputs))
