"""The reference diagnoses are what their script measures, and advice that is followed comes true."""

import json
import math

import followed
import jax
import numpy as np
import pytest

from lazyscope.diagnose.references import REFERENCES, placed
from lazyscope.diagnose.regime import regime


@pytest.fixture
def promotion_as_in_a_users_process():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


EXAMPLE = followed.load()
RERUN = (
    "a symmetrised two-layer ReLU net, tau = 0.3",
    "a centred two-layer tanh net",
    "a conv net of width 32, NTK",
    "fine-tuning by LoRA",
)


def test_every_reference_but_the_linear_model_has_its_values():
    names = [reference.name for reference in EXAMPLE.REFERENCES]
    assert len(names) == len(set(names)) >= 14
    assert [name for name, _, _ in REFERENCES] == [name for name in names if name != "a linear model"]


def test_references_lie_in_every_regime():
    assert {regime(g, j) for _, g, j in REFERENCES} == {"lazy", "mixed", "not lazy"}


@pytest.mark.parametrize(("name", "gap", "differential"), REFERENCES, ids=lambda value: str(value))
def test_a_reference_is_the_nearest_to_itself(name, gap, differential):
    assert placed(gap, differential).startswith(f"{name} (g {gap:.2g}, j {differential:.2g}) and ")


def test_what_is_linear_to_rounding_is_like_a_linear_model():
    assert placed(0.0, 0.0) == placed(1e-13, 0.0) == placed(3e-15, 1e-15) == "a linear model"
    assert placed(math.nan, 0.1) == placed(math.inf, 0.1) == ""


@pytest.mark.slow
@pytest.mark.usefixtures("promotion_as_in_a_users_process")
def test_references_that_are_measured_again_are_as_listed(tmp_path):
    listed = {name: (gap, differential) for name, gap, differential in REFERENCES}
    rows = EXAMPLE.main(RERUN, tmp_path)
    for row in rows:
        np.testing.assert_allclose((row["g"], row["j"]), listed[row["name"]], rtol=0.02)
        assert row["g low"] < row["g"] < row["g high"]
        assert row["regime"] == regime(*listed[row["name"]])
    assert json.loads((tmp_path / "normal-values.json").read_text()) == rows
    assert (tmp_path / "normal-values.csv").read_text().count("\n") == 1 + len(RERUN)
    assert (tmp_path / "normal-values.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.usefixtures("promotion_as_in_a_users_process")
def test_following_the_advice_once_makes_nine_of_ten_cases_lazy():
    reached = {}
    for name, build in followed.cases().items():
        before, after = followed.follow(build())
        assert before.regime == "not lazy", name
        assert before.recommendation is not None
        reached[name] = after.regime == before.recommendation.regime
    assert len(reached) == 10
    assert sum(reached.values()) >= 9, reached
