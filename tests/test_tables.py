"""What commands print at 40, 80 and 200 columns, and into pipes: nothing wider than the terminal, nothing cut."""

import io
import math
import sys
from contextlib import nullcontext
from pathlib import Path

import jax
import numpy as np
import pytest

from lazyscope import cli
from lazyscope.cli import main
from lazyscope.cli.crossover import drawn
from lazyscope.diagnose.crossover import Crossover, Evaluation
from lazyscope.diagnose.diagnosis import as_table
from lazyscope.papers.registry import FIGURES
from lazyscope.report import Item
from lazyscope.store import Store, locate, status
from lazyscope.sweep import Cell

WIDTHS = (40, 80, 200)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def shown(monkeypatch):
    """What a function prints: on a terminal of so many columns, or into a pipe for None."""

    def on(columns, call, *arguments):
        monkeypatch.setenv("COLUMNS", str(columns or 33))  # a pipe does not care
        monkeypatch.setenv("TERM", "dumb")
        out = io.StringIO() if columns is None else Terminal()
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", out)
            call(*arguments)
        return out.getvalue()

    return on


def words(text):
    return text.replace(";", " ").replace(":", " ").replace("─", " ").split()


def check(text, columns, whole):
    """No line is too long, and every word of what a pipe gets is there."""
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= columns
    assert set(words(whole)) - set(words(text)) <= {"figure"}  # paragraphs begin with it, and do not say so


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_list_of_figures(columns, shown):
    whole = shown(None, main, ["list"])
    for name, entry in FIGURES.items():
        assert [line for line in whole.splitlines() if line.startswith(f"{name} ") and entry.title in line]
    check(shown(columns, main, ["list"]), columns, whole)


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_zoo(columns, shown):
    whole = shown(None, main, ["zoo", "bert", "roi"])
    text = shown(columns, main, ["zoo", "bert", "roi"])
    check(text, columns, whole)
    assert words(text) == words(whole)


def cell(key, *, t):
    return {"value": t + jax.random.normal(key)}


@pytest.fixture
def folder(tmp_path):
    """A store with cells of two figures that share some, and some that nobody has named."""
    cells = [Cell((("t", t), ("an_axis", 1.0)), seed) for t in (1.0, 2.0) for seed in range(3)]
    with Store(tmp_path / "store") as store:
        for name, version in (("note-fig4", 2), ("explorer", 2), ("chizat2019-thm2.2", 1), (None, 3)):
            with nullcontext() if name is None else store.used_for(name):
                view = store.view(cell, version=version, key=jax.random.key(0))
                if not all(view.done(cells)):
                    view.write(cells, {"value": np.zeros(6)})
    return tmp_path


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_status_of_a_store_shows_the_names_of_figures(columns, folder, shown):
    whole = shown(None, main, ["store", "status", str(folder)])
    rows = {line.split("  ")[0]: line for line in whole.splitlines()}
    assert {"note-fig4, explorer", "chizat2019-thm2.2", "(unnamed)", "all"} <= set(rows)
    assert "test_tables.cell v2" in rows["note-fig4, explorer"]
    assert rows["all"].split()[1] == "18"
    text = shown(columns, main, ["store", "status", str(folder)])
    check(text, columns, whole.replace(f"{folder}/store", ""))  # a path may be longer than a line


