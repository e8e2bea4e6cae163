"""The same networks in plain JAX for every adapter: an MLP, a small conv net, and their weights as NumPy arrays."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

import lazyscope as ls

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((5, 4)))
IMAGES = jnp.asarray(RNG.standard_normal((4, 6, 6, 2)))  # n, height, width, channels
TOKENS = jnp.asarray(RNG.integers(0, 7, (5, 3)))

MLP = {
    "w1": RNG.standard_normal((4, 6)) / 2,
    "b1": RNG.standard_normal(6),
    "w2": RNG.standard_normal((6, 2)),
    "b2": RNG.standard_normal(2),
}
CONV = {
    "k": RNG.standard_normal((3, 3, 2, 4)) / 4,
    "b": RNG.standard_normal(4),
    "w": RNG.standard_normal((16, 3)) / 4,
    "c": RNG.standard_normal(3),
}
TABLE = RNG.standard_normal((7, 3))  # an embedding that is also the read-out


def mlp(params, x):
    return jnp.tanh(x @ params["w1"] + params["b1"][None]) @ params["w2"] + params["b2"][None]


def conv_net(params, x):
    """3x3 convolution, ReLU, 2x2 max pool, read-out; channels last."""
    y = jax.lax.conv_general_dilated(x, params["k"], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = jax.nn.relu(y + params["b"].reshape(1, 1, 1, -1))
    y = jax.lax.reduce_window(y, -np.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return y.reshape(y.shape[0], -1) @ params["w"] + params["c"][None]


def tied(params, tokens):
    """Mean of embeddings, read out by the same table."""
    return jnp.tanh(params["e"][tokens].mean(1)) @ params["e"].T


WEIGHTS = {mlp: (MLP, X), conv_net: (CONV, IMAGES), tied: ({"e": TABLE}, TOKENS)}


@cache
def expected(reference):
    weights, x = WEIGHTS[reference]
    return measured(reference, {name: jnp.asarray(value) for name, value in weights.items()}, x)


def measured(apply, params, x):
    """Outputs, tangent kernel, linearisation along the weights themselves (a direction that all share), curvature."""
    moved = jax.tree.map(lambda leaf: 1.25 * leaf, params)
    return (
        apply(params, x),
        ls.tangent_kernel(apply, params, x),
        ls.linearize(apply, params)(moved, x),
        second_derivative(apply, params, x),
    )


def assert_same(apply, params, reference, x=None, tolerance=1e-12):
    """Measured alike to `tolerance`; `x` where the inputs are laid out in another way than for `reference`."""
    found = jax.jit(lambda p, v: measured(apply, p, v))(params, WEIGHTS[reference][1] if x is None else x)
    for value, exact in zip(found, expected(reference), strict=True):
        np.testing.assert_allclose(value, exact, atol=tolerance * float(jnp.max(jnp.abs(exact))))


def assert_same_diagnosis(apply, params):
    """kappa, g and j of the MLP in another framework: to 1e-5, for the search for ‖D²h‖ starts elsewhere in another
    leaf order."""
    np.testing.assert_allclose(diagnosed(apply, params), diagnosed_here(), rtol=1e-5)


@cache
def diagnosed_here():
    return diagnosed(mlp, {name: jnp.asarray(value) for name, value in MLP.items()})


def diagnosed(apply, params):
    problem = ls.Problem(X, jnp.sin(X[:, :2]))
    found = ls.diagnose(apply, params, problem, key=jax.random.key(0), num_steps=60)
    assert found.criterion is not None
    return found.criterion.kappa, float(found.gap), float(found.differential)


def second_derivative(apply, params, x):
    """w·∇²F·w for F = ½‖h‖² at w, by a forward product of the gradient: what the criterion needs."""

    gradient = jax.grad(lambda q: 0.5 * jnp.sum(apply(q, x) ** 2))
    change = jax.jvp(gradient, (params,), (params,))[1]
    return sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(change), strict=True))
