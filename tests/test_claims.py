import numpy as np
import pytest
import xarray as xr
from scipy import stats

from lazyscope.claims import Claim, Outcome, Scale, corrected, evaluate, interval, threshold_text


def judged(values, accepted, **options):
    claim = Claim("s", "p", "m", lambda ds: ds["v"].values, accepted, **options)
    return evaluate(claim, xr.Dataset({"v": ("seed", np.asarray(values, float))}))


def test_a_quantity_is_at_most_one_number_a_seed_and_a_range_has_its_least_value_first():
    dataset = xr.Dataset({"v": (("seed", "tau"), np.ones((3, 4)))})
    with pytest.raises(
        ValueError, match="must be at most one number a seed, got 12 numbers for 3 seeds of 's': reduce the other"
    ):
        evaluate(Claim("s", "p", "m", lambda ds: ds["v"].values, (0, 1)), dataset)
    some = Claim("s", "p", "m", lambda ds: ds["v"].values[:2, 0], (0, 2))  # a seed without a value is left out
    assert evaluate(some, dataset).seeds == 2
    with pytest.raises(ValueError, match=r"accepted must be a range, least value first, got \(3, 1\) for 's'"):
        Claim("s", "p", "m", lambda ds: ds["v"].values, (3, 1))


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


SCALES = {  # values, and an independent way to the scale
    Scale.RATIO: ([0.1, 0.4, 0.9], np.log, np.exp),
    Scale.SHARE: ([0.9, 0.99, 0.7], lambda v: np.log(v / (1 - v)), lambda z: 1 / (1 + np.exp(-z))),
    Scale.CORRELATION: (
        [0.9, 0.99, 0.7],
        lambda v: 0.5 * np.log((1 + v) / (1 - v)),
        lambda z: (np.exp(2 * z) - 1) / (np.exp(2 * z) + 1),
    ),
}


@pytest.mark.parametrize("scale", SCALES)
def test_the_interval_of_a_bounded_quantity_is_that_on_its_scale_and_stays_in_its_range(scale):
    values, there, back = SCALES[scale]
    found = judged(values, (-np.inf, 9.0), scale=scale)
    np.testing.assert_allclose([found.low, found.high], back(np.array(interval(there(np.array(values))))), rtol=1e-9)
    np.testing.assert_allclose(found.mean, back(np.mean(there(np.array(values)))), rtol=1e-9)
    assert scale.ends[0] <= found.low < found.mean < found.high <= scale.ends[1]
    assert found.outcome is Outcome.HOLDS
    plain = interval(np.array(values))  # leaves the range
    assert plain[0] < scale.ends[0] or plain[1] > scale.ends[1]


def test_values_at_an_end_of_their_range_have_the_interval_cut_there():
    found = judged([1.0, 1.0, 0.7], (0.2, np.inf), scale=Scale.CORRELATION)
    np.testing.assert_allclose(found.low, interval(np.array([1.0, 1.0, 0.7]))[0], rtol=1e-12)
    assert found.high == 1.0
    assert judged([0.0, 0.0, 0.0], (-np.inf, 0.1), scale=Scale.SHARE).p == 1.0  # decided, with no spread to go by


def test_the_size_of_what_should_be_nothing_is_judged_as_it_is_and_cut_at_0():
    gaps = [4.6e-7, 1.05e-6, 5.58e-4]
    found = judged(gaps, (-np.inf, 0.05), scale=Scale.SIZE)
    assert (found.low, found.outcome) == (0.0, Outcome.HOLDS)
    np.testing.assert_allclose([found.mean, found.high], [sum(gaps) / 3, interval(np.array(gaps))[1]], rtol=1e-12)
    assert judged(gaps, (-np.inf, 0.05), scale=Scale.RATIO).outcome is Outcome.INCONCLUSIVE
    assert found.p == pytest.approx(stats.ttest_1samp(gaps, 0.05)[1], rel=1e-9)


def test_a_value_outside_its_scale_is_refused():
    with pytest.raises(ValueError, match=r"^the quantity of a claim must be >= 0, .* got -1 to 2 for 's': give[^\n]*$"):
        judged([1.0, 2.0, -1.0], (0, 3), scale=Scale.RATIO)


def test_a_bound_is_refuted_by_one_seed_that_the_mean_would_hide():
    values = [0.5, 0.51, 0.49, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.01]
    assert judged(values, (0, 1)).outcome is Outcome.HOLDS
    found = judged(values, (0, 1), every_seed=True)
    assert (found.outcome, found.low, found.high) == (Outcome.FAILS, 0.49, 1.01)
    assert found.reason.startswith("1 of 10 seeds")


def test_no_violation_in_n_seeds_says_what_it_leaves_open():
    found = judged([0.5, 0.6, 0.7], (0, 1), every_seed=True)
    assert found.outcome is Outcome.HOLDS
    share = float(found.reason.split(" for ")[1].split("%")[0]) / 100
    assert stats.binom.pmf(0, 3, share) == pytest.approx(0.05, abs=0.002)
    assert judged([0.5, 0.6], (0, 1), every_seed=True).outcome is Outcome.INCONCLUSIVE
    assert judged([0.5, 1.6], (0, 1), every_seed=True).outcome is Outcome.FAILS


@pytest.mark.parametrize("accepted", [(0.2, np.inf), (-np.inf, 3.0), (0.2, 2.9), (2.0, np.inf), (-np.inf, 0.3)])
def test_p_is_the_level_at_which_the_outcome_would_change(accepted):
    values = np.array([0.9, 1.3, 1.1, 1.0])
    found = judged(values, accepted)
    tests = [stats.ttest_1samp(values, threshold)[1] for threshold in accepted if np.isfinite(threshold)]
    np.testing.assert_allclose(found.p, np.max(tests), rtol=1e-9)
    assert judged(values, (1.0, np.inf)).p == 1.0


def test_the_correction_is_holms_and_stricter_than_each_alone():
    assert corrected([0.001, 0.02, 0.04, 1.0]).tolist() == [True, False, False, False]
    assert corrected([0.04, 0.01, 0.02]).tolist() == [True, True, True]
    assert corrected([0.2, 0.001]).tolist() == [False, True]
    assert corrected([]).tolist() == []
    rng = np.random.default_rng(0)
    wrong = sum(corrected(rng.uniform(size=20).tolist()).any() for _ in range(4000))
    assert abs(wrong / 4000 - 0.05) < 0.012
