"""`lazyscope crossover` and `lazyscope line`, and the search and the barrier behind them."""

import importlib
import json
import math
import re
from itertools import pairwise
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import lazyscope as ls
from lazyscope.cli import main
from lazyscope.cli.crossover import COLUMNS, drawn
from lazyscope.diagnose import Thresholds, crossover
from lazyscope.landscape import Line, barrier, between, line

SEARCH = importlib.import_module("lazyscope.diagnose.crossover")
KEY = jax.random.key(0)


class Calls(list):
    def __call__(self, *call):
        self.append(call)


@pytest.fixture
def law(monkeypatch):
    """g and j that fall as 1/alpha from `at` times their thresholds, in place of trainings."""

    def of(at):
        def diagnosed(*_, alpha, thresholds, **__):
            if alpha < 1e-3:
                raise ValueError("the trained model must have a finite loss, got nan: training diverged")
            return SimpleNamespace(gap=at / alpha * thresholds.gap_lazy, differential=0.0)

        monkeypatch.setattr(SEARCH, "diagnose", diagnosed)
        x = jnp.ones((1, 1))
        return ls.Case(lambda w, x: x @ w, jnp.zeros(1), ls.Problem(x, jnp.ones(1)))

    return of


@pytest.mark.parametrize("at", [0.3, 7.0, 1000.0])
def test_the_bracket_narrows_around_the_crossover_and_is_told(at, law):
    seen, calls = [], Calls()
    found = crossover(law(at), key=KEY, evaluated=seen.append, progress=calls)
    assert found.low < at <= found.high <= 1.02 * found.low
    assert found.history == tuple(seen)
    assert len(seen) == found.evaluations
    for before, after in pairwise(seen):
        assert before.low <= after.low < after.high <= before.high
        assert after.lazy == (after.alpha >= at)
    closed = [one for one in seen if one.low > 0 and one.high < math.inf]
    assert [one.left for one in closed] == list(range(len(closed) - 1, -1, -1)), "what is left is counted down"
    assert calls[0] == (0, seen[0].left + 1, "evaluations")
    assert calls[-1] == (len(seen), len(seen), "evaluations")


def test_a_search_goes_on_from_its_bracket(law):
    case = law(7.0)
    whole = crossover(case, key=KEY)
    middle = next(one for one in whole.history if one.low > 0 and one.high < math.inf)
    rest = crossover(case, key=KEY, between=(middle.low, middle.high))
    assert (rest.alpha, rest.low, rest.high) == (whole.alpha, whole.low, whole.high)
    assert rest.evaluations < whole.evaluations
    with pytest.raises(ValueError, match="between must hold the crossover, got 1 and 2 with training not lazy at 2"):
        crossover(case, key=KEY, between=(1.0, 2.0))
    with pytest.raises(ValueError, match="between must hold the crossover, got 8 and 9 with training lazy at 8"):
        crossover(case, key=KEY, between=(8.0, 9.0))
    with pytest.raises(ValueError, match="between must be a pair 0 < low < high"):
        crossover(case, key=KEY, between=(2.0, 1.0))


