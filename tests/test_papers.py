"""The figure modules: what each offers, and the cells that they share against independent computations."""

import sys
from dataclasses import replace

import cell_numbers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyscope import gradient_descent, tree
from lazyscope.criterion import criterion
from lazyscope.papers import crossings
from lazyscope.papers.figure import Trials
from lazyscope.papers.initialisation.training import experiment, train
from lazyscope.papers.kappa import closed_form
from lazyscope.papers.registry import FIGURES, SIZES
from lazyscope.papers.reproduce import load, reproduce
from lazyscope.papers.step_size.rules import chizat_step_size, fixed_step_size, power_step_size
from lazyscope.papers.student import Protocol, decades, held_out, setup
from lazyscope.papers.width import training
from lazyscope.report import surprising
from lazyscope.store import Store

SMALL = Protocol(n=20, n_test=15, d=5, width=6, num_steps=60)
KEY = jax.random.key(0)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_offers_sizes_claims_and_says_how_to_run_it(name):
    figure, module = load(name), FIGURES[name].figure.partition(":")[0]
    assert tuple(figure.sizes) == SIZES
    assert f"lazyscope reproduce {name} --size" in (sys.modules[f"lazyscope.papers.{module}"].__doc__ or "")
    assert len(figure.claims) >= 1
    for claim in figure.claims:
        assert claim.accepted[0] < claim.accepted[1]
        assert claim.source


@pytest.mark.slow
@pytest.mark.optimised
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_runs_at_tiny_size(name, tmp_path):
    with Store(tmp_path / "store") as store:
        item, findings = reproduce(name, size="tiny", seeds=None, out=tmp_path, store=store)
    assert all(np.isfinite(finding.mean) for finding in findings)
    assert [finding for finding in item.findings if surprising(finding)] == []
    for ending in ("nc", "svg", "png", "json"):
        assert (tmp_path / "figures" / f"{name}.{ending}").stat().st_size > 500
    assert len(item.numbers) > 2
    promises = cell_numbers.recorded()[name]
    assert cell_numbers.broken(cell_numbers.kept(tmp_path / "store"), promises) == [], (
        f"raise the versions of what moved, then run {cell_numbers.__file__} {name}"
    )


def test_step_rules():
    taus = jnp.array([0.01, 0.1, 1.0, 10.0])
    np.testing.assert_allclose(chizat_step_size(taus), [10, 10, 0.1, 0.001])
    np.testing.assert_allclose(fixed_step_size(taus), 0.005)
    np.testing.assert_allclose(power_step_size(taus, power=1.0), [1e-3, 1e-2, 0.1, 1])
    np.testing.assert_allclose(power_step_size(taus, power=-2.0)[1:], chizat_step_size(taus)[1:])


def test_a_level_line_is_found_where_the_surface_crosses_it_and_nowhere_else():
    log_tau, log_alpha = np.linspace(-1, 1, 5), np.linspace(-3, 3, 25)
    surface = np.tanh(log_alpha[None, :] + 2 * log_tau[:, None])  # level lines of slope −2
    taus, alphas = crossings.crossings(surface, log_tau, log_alpha, np.tanh(0.3))
    np.testing.assert_allclose(alphas, 0.3 - 2 * taus, atol=1e-3)
    np.testing.assert_allclose(crossings.slope((taus, alphas)), -2, atol=1e-3)
    surface[0, :22] = np.nan  # diverged up to above the crossing: this column has none
    assert len(crossings.crossings(surface, log_tau, log_alpha, np.tanh(0.3))[0]) == 4
    assert np.isnan(crossings.slope(crossings.crossings(surface, log_tau, log_alpha, 2.0)))


def test_decades_are_short_decimal_numbers():
    assert decades(-1, 1, 0.5) == (0.1, 0.316228, 1.0, 3.16228, 10.0)
    assert len(decades(-2.2, 1, 0.1)) == 33


@pytest.mark.slow
@pytest.mark.parametrize("doubled", [False, True])
def test_a_cell_in_v_units_is_the_run_at_scale_tau(doubled):
    protocol, tau = replace(SMALL, doubled=doubled), 0.7
    cell = train(KEY, tau=jnp.asarray(tau), protocol=protocol)
    model, params0, problem = setup(KEY, protocol)
    raw = gradient_descent(
        model.apply,
        jax.tree.map(lambda leaf: tau * leaf, params0),
        problem,
        step_size=0.1 / tau**2,
        num_steps=protocol.num_steps,
        record=protocol.record,
        test_every=protocol.test_every,
    )
    for name in ("train_loss", "test_loss", "best_test_loss", "kernel_time"):
        np.testing.assert_allclose(cell[name], getattr(raw, name), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(cell["outputs_test"], model.apply(raw.params, held_out(problem)[0]), atol=1e-9)
    start = jax.tree.map(lambda leaf: tau * leaf, params0)
    expected = dense_change(model.apply, start, raw.params, held_out(problem)[0])
    np.testing.assert_allclose(cell["differential_change"], expected, rtol=1e-9)


@pytest.mark.slow
def test_the_differential_of_a_cell_over_width_changes_as_its_dense_jacobian():
    protocol = training.WidthProtocol(n=20, n_test=15, d=5, target_scale=3.0, num_steps=60)
    model, params0, problem = training.setup(KEY, 7, protocol)
    run = gradient_descent(model.apply, params0, problem, alpha=1 / 7, step_size=0.05 / 7, num_steps=60)
    cell = training.train(KEY, width=7, exponent=jnp.asarray(training.MEAN), protocol=protocol)
    expected = dense_change(model.apply, params0, run.params, held_out(problem)[0])
    np.testing.assert_allclose(cell["differential_change"], expected, rtol=1e-9)


def dense_change(apply, params0, params, x):
    before, after = (jax.tree.leaves(jax.jacrev(apply)(p, x)) for p in (params0, params))
    return tree.norm(tree.sub(after, before)) / tree.norm(before)


@pytest.mark.slow
def test_the_gap_of_an_experiment_vanishes_at_large_tau():
    ds = experiment(SMALL, (1.0, 10.0, 100.0), Trials(KEY, 3))
    slopes = np.polyfit([0, 1, 2], np.log10(ds.gap.transpose("tau", "seed").values), 1)[0]
    assert float(ds.gap.sel(tau=100.0).max()) < 1e-3
    assert np.all(slopes < -0.4)  # gates flip, so slower than tau^-2


@pytest.mark.slow
@pytest.mark.parametrize("doubled", [False, True])
def test_closed_form_of_the_hessian_norm_is_what_the_criterion_finds(doubled):
    protocol = replace(SMALL, doubled=doubled)
    model, params, problem = setup(KEY, protocol)
    parts = closed_form.ingredients(KEY, protocol)
    found = criterion(model.apply, params, problem, alpha=0.3, key=KEY)
    np.testing.assert_allclose(found.hessian_norm.value, parts.hessian_norm, rtol=1e-6)
    np.testing.assert_allclose(found.kappa, parts.kappa(0.3), rtol=1e-6)
    if not doubled:
        assert found.kappa_inf is not None
        np.testing.assert_allclose(found.kappa_inf, parts.kappa_inf, rtol=1e-6)


def test_kappa_depends_on_alpha_tau_squared_alone():
    one = closed_form.over_plane(KEY, tau=jnp.asarray(2.0), alphas=(1.0,), protocol=SMALL)
    other = closed_form.over_plane(KEY, tau=jnp.asarray(1.0), alphas=(4.0,), protocol=SMALL)
    np.testing.assert_allclose(one["kappa"], other["kappa"], rtol=1e-9)
