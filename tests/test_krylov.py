import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyscope.krylov import lanczos, lanczos_by_calls


def symmetric(size, rank, seed=0):
    factor = jax.random.normal(jax.random.key(seed), (size, rank))
    return factor @ factor.T


def start(size):
    return jax.random.normal(jax.random.key(9), (size,))


def test_full_depth_gives_all_eigenvalues():
    matrix = symmetric(12, 12) - 5 * jnp.eye(12)
    pairs = lanczos(lambda v: matrix @ v, start(12), depth=12)
    np.testing.assert_allclose(pairs.values, np.linalg.eigvalsh(matrix), rtol=1e-9, atol=1e-9)
    assert float(pairs.residuals.max()) < 1e-7


def test_residuals_are_those_of_the_ritz_pairs():
    matrix = symmetric(40, 40)
    pairs = lanczos(lambda v: matrix @ v, start(40), depth=10)
    direct = jnp.linalg.norm(matrix @ pairs.vectors.T - pairs.vectors.T * pairs.values[None, :], axis=0)
    np.testing.assert_allclose(pairs.residuals, direct, atol=1e-9 * float(pairs.values[-1]))


@pytest.mark.parametrize("rank", [3, 20])
def test_the_loop_in_python_gives_the_same_pairs(rank):
    matrix = symmetric(20, rank)
    pairs, by_calls = (run(lambda v: matrix @ v, start(20), depth=8) for run in (lanczos, lanczos_by_calls))
    for found, expected in zip(by_calls, pairs, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-9 * float(pairs.values[-1]))


@pytest.mark.parametrize("rank", [1, 3])
def test_depth_beyond_the_rank_does_not_normalise_noise(rank):
    matrix = symmetric(20, rank)
    pairs = lanczos(lambda v: matrix @ v, start(20), depth=15)
    expected = np.linalg.eigvalsh(matrix)
    np.testing.assert_allclose(pairs.values[-rank:], expected[-rank:], rtol=1e-10)
    assert float(jnp.abs(pairs.values[:-rank]).max()) < 1e-9 * expected[-1]


def test_the_zero_operator_has_zero_values():
    pairs = lanczos(lambda v: 0 * v, start(6), depth=4)
    assert bool(jnp.all(pairs.values == 0))


def test_an_exact_eigenvector_as_start_stops_at_once():
    pairs = lanczos(lambda v: 3 * v, start(6), depth=4)
    np.testing.assert_allclose(pairs.values[-1], 3.0, rtol=1e-14)
    assert bool(jnp.all(jnp.isfinite(pairs.vectors)))


def test_fewer_steps_than_compiled_are_those_of_a_shallower_search():
    matrix = np.cos(np.arange(64.0)).reshape(8, 8)
    matrix, start = jnp.asarray(matrix + matrix.T), jnp.ones(8)
    for steps in (1, 3, 6):
        stopped = lanczos(lambda v: matrix @ v, start, depth=6, steps=jnp.asarray(steps))
        whole = lanczos(lambda v: matrix @ v, start, depth=steps)
        found, rest = jnp.split(stopped.values[jnp.argsort(-jnp.abs(stopped.values))], [steps])
        np.testing.assert_allclose(jnp.sort(found), whole.values, rtol=1e-12)
        np.testing.assert_allclose(rest, 0, atol=1e-12)
