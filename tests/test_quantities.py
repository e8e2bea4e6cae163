"""Quantities of claims against arrays whose powers, ranks and ratios are known."""

import numpy as np
import pytest
import xarray as xr

from lazyscope.papers.quantities import FIRST, LAST, at, difference, log10, log10_ratio, power, rank_correlation

M = np.array([4.0, 32.0, 64.0, 256.0])
DS = xr.Dataset(
    {
        "loss": (("seed", "width"), np.stack([M**0.3, 5 * M**-1.0]) + np.where(M < 32, 7.0, 0.0)),
        "level": (("width", "seed", "start"), np.arange(16.0).reshape(4, 2, 2)),
    },
    coords={"width": M, "start": ["plain", "symmetrised"]},
)


def test_powers_are_those_of_a_power_law_over_the_selected_part():
    np.testing.assert_allclose(power("loss", "width", width=slice(32, None))(DS), [0.3, -1], rtol=1e-12)


def test_a_slope_must_have_two_positive_places_and_is_nan_where_a_value_is_not_positive():
    for where, axis in (({"width": slice(256, None)}, DS), ({}, DS.assign_coords(width=M - 4))):
        with pytest.raises(ValueError, match="a slope must have two positive places on width or more, got"):
            power("loss", "width", **where)(axis)
    np.testing.assert_array_equal(np.isnan(power("loss", "width")(DS.assign(loss=DS.loss - 9.0))), [True, True])


def test_a_value_is_chosen_by_label_and_by_place():
    np.testing.assert_array_equal(at("level", width=LAST, start="plain")(DS), [12, 14])
    np.testing.assert_array_equal(at(lambda ds: ds.level.max("start"), width=FIRST)(DS), [1, 3])


def test_an_axis_that_is_left_is_an_error_and_no_further_seeds():
    with pytest.raises(ValueError, match="start"):
        at("level", width=LAST)(DS)


def test_ranks_ignore_how_far_values_lie_apart():
    np.testing.assert_allclose(rank_correlation("loss", "width", width=slice(32, None))(DS), [1, -1])
    np.testing.assert_allclose(rank_correlation("loss", "width")(DS), [-0.2, -1])


def test_ratios_and_differences_are_paired_by_seed():
    one, other = at("loss", width=64.0), at("loss", width=32.0)
    np.testing.assert_allclose(log10_ratio(one, other)(DS), np.log10([2**0.3, 0.5]))
    np.testing.assert_allclose(difference(log10(one), log10(other))(DS), np.log10([2**0.3, 0.5]))
