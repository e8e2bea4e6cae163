"""kappa's ingredients inside transformations, against the dense derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyscope.criterion import Ingredients, ingredients
from lazyscope.problems import Problem, cross_entropy

RANDOM = np.random.default_rng(0)
BEND = RANDOM.standard_normal((3, 3))
BEND = BEND + BEND.T
X, Y = RANDOM.standard_normal((5, 4)), RANDOM.standard_normal(5)


def quadratic(w, x):
    """B w + s wᵀMw, with ‖D²h‖ = 2‖s‖‖M‖."""
    return x[:, 1:] @ w + x[:, 0] * (w @ BEND @ w)


def measured(w):
    parts = ingredients(quadratic, w, Problem(jnp.asarray(X), jnp.asarray(Y)))
    return parts, parts.kappa(0.3), parts.kappa_inf


def test_in_a_mapped_program_they_are_those_of_the_dense_derivatives():
    weights = RANDOM.standard_normal((2, 3))
    parts, kappas, limits = jax.jit(jax.vmap(measured))(jnp.asarray(weights))
    for i, w in enumerate(weights):
        h = np.asarray(quadratic(w, X)) / np.sqrt(5)
        slope = np.linalg.norm(X[:, 1:] + 2 * np.outer(X[:, 0], BEND @ w), 2) / np.sqrt(5)
        bend = 2 * np.linalg.norm(X[:, 0]) / np.sqrt(5) * np.linalg.norm(BEND, 2)
        np.testing.assert_allclose(parts.jacobian_norm[i], slope, rtol=1e-9)
        np.testing.assert_allclose(parts.hessian_norm[i], bend, rtol=1e-9)
        residual = np.linalg.norm(0.3 * h - Y / np.sqrt(5))
        np.testing.assert_allclose(kappas[i], residual * bend / (0.3 * slope**2), rtol=1e-9)
        np.testing.assert_allclose(limits[i], np.linalg.norm(h) * bend / slope**2, rtol=1e-9)


@pytest.mark.parametrize(("jacobian", "hessian", "kappa"), [(1.0, 0.0, 0.0), (0.0, 1.0, np.inf), (0.0, 0.0, 0.0)])
def test_degenerate_models_give_limits(jacobian, hessian, kappa):
    parts = Ingredients(jnp.ones(2), jnp.zeros(2), jnp.asarray(jacobian), jnp.asarray(hessian))
    assert parts.kappa(2.0) == parts.kappa_inf == kappa


def test_other_losses_are_refused():
    labels = Problem(jnp.ones((4, 2)), jnp.zeros(4, int), loss=cross_entropy)
    with pytest.raises(ValueError, match=r"ls\.criterion"):
        ingredients(lambda w, x: x @ w, jnp.ones((2, 2)), labels)
