"""Conjugate gradients for an eigenvector, against dense eigenvalues and Lanczos."""

import jax.numpy as jnp
import numpy as np
import pytest

from lazyscope.criterion.climb import top_eigenvector, top_eigenvector_by_calls
from lazyscope.krylov import lanczos

RUNS = pytest.mark.parametrize("run", [top_eigenvector, top_eigenvector_by_calls])


def symmetric(size, sign=1.0):
    rng = np.random.default_rng(0)
    square = rng.standard_normal((size, size))
    return jnp.asarray(sign * square @ square.T), jnp.asarray(rng.standard_normal(size))


def product_of(matrix):
    """The product on vectors in two leaves."""

    def product(v):
        image = matrix @ jnp.concatenate(v)
        return [image[:7], image[7:]]

    return product


def start_of(start):
    return [start[:7] + 0, start[7:] + 0]


def quotient(matrix, u):
    v = jnp.concatenate(u)
    np.testing.assert_allclose(jnp.linalg.norm(v), 1, rtol=1e-12)
    return float(v @ matrix @ v)


@RUNS
def test_as_many_products_go_as_far_as_lanczos(run):
    matrix, start = symmetric(40)
    for steps in (1, 3, 8):
        found = quotient(matrix, run(product_of(matrix), start_of(start), steps))
        best = float(lanczos(lambda v: matrix @ v, start, depth=steps).values[-1])
        assert 0.995 * best <= found <= best * (1 + 1e-9)


@RUNS
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_it_ends_at_the_eigenvector_of_largest_magnitude(run, sign):
    matrix, start = symmetric(40, sign)
    values = np.linalg.eigvalsh(matrix)
    found = quotient(matrix, run(product_of(matrix), start_of(start), 120))
    np.testing.assert_allclose(found, values[np.argmax(abs(values))], rtol=1e-9)


@RUNS
def test_an_eigenvector_stays_and_the_zero_operator_gives_no_nan(run):
    eigenvector = jnp.eye(12)[3]
    found = jnp.concatenate(run(product_of(jnp.diag(jnp.arange(12.0))), start_of(eigenvector), 5))
    np.testing.assert_allclose(jnp.abs(found), eigenvector, atol=1e-12)
    nowhere = jnp.concatenate(run(product_of(jnp.zeros((12, 12))), start_of(jnp.ones(12)), 5))
    np.testing.assert_allclose(jnp.abs(nowhere), np.full(12, 12**-0.5), rtol=1e-12)
