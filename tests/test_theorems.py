"""The constants and quantities behind the figures on flows, against dense derivatives and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from lazyscope.criterion.bounds import dense_second_derivative
from lazyscope.papers.quantities import farthest, slopes
from lazyscope.papers.theorems.convergence import late_rate
from lazyscope.papers.theorems.flows import Net, net_start, quadratic_start
from lazyscope.tangent import jacobian

KEY = jax.random.key(3)


def spectral_norm(apply, params, x):
    """‖Dh‖ in function space, dense."""
    dh = np.asarray(jacobian(apply, params, x)).reshape(len(x), -1)
    return np.linalg.norm(dh, ord=2) / np.sqrt(len(x))


def bilinear(tensor, u, v):
    """‖D²h[u, v]‖ in function space."""
    return float(np.linalg.norm(np.einsum("kij,i,j->k", np.asarray(tensor), u, v)))


@pytest.mark.slow
def test_quadratic_map_attains_both_of_its_lipschitz_constants():
    apply, w0, problem, lipschitz = quadratic_start(KEY, n=8, p=4)
    lip, lip_derivative = lipschitz(jnp.asarray(0.3))
    tensor = dense_second_derivative(apply, w0, problem.x)
    # D²h = 2 s ⊗ M is one direction of outputs times 2M: its norm is that of the matrix.
    direction = np.asarray(problem.x[:, 0]) / np.linalg.norm(problem.x[:, 0])
    matrix = np.einsum("k,kij->ij", direction, np.asarray(tensor))
    np.testing.assert_allclose(np.linalg.norm(matrix, ord=2), lip_derivative, rtol=1e-10)
    top = np.linalg.eigh(matrix)[1][:, -1]
    np.testing.assert_allclose(spectral_norm(apply, jnp.asarray(0.3 * top), problem.x), lip, rtol=1e-10)
    for seed in range(20):
        w = np.random.default_rng(seed).standard_normal(4)
        assert spectral_norm(apply, jnp.asarray(0.3 * w / np.linalg.norm(w)), problem.x) <= float(lip) + 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.softplus])
def test_bounds_of_the_net_hold_at_random_points_of_the_ball(activation):
    start = net_start(KEY, net=Net(6, 3, 4, activation=activation))
    radius = 0.5
    lip, lip_derivative = (float(v) for v in start.lipschitz(jnp.asarray(radius)))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        step = {name: rng.standard_normal(leaf.shape) for name, leaf in start.params0.items()}
        size = np.sqrt(sum(np.sum(leaf**2) for leaf in step.values()))
        params = {name: start.params0[name] + jnp.asarray(radius / size * leaf) for name, leaf in step.items()}
        assert spectral_norm(start.apply, params, start.problem.x) <= lip
        tensor = dense_second_derivative(start.apply, params, start.problem.x)
        u, v = (d / np.linalg.norm(d) for d in rng.standard_normal((2, 16)))
        assert bilinear(tensor, u, v) <= lip_derivative
        # The norm of one slice is a lower bound of ‖D²h‖ that is not tiny.
        assert np.linalg.norm(np.einsum("kij,i->kj", np.asarray(tensor), u), ord=2) <= lip_derivative


def test_slopes_rates_and_the_farthest_value():
    alpha, seeds = np.array([1.0, 10.0, 100.0]), np.array([2.0, 5.0])
    values = xr.DataArray(seeds[:, None] * alpha**-2.0, dims=("seed", "alpha"), coords={"alpha": alpha})
    np.testing.assert_allclose(slopes(values, "alpha"), [-2, -2], atol=1e-12)
    unit = np.linspace(0.1, 10, 40)
    decaying = xr.DataArray(np.exp(-0.7 * unit)[None], dims=("seed", "unit"), coords={"unit": unit})
    np.testing.assert_allclose(late_rate(decaying), [0.7], atol=1e-10)
    table = xr.DataArray([[0.5, -3.0], [-0.9, -1.4]], dims=("seed", "net"))
    np.testing.assert_array_equal(farthest(table, -1.0), [-3.0, -1.4])
