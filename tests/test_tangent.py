"""The tangent kernel in its forms against each other; the infinite-width kernel against quadrature and wide nets."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES
from compiled import compiled

from lazyscope import (
    Doubled,
    blocked_tangent_kernel,
    diagonal_kernel,
    double,
    group_kernels,
    infinite_width_kernel,
    kernel_product,
    spectrum,
    tangent_kernel,
    traced_kernel,
    two_layer,
)
from lazyscope.linearize import linearize
from lazyscope.tangent import blocks, derivatives, group_kernel_examples, largest_eigenvalue

# Piecewise linear in the weights: the second-order rate needs a second derivative.
SMOOTH = [case for case in CASES if "relu" not in case.name and "conv" not in case.name]
CURVED = [case for case in SMOOTH if case.name not in ("linear", "zero")]
TWO_LAYER, SEVERAL = CASES[0], next(case for case in CASES if case.name == "several outputs")


def named(cases):
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def brute_force_jacobian(case, params, x):
    """Dh by jax.jacobian on the whole batch at once, (n·k, p)."""
    leaves, structure = jax.tree.flatten(params)
    where = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    def outputs(floats):
        filled = list(leaves)
        for i, leaf in zip(where, floats, strict=True):
            filled[i] = leaf
        return case.apply(jax.tree.unflatten(structure, filled), x).reshape(-1)

    blocks = jax.jacobian(outputs)([leaves[i] for i in where])
    return jnp.concatenate([block.reshape(block.shape[0], -1) for block in blocks], axis=1)


def brute_force_kernel(case, x, x2):
    """Dh Dhᵀ as `tangent_kernel` gives it, put together by NumPy."""
    left, right = (np.asarray(compiled(partial(brute_force_jacobian, case))(case.params, batch)) for batch in (x, x2))
    kernel = np.einsum("ap,bp->ab", left, right).reshape(len(x), -1, len(x2), len(right) // len(x2))
    scalar = case.problem.y.ndim == 1 and case.name != "cross-entropy"
    return kernel[:, 0, :, 0] if scalar else kernel.transpose(0, 2, 1, 3)


def tight_budget(case, examples=3):
    """Bytes that leave room for blocks of about three examples."""
    found = derivatives.derivatives(case.apply, case.params, case.problem.x)
    outputs = case.apply(case.params, case.problem.x)
    n, k = outputs.shape[0], outputs[0].size
    each = sum(leaf.size for leaf in jax.tree.leaves(found)) // n
    return 8 * (2 * n * n * k * k + 3 * examples * each + 2 * examples**2 * k * k)


@pytest.mark.slow
@named(CASES)
def test_dense_blocked_and_matrix_free_kernels_agree(case):
    x, budget = case.problem.x, tight_budget(case)

    def forms(params, x, v):
        dense = tangent_kernel(case.apply, params, x)
        blocked = blocked_tangent_kernel(case.apply, params, x, memory_budget=budget)
        return dense, blocked, kernel_product(case.apply, params, x)(v), brute_force_jacobian(case, params, x)

    v = jax.random.normal(jax.random.key(0), jax.eval_shape(case.apply, case.params, x).shape)
    dense, blocked, product, dh = (np.asarray(form) for form in compiled(forms)(case.params, x, v))
    expected = dh @ dh.T
    tolerance = {"rtol": 1e-10, "atol": 1e-10 * np.abs(expected).max()}
    as_expected = dense if dense.ndim == 2 else dense.transpose(0, 2, 1, 3).reshape(expected.shape)
    np.testing.assert_allclose(as_expected, expected, **tolerance)
    np.testing.assert_allclose(blocked, dense, **tolerance)
    np.testing.assert_allclose(product.reshape(-1), expected @ np.asarray(v).reshape(-1), **tolerance)


@named([TWO_LAYER, SEVERAL])
@pytest.mark.parametrize("reverse", [False, True])
def test_kernels_between_two_batches_agree_in_all_forms(case, reverse):
    x, x2 = case.problem.x, 0.5 + case.problem.x[:4] ** 2
    x, x2 = (x2, x) if reverse else (x, x2)
    budget = tight_budget(case)

    def forms(params, x, x2, v):
        dense = tangent_kernel(case.apply, params, x, x2)
        blocked = blocked_tangent_kernel(case.apply, params, x, x2, memory_budget=budget)
        return dense, blocked, kernel_product(case.apply, params, x, x2)(v)

    v = jax.random.normal(jax.random.key(0), jax.eval_shape(case.apply, case.params, x2).shape)
    dense, blocked, product = (np.asarray(form) for form in compiled(forms)(case.params, x, x2, v))
    expected = brute_force_kernel(case, x, x2)
    np.testing.assert_allclose(dense, expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(blocked, expected, rtol=1e-10, atol=1e-12)
    summed = np.einsum("ij,j->i" if expected.ndim == 2 else "ijkl,jl->ik", expected, np.asarray(v))
    np.testing.assert_allclose(product, summed, rtol=1e-10, atol=1e-11)


# Per example of the two-layer net: a by its Jacobian (width), b by its factors (d and width); both come from factors.
WIDTH, D = TWO_LAYER.params["b"].shape
DERIVATIVE, WORKING = WIDTH + (D + WIDTH), (WIDTH + 1) + (D + WIDTH)


@pytest.mark.parametrize("block", [1, 2, 5, 15, 16, 100])
def test_any_block_size_gives_the_dense_kernel(block, monkeypatch):
    x, taken = TWO_LAYER.problem.x, []
    budget = 8 * (2 * len(x) ** 2 + (2 * DERIVATIVE + WORKING) * block + 2 * block**2)
    kernel = tangent_kernel(TWO_LAYER.apply, TWO_LAYER.params, x)
    derive = blocks._derive
    monkeypatch.setattr(blocks, "_derive", lambda *given: taken.append(len(given[-1])) or derive(*given))
    blocked = blocked_tangent_kernel(TWO_LAYER.apply, TWO_LAYER.params, x, memory_budget=budget)
    np.testing.assert_allclose(blocked, kernel, rtol=1e-12, atol=1e-12)
    count = -(-len(x) // min(block, len(x)))
    assert {size for size in taken if size > 1} <= {-(-len(x) // count)}
    assert len(taken) - taken.count(1) == (count * (count + 1) // 2 if block > 1 else 0)


@named([TWO_LAYER, SEVERAL])
@pytest.mark.parametrize("second", [None, 5])
def test_trace_and_diagonal_over_outputs_are_those_of_the_dense_kernel(case, second):
    x = case.problem.x
    x2 = None if second is None else x[:second]
    kernel = brute_force_kernel(case, x, x if x2 is None else x2)
    four = kernel if kernel.ndim == 4 else kernel[:, :, None, None]
    budget = tight_budget(case)

    def forms(params):
        return [form(case.apply, params, x, x2, memory_budget=budget) for form in (traced_kernel, diagonal_kernel)]

    traced, diagonal = compiled(forms)(case.params)
    np.testing.assert_allclose(traced, np.einsum("ijcc->ij", four), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(diagonal, np.einsum("ijcc->ijc", four), rtol=1e-11, atol=1e-12)


def test_group_kernels_sum_to_the_kernel_and_leave_buffers_out():
    for case in (SEVERAL, next(case for case in CASES if case.name == "shared weights")):
        kernels = group_kernels(case.apply, case.params, case.problem.x)
        total = tangent_kernel(case.apply, case.params, case.problem.x)
        np.testing.assert_allclose(sum(kernels.values()), total, rtol=1e-11, atol=1e-12)
    assert set(kernels) == {"w", "u"}


def test_the_groups_of_the_two_layer_net_are_its_feature_and_its_weighted_gate_kernels():
    # K_a = φ(XBᵀ)φ(XBᵀ)ᵀ and K_b = (XXᵀ) ∘ (G diag(a²) Gᵀ), written out.
    x, a, b = (np.asarray(v) for v in (TWO_LAYER.problem.x, TWO_LAYER.params["a"], TWO_LAYER.params["b"]))
    kernels = group_kernels(TWO_LAYER.apply, TWO_LAYER.params, TWO_LAYER.problem.x)
    gates = (x @ b.T > 0).astype(float)
    np.testing.assert_allclose(kernels["a"], np.maximum(x @ b.T, 0) @ np.maximum(x @ b.T, 0).T, rtol=1e-12)
    np.testing.assert_allclose(kernels["b"], (x @ x.T) * ((gates * a**2) @ gates.T), rtol=1e-12, atol=1e-13)


def test_a_model_and_its_double_have_kernels_in_ratio_two():
    model = two_layer(4, 5, jnp.tanh)
    params, x = model.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (7, 5))
    twice = tangent_kernel(double(model).apply, Doubled(params, params), x)
    np.testing.assert_allclose(twice, 2 * tangent_kernel(model.apply, params, x), rtol=1e-12)


@named([case for case in CASES if case.jacobian_norm is not None])
def test_the_largest_eigenvalue_is_the_known_squared_norm(case):
    value = compiled(partial(largest_eigenvalue, case.apply))(case.params, case.problem.x)
    np.testing.assert_allclose(np.sqrt(value), case.jacobian_norm, rtol=1e-6, atol=1e-12)


@pytest.mark.slow
def test_the_largest_eigenvalue_of_a_conv_net_is_that_of_its_dense_kernel():
    case = next(case for case in CASES if case.name == "conv net")
    kernel = tangent_kernel(case.apply, case.params, case.problem.x)
    largest = spectrum(kernel).eigenvalues[0] / case.problem.num_examples
    np.testing.assert_allclose(largest_eigenvalue(case.apply, case.params, case.problem.x), largest, rtol=1e-9)


@named(CURVED)
def test_linearisation_is_exact_to_second_order(case):
    x, distances = case.problem.x, np.array([1e-2, 1e-3, 1e-4])
    taylor = linearize(case.apply, case.params)

    def gap(distance):
        keys = iter(jax.random.split(jax.random.key(1), 20))
        moved = jax.tree.map(
            lambda leaf: (
                leaf + distance * jax.random.normal(next(keys), leaf.shape)
                if jnp.issubdtype(leaf.dtype, jnp.floating)
                else leaf
            ),
            case.params,
        )
        return jnp.linalg.norm((case.apply(moved, x) - taylor(moved, x)).reshape(-1))

    gaps = compiled(jax.vmap(gap))(jnp.asarray(distances))
    slope = np.polyfit(np.log(distances), np.log(gaps), 1)[0]
    assert abs(slope - 2) < 0.05


def test_spectrum_of_a_known_matrix():
    values = np.array([5.0, 2.0, 1.0, 1e-20, 0.0])
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    result = spectrum(jnp.asarray(basis * values @ basis.T))
    np.testing.assert_allclose(result.eigenvalues[:3], values[:3], rtol=1e-13)
    assert int(result.rank) == 3
    np.testing.assert_allclose(result.condition, 5, rtol=1e-13)
    np.testing.assert_allclose(result.effective_rank, 64 / 30, rtol=1e-13)
    assert int(spectrum(jnp.diag(values[:3]), rcond=0.3).rank) == 2


def test_spectrum_of_the_identity_and_of_zero():
    flat = spectrum(jnp.eye(6))
    assert (int(flat.rank), float(flat.condition), float(flat.effective_rank)) == (6, 1.0, 6.0)
    none = jax.jit(spectrum)(jnp.zeros((4, 4)))
    assert (int(none.rank), float(none.condition), float(none.effective_rank)) == (0, np.inf, 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_kernel_that_is_not_finite_is_refused_and_nan_throughout_inside_a_transformation(bad):
    kernel = jnp.eye(3).at[0, 1].set(bad)
    with pytest.raises(ValueError, match="must be finite to have a spectrum, got 1 NaN or infinite entries of 9"):
        spectrum(kernel)
    result = jax.jit(spectrum)(kernel)
    assert np.isnan(result.eigenvalues).all()
    assert np.isnan(result.condition)
    assert np.isnan(result.effective_rank)
    assert int(result.rank) == -1


def test_a_kernel_between_two_batches_has_no_spectrum_and_rounding_leaves_one():
    x = TWO_LAYER.problem.x
    kernel = tangent_kernel(TWO_LAYER.apply, TWO_LAYER.params, x)
    between = tangent_kernel(TWO_LAYER.apply, TWO_LAYER.params, x, x[::-1] + 0.5)
    with pytest.raises(ValueError, match=r"must be symmetric to have a spectrum, got max\|K − Kᵀ\|/2 = .* max\|K\|"):
        spectrum(between)
    rounded = kernel.astype(jnp.float32) + 1e-7 * jnp.triu(kernel).astype(jnp.float32)
    np.testing.assert_allclose(spectrum(rounded).eigenvalues[0], spectrum(kernel).eigenvalues[0], rtol=1e-5)
    lopsided = -jnp.ones((3, 3)) + 1e-12 * jnp.triu(jnp.ones((3, 3)), 1)
    np.testing.assert_allclose(spectrum(lopsided).eigenvalues, [0, 0, -3], atol=1e-11)


@named([case for case in CASES if case.name in ("rank one", "quadratic, rank one", "linear", "several outputs")])
def test_rank_and_largest_eigenvalue_of_a_kernel_are_those_of_the_jacobian(case):
    x = case.problem.x
    kernel = tangent_kernel(case.apply, case.params, x)
    result = spectrum(kernel)
    dh = np.asarray(compiled(partial(brute_force_jacobian, case))(case.params, x))
    np.testing.assert_allclose(result.eigenvalues[0], np.linalg.norm(dh, ord=2) ** 2, rtol=1e-12)
    assert int(result.rank) == np.linalg.matrix_rank(dh)


def quadrature_kernel(x, x2, points=400_000):
    """E[K]/m by polar coordinates in the plane of x and x', in which b has radius² of mean 2 and a uniform angle."""
    norms = np.linalg.norm(x), np.linalg.norm(x2)
    angle = np.arccos(np.clip(x @ x2 / np.prod(norms), -1, 1))
    phi = (np.arange(points) + 0.5) * 2 * np.pi / points
    one, two = np.cos(phi), np.cos(phi - angle)
    from_a = np.prod(norms) * 2 * np.mean(np.maximum(one, 0) * np.maximum(two, 0))
    return from_a + x @ x2 * np.mean((one > 0) & (two > 0))


