"""Units: h and y times s leave every ratio as it is, over the range of the type, and s²·step too.

Each ratio is homogeneous of degree 0 in s, so its value at s = 1 is the oracle at all others.
"""

import math
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import compiled
from hypothesis import given, settings
from hypothesis import strategies as st

from lazyscope import (
    Problem,
    alpha_for,
    cka,
    criterion,
    distance,
    kernel_change,
    kernel_distance,
    kernel_time,
    linearization_gap,
    relative_change,
    spectrum,
    stable_rank,
    stable_step_size,
    tangent_kernel,
    target_alignment,
    tree,
)
from lazyscope.criterion import DEFAULT, QUICK, dense_bound, frobenius_bound
from lazyscope.krylov import lanczos
from lazyscope.tangent import derivative_unit, largest_eigenvalue

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (12, 3))
Y = jnp.sin(jnp.arange(12.0))
PARAMS = jnp.ones((3, 4)) * jnp.array([[1.0, -0.5, 0.3, 0.8]])
STEP = 0.05
# Enough that the search ends at the same maximum whatever the rounding.
BUDGET = DEFAULT._replace(coordinates=6, keep=2, products=900, dense=0)


def scaled(s):
    """The model, its parameters and its problem in units of 1/s, in the type of `s`."""
    dtype = s.dtype

    # The scale is a parameter of the model's program and not of its text, so that one program serves all scales.
    def apply(params, x):
        return jnp.sum(jnp.tanh(x[:, :3] @ params), axis=1) * x[:, 3]

    x = jnp.concatenate([X.astype(dtype), jnp.full((12, 1), s)], axis=1)
    return cached(apply, dtype), PARAMS.astype(dtype), Problem(x, Y.astype(dtype) * s)


APPLIES = {}


def cached(apply, dtype):
    return APPLIES.setdefault(jnp.dtype(dtype), apply)


def summary(s, params, apply, problem):
    crit = criterion(apply, params, problem, key=KEY, budget=BUDGET)
    assert crit.kappa_least is not None
    assert crit.kappa_inf is not None
    assert crit.alpha_least is not None
    return [
        crit.kappa,
        *crit.kappa_interval,
        crit.kappa_exact,
        crit.kappa_inf,
        crit.kappa_least,
        crit.alpha_least,
        crit.upper_bound.error / crit.upper_bound.value,
        crit.residual_norm / float(s),
        crit.jacobian_norm.value / float(s),
        crit.hessian_norm.value / float(s),
    ]


def one_step(s, params, apply, problem):
    crit = criterion(apply, params, problem, key=KEY, budget=QUICK, step_size=STEP / float(s) / float(s))
    assert crit.one_step is not None
    return crit.one_step[1:]


def subsampled(s, params, apply, problem):
    crit = criterion(apply, params, problem, key=KEY, budget=QUICK, examples=6)
    assert crit.subsampling is not None
    found = crit.subsampling
    return [found.kappa_error, found.jacobian_norm_held_out / float(s), found.hessian_norm_held_out / float(s)]


def the_kernel(s, params, apply, problem):
    return tangent_kernel(apply, params, problem.x)


def other_kernel(dtype):
    features = jnp.asarray(np.random.default_rng(0).standard_normal((12, 2)), dtype)
    return features @ features.T