def test_runs_that_diverge_are_not_lazy(law):
    found = crossover(law(2e-3), key=KEY, thresholds=Thresholds())
    assert found.low < 2e-3 <= found.high
    assert any(one.gap == math.inf and not one.lazy for one in found.history)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A case, and weights at both ends of a line with a barrier between them: two wells at w = −1 and w = 1."""
    monkeypatch.setattr("lazyscope.cli.process.prepare_jax", lambda: None)
    (tmp_path / "own.py").write_text(
        "import jax.numpy as jnp, lazyscope as ls\n"
        "x = jnp.ones((1, 1))\n"
        "case = ls.Case(lambda w, x: x[:, 0] * w['w'][0] ** 2, {'w': jnp.array([0.5])}, ls.Problem(x, jnp.ones(1)))\n"
    )
    for name, w in (("a", -1.0), ("b", 1.0)):
        np.savez(tmp_path / f"{name}.npz", w=np.array([w]))
    return tmp_path


@pytest.mark.slow
def test_the_table_of_a_crossover_and_its_data(law, own, capsys, monkeypatch):
    law(7.0)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["crossover", f"{own}/own.py:case"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.endswith("alpha = 6.987: training is lazy from 7.025 on, and not up to 6.949\n")
    assert main(["crossover", f"{own}/own.py:case", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["low"] < 7 <= found["high"]
    assert len(found["history"]) == found["evaluations"]
    assert found["history"][0]["high"] is None, "no lazy alpha is known yet"
    pictures = re.findall(rf"lazy +([-=x]{{{COLUMNS}}})$", printed.out, re.MULTILINE)
    assert len(pictures) == found["evaluations"]
    widths = [row.count("=") + row.count("x") for row in pictures]
    assert widths == sorted(widths, reverse=True)


def test_an_interrupted_crossover_says_how_to_go_on(law, own, capsys, monkeypatch):
    law(7.0)
    diagnosed = SEARCH.diagnose
    left = [4]

    def few(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return diagnosed(*arguments, **options)

    monkeypatch.setattr(SEARCH, "diagnose", few)
    assert main(["crossover", f"{own}/own.py:case"]) == 130
    told = capsys.readouterr().err
    assert "interrupted; 4 to 8 after 4 evaluations: --between 4 8 goes on from there" in told
    monkeypatch.setattr(SEARCH, "diagnose", diagnosed)
    assert main(["crossover", f"{own}/own.py:case", "--between", "4", "8"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["crossover", "two-layer-rich", "--tolerance", "0"], "--tolerance must be positive, got 0"),
        (["crossover", "two-layer-rich", "--between", "2", "1"], "--between must be LOW HIGH with 0 < LOW < HIGH"),
        (["crossover", "two-layer-rich", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["line", "{own}/own.py:case", "{own}/a.npz", "{own}/a.npz"], "a direction must be finite and not zero"),
        (["line", "{own}/own.py:case", "{own}/a.npz", "{own}/c.npz"], "must be an existing file"),
        (["line", "{own}/own.py:case", "start", "{own}/a.npz", "--held-out"], "--held-out needs a case with held-out"),
        (["line", "{own}/own.py:case", "start", "{own}/a.npz", "--resolution", "2"], "--resolution must be from 3"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(arguments, message, own, capsys, monkeypatch):
    monkeypatch.chdir(own)
    assert main([word.format(own=own) for word in arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (own / "lazyscope-line").exists()


def test_the_bracket_in_characters():
    class One:
        def __init__(self, alpha, low, high):
            self.alpha, self.low, self.high = alpha, low, high

    history = [One(1.0, 1.0, math.inf), One(16.0, 1.0, 16.0), One(4.0, 4.0, 16.0)]
    pictures = [drawn(history, one) for one in history]
    assert [len(one) for one in pictures] == [COLUMNS] * 3
    assert pictures[0] == "x" + "=" * 27
    assert pictures[1] == "=" * 27 + "x"
    assert pictures[2] == "-" * 14 + "x" + "=" * 13


def test_the_barrier_is_the_most_above_the_straight_interpolation():
    x = jnp.linspace(0, 1, 5)
    assert barrier(Line(x, jnp.array([0.0, 1.0, 5.0, 2.0, 2.0]), 0)) == (4.0, 0.5)
    assert barrier(Line(x, jnp.array([0.0, 0.1, 0.2, 1.0, 2.0]), 0)) == (0.0, 0.0), "nowhere above"
    assert barrier(Line(3 + 2 * x, jnp.array([0.0, 0.0, 0.0, 1.0, 0.0]), 0)) == (1.0, 0.75), "shares of the line"
    with pytest.raises(ValueError, match="a barrier needs finite values all along the line, got 1 of 5"):
        barrier(Line(x, jnp.array([0.0, jnp.nan, 0.0, 1.0, 0.0]), 1))
    center, (direction,) = between({"w": jnp.array([-1.0])}, {"w": jnp.array([1.0])})
    wells = line(lambda p: jnp.sum((p["w"] ** 2 - 1) ** 2), center, direction, extent=(0.0, 1.0), resolution=5)
    assert barrier(wells) == (1.0, 0.5)


@pytest.mark.slow
def test_a_line_between_two_checkpoints_gives_the_barrier_as_a_number(own, capsys):
    command = ["line", f"{own}/own.py:case", f"{own}/a.npz", f"{own}/b.npz", "--out", str(own / "out")]
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.out.startswith("barrier 0.5 at s = 0.5, where the loss is 0.5; loss 0 at")  # ½(0 − 1)²
    assert "nothing is normalised" in said.out
    assert said.err == ""
    with xr.open_dataset(own / "out" / "line.nc") as ds:
        np.testing.assert_allclose(ds.value, 0.5 * ((2 * ds.x - 1) ** 2 - 1) ** 2, atol=1e-12)
        assert ds.attrs["normalisation"] == "none"
    assert (own / "out" / "line.png").stat().st_size > 5000
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["barrier"], found["at"], found["loss_at_barrier"]) == (0.5, 0.5, 0.5)