def test_infinite_width_kernel_is_the_gaussian_average():
    x = np.random.default_rng(0).standard_normal((4, 6))
    x2 = np.random.default_rng(1).standard_normal((5, 6))
    expected = [[quadrature_kernel(u, v) for v in x2] for u in x]
    # The midpoint rule is exact to points^(-1) where a gate switches.
    np.testing.assert_allclose(infinite_width_kernel(jnp.asarray(x), jnp.asarray(x2)), expected, rtol=0, atol=5e-5)
    three = infinite_width_kernel(jnp.asarray(x), tau=3.0)
    np.testing.assert_allclose(three, 9 * infinite_width_kernel(jnp.asarray(x)), rtol=1e-14)


@pytest.mark.slow
def test_infinite_width_kernel_at_equal_opposite_orthogonal_and_zero_inputs():
    x = jnp.array([[3.0, 4.0, 0.0], [-3.0, -4.0, 0.0], [0.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    expected = np.array([[25.0, 0, 10 / (2 * np.pi), 0], [0, 25, 10 / (2 * np.pi), 0], [0, 0, 4, 0], [0, 0, 0, 0]])
    expected[2, :2] = expected[:2, 2]
    np.testing.assert_allclose(infinite_width_kernel(x), expected, atol=1e-14)
    # An angle of 1e-9: the linear term of the kink survives.
    near = infinite_width_kernel(x[:1], x[:1] + jnp.array([[-4e-9, 3e-9, 0.0]]))
    np.testing.assert_allclose(25 - near, 25 * 1e-9 / (2 * np.pi), rtol=1e-5)


@pytest.mark.slow
def test_finite_width_kernels_approach_the_infinite_one_as_the_square_root_of_width():
    x = jax.random.normal(jax.random.key(0), (8, 5)) / np.sqrt(5)
    limit = infinite_width_kernel(x)
    widths = np.array([32, 181, 1024])

    def error(width):
        model = two_layer(width, 5)

        def one(key):
            return jnp.linalg.norm(tangent_kernel(model.apply, model.init(key), x) / width - limit) ** 2

        return jnp.sqrt(jnp.mean(jax.lax.map(one, jax.random.split(jax.random.key(1), 100))))

    errors = np.array([float(compiled(error, static_argnums=0)(int(width))) for width in widths])
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert abs(slope + 0.5) < 0.05
    assert errors[-1] < 0.1 * float(jnp.linalg.norm(limit))


def test_a_doubled_net_has_the_kernel_per_unit_of_its_half():
    x, whole, half = jax.random.normal(jax.random.key(0), (8, 5)), two_layer(12, 5), two_layer(6, 5)
    params = whole.init(jax.random.key(1), doubled=True)
    expected = tangent_kernel(half.apply, params.plus, x) / 6
    np.testing.assert_allclose(tangent_kernel(whole.apply, params, x) / 12, expected, rtol=1e-12)


def test_a_dense_kernel_over_the_budget_is_refused_with_the_bytes_and_the_blocked_call():
    x = TWO_LAYER.problem.x
    needed = 8 * (16 * (DERIVATIVE + WORKING) + 2 * 16 * 16)
    tangent_kernel(TWO_LAYER.apply, TWO_LAYER.params, x, memory_budget=needed)
    with pytest.raises(
        ValueError, match=r"memory_budget=1.08e\+04 bytes, needs 1.09e\+04: call blocked_tangent_kernel"
    ):
        tangent_kernel(TWO_LAYER.apply, TWO_LAYER.params, x, memory_budget=needed - 100)


@pytest.mark.parametrize(("numbers", "examples"), [(DERIVATIVE - 1, 0), (10 * DERIVATIVE, 10), (20_000, 100)])
def test_as_many_examples_are_taken_as_have_derivatives_and_kernels_of_a_number(numbers, examples):
    # Two groups, hence two kernels: 100² of each are 20 000 numbers.
    assert group_kernel_examples(TWO_LAYER.apply, TWO_LAYER.params, TWO_LAYER.problem.x, numbers) == examples


def test_a_kernel_that_no_block_fits_is_refused_with_the_product():
    with pytest.raises(ValueError, match=r"need 4.74e\+03: take fewer examples, .* kernel_product"):
        blocked_tangent_kernel(TWO_LAYER.apply, TWO_LAYER.params, TWO_LAYER.problem.x, memory_budget=4700)


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (lambda w, x: (x @ w > 0).astype(int), "must be real floating-point numbers, got int64"),
        (lambda w, x: jax.lax.complex(x @ w, x @ w), "must be real floating-point numbers, got complex128"),
        (lambda w, x: jnp.sum(x @ w), r"one row per example, got shape \(\) for 7 examples"),
        (lambda w, x: (x @ w)[:3], r"one row per example, got shape \(3,\) for 7 examples"),
    ],
)
def test_outputs_that_have_no_kernel_are_refused(apply, message):
    x = jnp.ones((7, 5))
    for function in (tangent_kernel, blocked_tangent_kernel, kernel_product):
        with pytest.raises(ValueError, match=message):
            function(apply, jnp.ones(5), x)


def test_vectors_and_kernels_of_another_shape_are_refused():
    product = kernel_product(TWO_LAYER.apply, TWO_LAYER.params, TWO_LAYER.problem.x)
    with pytest.raises(ValueError, match=r"outputs' shape \(16,\), got \(3,\): reshape it"):
        product(jnp.ones(3))
    with pytest.raises(ValueError, match=r"shape \(n, n\) or \(n, n, k, k\), got \(3, 4\)"):
        spectrum(jnp.ones((3, 4)))