# Whether a number is of the kernel itself, which no float holds at the ends of the range, or of the derivative alone.
RATIOS = {
    "criterion": (summary, False),
    "changes in one step": (one_step, True),
    "subsampled criterion": (subsampled, False),
    "alpha_for": (
        lambda s, params, apply, problem: alpha_for(apply, params, problem, kappa=1.0, key=KEY, budget=BUDGET),
        False,
    ),
    "linearization_gap": (
        lambda s, params, apply, problem: linearization_gap(apply, params, 1.1 * params, problem.x),
        False,
    ),
    "kernel_change": (
        lambda s, params, apply, problem: kernel_change(apply, params, 1.1 * params, problem.x).all,
        False,
    ),
    "kernel_distance": (
        lambda s, params, apply, problem: kernel_distance(apply, params, 1.1 * params, problem.x),
        False,
    ),
    "target_alignment": (lambda s, params, apply, problem: target_alignment(apply, params, problem), False),
    "effective_rank": (lambda s, *model: spectrum(the_kernel(s, *model)).effective_rank, True),
    "rank": (lambda s, *model: spectrum(the_kernel(s, *model), rcond=1e-3).rank, True),
    "cka": (lambda s, *model: cka(the_kernel(s, *model), other_kernel(s.dtype)), True),
    "stable_rank": (lambda s, params, apply, problem: stable_rank(problem.x[:, 3:] * problem.x[:, :3]), False),
    "s²·stable_step_size": (
        lambda s, params, apply, problem: float(stable_step_size(apply, params, problem)) * float(s) * float(s),
        True,
    ),
    "kernel_time/s²": (
        lambda s, params, apply, problem: float(kernel_time(apply, params, problem.x, 1.0)) / float(s) / float(s),
        True,
    ),
    "distance/s": (lambda s, params, apply, problem: distance(s * params, 2 * s * params).all / s, False),
    "relative_change": (lambda s, params, apply, problem: relative_change(s * params, 3 * s * params).all, False),
}
ENDS = {jnp.float32: 30, jnp.float64: 290}
TOLERANCE = {jnp.float32: 5e-3, jnp.float64: 1e-4}  # the search for ‖D²h‖ ends where it gains less
# Each compiles for some seconds.
PATIENT = {"criterion", "changes in one step", "subsampled criterion", "alpha_for"}


def value(name, s):
    apply, params, problem = scaled(s)
    measure, _ = RATIOS[name]
    return np.asarray(measure(s, params, apply, problem), float)


@cache
def at_one(name, dtype):
    return value(name, jnp.ones((), dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ENDS)
@pytest.mark.parametrize("name", RATIOS)
@settings(max_examples=4)
@given(st.floats(-1, 1))
def test_a_ratio_does_not_depend_on_the_units_of_the_outputs(name, dtype, fraction):
    end = ENDS[dtype] * (0.45 if RATIOS[name][1] else 1)
    s = jnp.asarray(10.0 ** round(fraction * end), dtype)
    np.testing.assert_allclose(value(name, s), at_one(name, dtype), rtol=TOLERANCE[dtype])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=[pytest.mark.slow] * (name in PATIENT or dtype == jnp.float64))
        for name in RATIOS
        for dtype in ENDS
    ],
)
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_ratio_is_the_same_near_the_ends_of_the_range(name, dtype, sign):
    end = sign * int(ENDS[dtype] * (0.45 if RATIOS[name][1] else 1))
    s = jnp.asarray(10.0**end, dtype)
    np.testing.assert_allclose(value(name, s), at_one(name, dtype), rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ENDS)
@given(exponent=st.floats(-0.99, 0.99), seed=st.integers(0, 99))
def test_a_norm_is_that_of_double_precision_at_any_scale(dtype, exponent, seed):
    values = np.random.default_rng(seed).standard_normal(7) * 10.0 ** (
        exponent * {jnp.float32: 36, jnp.float64: 305}[dtype]
    )
    values = values.astype(dtype)
    expected = math.hypot(*values.tolist())
    leaves = [jnp.asarray(values[:3]), jnp.asarray(values[3:]).reshape(2, 2), jnp.zeros((0,), dtype)]
    np.testing.assert_allclose(tree.norm(leaves), expected, rtol=1e-6 if dtype == jnp.float32 else 1e-15)
    np.testing.assert_allclose(tree.host_norm(values), expected, rtol=1e-14)


