"""Cells of the note's figures against closed forms, the library's own criterion, and dense equivalents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyscope import landscape
from lazyscope.criterion import criterion
from lazyscope.models import two_layer
from lazyscope.papers.kappa import training
from lazyscope.papers.kappa.training import CENTRED, PLAIN, SYMMETRISED, Nets
from lazyscope.papers.step_size import training as step_size
from lazyscope.papers.student import Protocol
from lazyscope.papers.surfaces import measures
from lazyscope.papers.theorems import assumptions, losses, narrow_ends
from lazyscope.papers.theorems.flows import Net
from lazyscope.papers.width import initial_weights
from lazyscope.problems import teacher_student
from lazyscope.tangent import jacobian

KEY = jax.random.key(0)
NETS = Nets(n=20, d=5, widest=8, scales=(0.5, 20.0), num_steps=3)


@pytest.mark.slow
def test_kappa_and_one_step_of_a_regime_cell_are_those_of_the_criterion():
    cell = training.over_scale(KEY, width=jnp.asarray(8.0), start=jnp.asarray(PLAIN), nets=NETS)
    key_data, key_init = jax.random.split(KEY)
    problem = teacher_student(key_data, n=20, d=5, n_test=20)
    apply, params = two_layer(8, 5).apply, two_layer(8, 5).init(key_init)
    for i, alpha in enumerate(NETS.scales):
        rows = jacobian(apply, params, problem.x)[:, 0]
        eta = training.RATE / float(jnp.linalg.norm(rows, ord=2) ** 2 / 20)
        found = criterion(apply, params, problem, alpha=alpha, step_size=eta, key=KEY)
        one = found.one_step
        assert one is not None
        np.testing.assert_allclose(cell["kappa"][i], found.kappa, rtol=1e-6)
        np.testing.assert_allclose(cell["exact"][i], found.kappa_exact, rtol=1e-6)
        measured = one.objective_change / one.objective_approximation
        np.testing.assert_allclose(cell["objective_ratio"][i, 0], measured, rtol=1e-6)
        measured = one.jacobian_change / one.jacobian_approximation
        np.testing.assert_allclose(cell["differential_ratio"][i, 0], measured, rtol=1e-5)


@pytest.mark.parametrize("start", [PLAIN, SYMMETRISED, CENTRED])
def test_narrower_nets_live_in_the_widest_ones_program(start):
    params = training.initial(KEY, width=jnp.asarray(6.0), start=jnp.asarray(start), nets=NETS)
    assert int(jnp.sum(params["a"] != 0)) == int(jnp.sum(jnp.any(params["b"] != 0, axis=1))) == 6
    output = two_layer(8, 5).apply(params, jax.random.normal(KEY, (4, 5)))
    assert (float(jnp.max(jnp.abs(output))) < 1e-14) == (start == SYMMETRISED)


def test_losses_have_the_convexity_that_they_are_named_for():
    y, f = jnp.array([1.0, -1.0, 0.5]), jnp.array([3.0, -1.0, 0.45])
    curvature = {
        name: jnp.diagonal(jax.hessian(lambda v, loss=loss: 3 * loss(v, y))(f))
        for name, loss in (losses.CONVEX | losses.GENERAL).items()
    }
    strong = curvature["strongly convex"]
    assert bool(jnp.all((strong >= 1) & (strong <= 2)))
    assert bool(jnp.all(curvature["logistic"] > 0))
    np.testing.assert_allclose(curvature["quartic"], 3 * (f - y) ** 2, atol=1e-12)
    assert float(curvature["non-convex"][0]) < 0 < float(curvature["non-convex"][2])
    for name in ("square", "strongly convex", "quartic"):
        np.testing.assert_allclose(losses.CONVEX[name](y, y), 0, atol=1e-15)


@pytest.mark.slow
def test_pairs_of_a_symmetrised_net_halve_the_rank_at_its_start_alone():
    net = Net(n=30, d=3, width=4, n_test=1)
    paired = assumptions.rank_nearby(KEY, net=net, doubled=True)
    free = assumptions.rank_nearby(KEY, net=net, doubled=False)
    assert int(paired["rank"]) == 2 * 4 < int(paired["rank_nearby"])
    assert int(free["rank"]) == int(free["rank_nearby"]) == 4 * 4


@pytest.mark.slow
def test_a_narrow_lazy_net_ends_at_the_projection_with_no_negative_curvature():
    found = narrow_ends.end(KEY, spec=narrow_ends.Ends(60, 12, 2, 100.0, 3000))
    np.testing.assert_allclose(found["end_loss"][-1], 1, rtol=1e-4)
    assert float(found["end_gradient"][-1]) < 1e-4
    assert float(found["convexity"]) > -1e-8
    assert int(found["end_rank"]) == 12


@pytest.mark.slow
def test_after_one_step_both_linear_models_of_a_wide_net_explain_what_they_should():
    spec = initial_weights.Draws((), n=10, d=4, num_steps=1, draws=3)
    found = initial_weights.over_draws(KEY, width=jnp.asarray(2000.0), widest=2000, spec=spec)
    np.testing.assert_allclose(found["tangent_share"], 1, atol=1e-2)
    assert 0.3 < float(found["readout_share"]) < 0.99  # half of the kernel, but not half of a sum along its top


def test_gradients_of_a_plain_net_grow_with_the_cube_of_tau_and_steps_shrink_with_its_square():
    protocol = Protocol(n=20, n_test=1, d=5, width=6)
    one, ten = (step_size.start_gradient(KEY, tau=jnp.asarray(t), protocol=protocol) for t in (100.0, 1000.0))
    np.testing.assert_allclose(ten["gradient_norm"] / one["gradient_norm"], 1000, rtol=1e-2)
    np.testing.assert_allclose(ten["stable_step"] / one["stable_step"], 0.01, rtol=1e-9)


def test_radius_and_depth_are_read_off_a_paraboloid():
    axis = np.linspace(-2, 2, 201)
    bowl = axis[:, None] ** 2 + axis[None] ** 2 + 3
    plane = landscape.Plane(jnp.asarray(axis), jnp.asarray(axis), jnp.asarray(bowl), 0)
    radius, depth = measures.read_off(plane)
    np.testing.assert_allclose(radius, np.sqrt(measures.RISE), rtol=0.05)
    np.testing.assert_allclose(depth, 4 + 4 / 3, rtol=0.01)  # the mean of 4 + t² over −2..2


def test_no_seed_is_lost_where_a_test_loss_is_on_its_plateau_from_the_start():
    import xarray as xr

    from lazyscope.papers.kappa.against_tau import earlier_plateau

    losses = {"end_test_loss": [[1.0, 4.0, 4.0], [4.0, 4.0, 4.0]], "symmetrised_end_test_loss": [[3.0, 4.0, 4.0]] * 2}
    ds = xr.Dataset(
        {
            "end_test_loss": (("trained_seed", "trained_tau"), losses["end_test_loss"]),
            "symmetrised_end_test_loss": (("trained_seed", "symmetrised_tau"), losses["symmetrised_end_test_loss"]),
        },
        coords={"trained_tau": [0.1, 1.0, 10.0], "symmetrised_tau": [0.1, 1.0, 10.0]},
    )
    share = 1 - np.log(1.1) / np.log([4.0, 4 / 3])
    np.testing.assert_allclose(earlier_plateau(ds), [share[0] - share[1], -share[1]])
