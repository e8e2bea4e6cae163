"""Slopes by differences, which decide between two derivatives: never sure where there is none."""

import numpy as np
import pytest

from lazyscope.adapters.torch.differences import slope


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_slope_of_a_smooth_function_is_within_its_error_of_the_derivative(scale):
    found, error = slope(lambda t: scale * (7 + np.exp(np.sin(3 * t))), 1e-7 * scale)
    assert abs(found - 3 * scale) <= error <= 1e-7 * scale


@pytest.mark.parametrize(("kinked", "jump"), [
    (lambda t: abs(t), 2.0),
    (lambda t: max(t, 0.0), 1.0),
    (lambda t: 1e-5 * abs(t - 1e-9), 2e-5),
    (lambda t: float(t > 0), 1.0),
    (lambda t: float("nan") if t < 0 else t, 1.0),
])  # fmt: skip
def test_at_a_kink_the_error_is_as_large_as_the_kink(kinked, jump):
    _, error = slope(lambda t: np.sin(t) + kinked(t), 1e-9)
    assert not error < 0.99 * jump


def test_kinks_nearby_that_one_step_crosses_are_none_at_a_shorter_one():
    found, error = slope(lambda t: 2 * t + max(t - 3e-6, 0.0) + max(-t - 7e-5, 0.0), 1e-6)
    assert abs(found - 2) <= error <= 1e-6