def test_norms_of_nothing_are_zero_and_what_is_not_finite_is_passed_on():
    for norm in (tree.norm, lambda v: tree.host_norm(np.asarray(v))):
        assert float(norm(jnp.zeros(3))) == 0
        assert float(norm(jnp.array([1.0, -jnp.inf]))) == math.inf
        assert math.isnan(float(norm(jnp.array([1.0, jnp.nan]))))
    gradient = jax.grad(tree.norm)(1e200 * jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(gradient, [0.6, 0.8], rtol=1e-15)


@given(st.integers(-1022, 1023), st.floats(1, 2, exclude_max=True), st.sampled_from([-1, 1]))
def test_the_unit_is_the_power_of_two_below_the_largest_magnitude(exponent, mantissa, sign):
    assert float(tree.unit([jnp.asarray(sign * math.ldexp(mantissa, exponent)), jnp.zeros(2)])) == 2.0**exponent


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
def test_lanczos_finds_the_same_pairs_of_a_scaled_operator(scale):
    factor = jax.random.normal(KEY, (12, 5)) / 8
    matrix, start = factor @ factor.T, jnp.ones(12)
    run = compiled(lambda c: lanczos(lambda v: c * (matrix @ v), start, depth=8))
    pairs, there = run(1.0), run(scale)
    np.testing.assert_allclose(there.values / scale, pairs.values, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(there.residuals / scale, pairs.residuals, atol=1e-9)


@pytest.mark.parametrize("scale", [1e-250, 1e250])
def test_upper_bounds_scale_with_the_outputs(scale):
    probes = np.array([1.0, 2.0, 4.0, 3.0])
    here, there = frobenius_bound(probes), frobenius_bound(scale * probes)
    np.testing.assert_allclose([there.value / scale, there.error / scale], [here.value, here.error], rtol=1e-12)
    one, s = (dense_bound(*scaled(jnp.asarray(c))[:2], scaled(jnp.asarray(c))[2].x) for c in (1.0, scale))
    np.testing.assert_allclose(s.value / scale, one.value, rtol=1e-9)


@pytest.mark.parametrize("s", [1e-30, 1e30])
def test_what_no_float_holds_is_refused_and_nan_inside_a_transformation(s):
    apply, params, problem = scaled(jnp.asarray(s, jnp.float32))
    measures = {
        "stable step size": lambda params: stable_step_size(apply, params, problem),
        "largest eigenvalue": lambda params: largest_eigenvalue(apply, params, problem.x),
    }
    for name, measure in measures.items():
        with pytest.raises(ValueError, match=rf"{name}.* must lie between 1.2e-38 and 3.4e\+38 in float32"):
            measure(params)
        assert np.isnan(jax.jit(measure)(params))
    if s < 1:
        with pytest.raises(ValueError, match=r"must have entries above 6.2e-33 in float32"):
            tangent_kernel(apply, params, problem.x)
    unit = derivative_unit(apply, params, problem.x)
    assert 1 < float(unit) / s < 100


def test_a_step_without_a_limit_stays_infinite():
    flat = Problem(jnp.ones((3, 2)), jnp.ones(3))
    assert np.isposinf(stable_step_size(lambda w, x: 0 * (x @ w), jnp.ones(2), flat))
    assert np.isposinf(jax.jit(partial(stable_step_size, lambda w, x: 0 * (x @ w), problem=flat))(jnp.ones(2)))


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_a_kernel_is_right_where_only_the_inputs_of_a_layer_and_its_slopes_are_extreme(scale):
    # Inputs times c into weights that are divided by c again: the kernel is that of c = 1 times c² of the inputs.
    x, v = X.astype(jnp.float32), jnp.ones((3, 4), jnp.float32)
    c = jnp.asarray(scale, jnp.float32)

    def apply(w, x):
        return jnp.sum(jnp.tanh(x @ w / c), axis=1)

    here = tangent_kernel(lambda w, x: jnp.sum(jnp.tanh(x @ w), axis=1), v, x)
    there = tangent_kernel(apply, v, x * c)
    np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5)
