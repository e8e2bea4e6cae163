import numpy as np
import pytest
import xarray as xr
from scipy import stats

from lazyscope.claims import Claim, Outcome, evaluate, interval, threshold_text


def judged(values, accepted):
    claim = Claim("s", "p", "m", lambda ds: ds["v"].values, accepted)
    return evaluate(claim, xr.Dataset({"v": ("seed", np.asarray(values, float))}))


def test_interval_is_student_t():
    values = np.array([1.0, 2.0, 4.0, 4.5])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(interval(values), (expected.low, expected.high), rtol=1e-12)


@pytest.mark.parametrize(
    ("values", "accepted", "outcome"),
    [
        ([1.0, 1.01, 0.99], (0.5, 1.5), Outcome.HOLDS),
        ([1.0, 1.01, 0.99], (2.0, np.inf), Outcome.FAILS),
        ([1.0, 1.01, 0.99], (1.0, np.inf), Outcome.INCONCLUSIVE),
        ([1.0, 1.01], (0.5, 1.5), Outcome.INCONCLUSIVE),
        ([1.0, 1.01, np.nan], (0.5, 1.5), Outcome.INCONCLUSIVE),
        ([5.0, 5.0, 5.0], (-np.inf, 5.5), Outcome.HOLDS),
    ],
)
def test_outcome_follows_from_interval_and_threshold(values, accepted, outcome):
    assert judged(values, accepted).outcome is outcome


def test_an_interval_that_touches_the_range_fails_no_more_than_it_holds_and_one_that_fills_it_holds():
    values = np.array([1.0, 1.25, 0.75])
    low, high = interval(values)
    assert judged(values, (high, np.inf)).outcome is Outcome.INCONCLUSIVE
    assert judged(values, (-np.inf, low)).outcome is Outcome.INCONCLUSIVE
    assert judged(values, (low, high)).outcome is Outcome.HOLDS


def test_a_value_that_is_not_finite_is_said():
    assert judged([1.0, np.nan, 2.0], (0, 1)).reason == "1 seeds gave no finite value"


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = sum(low <= 0 <= high for low, high in (interval(rng.normal(size=4)) for _ in range(4000)))
    assert abs(hits / 4000 - 0.95) < 0.012


def test_threshold_in_words():
    assert threshold_text((0.5, np.inf)) == ">= 0.5"
    assert threshold_text((-np.inf, 0.02)) == "<= 0.02"
    assert threshold_text((-1, 1)) == "-1 to 1"