def test_what_cells_are_for_outlives_the_process_and_a_damaged_file_says_nothing(folder):
    assert {s.version: s.names for s in status(locate(folder))[0]}[2] == ("note-fig4", "explorer")
    (folder / "store" / "names.json").write_text("[]")
    assert {s.names for s in status(locate(folder))[0]} == {()}
    with Store(folder / "store") as store, store.used_for("again"):
        store.view(cell, version=2, key=jax.random.key(0))
        with pytest.raises(ZeroDivisionError), store.used_for("inner"):
            raise ZeroDivisionError
        store.view(cell, version=7, key=jax.random.key(0))
    named = (folder / "store" / "names.json").read_text()
    assert "inner" not in named


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_outcomes_of_a_figure(columns, shown):
    from lazyscope.cli.terminal import print_findings

    finding = {
        "outcome": "inconclusive",
        "sentence": "The test loss has two plateaus [sic] and falls between them by a factor of at least ten.",
        "measure": "ratio of losses at tau = 1 and at tau = 0.01",
        "mean": "0.12",
        "of": "95 % interval",
        "interval": "[0.05, 0.3]",
        "threshold": "(0, 0.2)",
    }
    item = Item("note-fig4", "A title [bold]", "c", "tiny", "cmd", [finding], {}, [["x"]], {})
    whole = shown(None, print_findings, item)
    assert len(whole.splitlines()) == 3
    assert "note-fig4: A title [bold] (tiny)" in whole
    check(shown(columns, print_findings, item), columns, whole)


def test_two_columns_keep_every_word_and_hang_below_their_names():
    rows = [("gap g", "one two three four five six seven eight nine ten"), ("", "eleven twelve"), ("alignment", "0.5")]
    whole = as_table(rows)
    assert whole.splitlines()[0] == "gap g      one two three four five six seven eight nine ten"
    for columns in (*WIDTHS, 20):
        check(as_table(rows, columns), columns, whole)
        assert words(as_table(rows, columns)) == words(whole)
    assert as_table(rows, 200) == whole
    assert as_table(rows, 40).splitlines()[1].startswith(" " * 11)
    assert as_table(rows, 20).splitlines()[0] == "gap g: one two three"


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_evaluations_of_a_crossover(columns, shown):
    alphas = ((1.0, 1.0, math.inf), (4.0, 4.0, math.inf), (16.0, 4.0, 16.0), (8.0, 8.0, 16.0))
    rows = [Evaluation(alpha, 0.3 / alpha, 0.5 / alpha, alpha >= 16, low, high, 0) for alpha, low, high in alphas]
    found = Crossover(11.3, 8.0, 16.0, len(rows), tuple(rows))
    command = cli.Crossover("a_file_with_a_long_name.py:case")
    whole = shown(None, command._print, found)
    assert "alpha = 11.3: training is lazy from 16 on, and not up to 8" in whole
    text = shown(columns, command._print, found)
    check(text, columns, whole)
    assert all(drawn(rows, one) in text for one in rows)  # a bracket is never broken


@pytest.mark.parametrize("columns", WIDTHS)
def test_the_barrier_of_a_line(columns, shown):
    told = {"barrier": 0.5, "at": 0.52, "loss_before": 0.1, "loss_after": 0.2, "loss_at_barrier": 0.65}
    command = cli.Line("case", Path("one.safetensors"), Path("other.safetensors"))
    whole = shown(None, command._print, told)
    assert len(whole.splitlines()) == 2
    check(shown(columns, command._print, told), columns, whole)


@pytest.mark.slow
def test_a_diagnosis(shown, monkeypatch, tmp_path):
    monkeypatch.setattr("lazyscope.cli.process.prepare_jax", lambda: None)
    (tmp_path / "model.py").write_text(
        "import jax, jax.numpy as jnp, lazyscope as ls\n"
        "problem = ls.teacher_student(jax.random.key(0), n=20, d=4, n_test=10)\n"
        "case = ls.Case(lambda w, x: x @ w['w'], {'w': jnp.zeros(4)}, problem)\n"
    )
    np.savez(tmp_path / "w.npz", w=np.ones(4))
    command = ["diagnose", f"{tmp_path / 'model.py'}:case", "--after", str(tmp_path / "w.npz")]
    whole = shown(None, main, command)
    assert max(map(len, whole.splitlines())) > 100
    for columns in WIDTHS:
        text = shown(columns, main, command)
        check(text, columns, whole)
        assert words(text) == words(whole)
