"""The regime maps in the docs are what the tool draws, of numbers that it measures."""

import io
import json

import jax
import numpy as np
import pytest
from docs_script import DOCS, script
from matplotlib import image

from lazyscope import figures

MAPS = script("regime_maps")


@pytest.mark.parametrize("name", ["normal-values.png", "note-nets.png"])
def test_the_map_that_is_shown_is_the_one_that_is_drawn(name):
    figure = MAPS.drawn(json.loads(MAPS.NUMBERS.read_text()))[name]
    drawn = image.imread(io.BytesIO(figures.to_png(figure)), format="png")
    shown = image.imread(MAPS.PICTURES / name)
    assert drawn.shape == shown.shape
    assert np.mean(np.abs(drawn - shown) > 0.1) < 0.01  # other versions set letters elsewhere by a pixel
    assert f"pictures/{name}" in (DOCS / "laziness.md").read_text()


def test_there_is_no_formula_before_the_first_picture():
    before = (DOCS / "laziness.md").read_text().partition("![")[0]
    assert not any(sign in before for sign in ("‖", " = ", "\n    ", "$", "kappa"))


@pytest.mark.slow
def test_the_nets_of_the_note_are_measured_as_they_are_kept():
    kept = {(row["net"], row["tau"]): row for row in json.loads(MAPS.NUMBERS.read_text())}
    assert set(kept) == {(kind, tau) for kind in MAPS.KINDS for tau in MAPS.TAUS}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        rows = MAPS.measured(("plain",), (1.0,))
    for row in rows:
        listed = kept[row["net"], row["tau"]]
        np.testing.assert_allclose([*row["g"], *row["j"]], [*listed["g"], *listed["j"]], rtol=0.02)
        assert row["regime"] == listed["regime"]
