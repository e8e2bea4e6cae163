"""`lazyscope store` and the store of `reproduce`, through the command line: exit codes, one line each, no traceback."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import xarray as xr

from lazyscope import cli
from lazyscope import store as stores
from lazyscope import sweep as sweep_function
from lazyscope.claims import Claim
from lazyscope.figures import new_figure
from lazyscope.papers import programs, reproduce
from lazyscope.papers.figure import Cell, Figure, Size
from lazyscope.papers.programs import asked
from lazyscope.papers.registry import FIGURES, Entry
from lazyscope.papers.student import Protocol, Scales
from lazyscope.store import Store, stored_as

CALLS = []


def cell(key, *, t):
    return {"value": t + jax.random.normal(key)}


def compute(settings, trials):
    def counted(*report):
        CALLS.append(report)

    return replace(trials, progress=counted).over(Cell(cell, 1), {"t": settings.taus})


def draw(ds):
    figure, (ax,) = new_figure(2.0, 2.0)
    ax.plot(ds.t, ds.value.mean("seed"))
    return figure


FIGURE = Figure(
    caption="",
    sizes={size: Size(Scales(Protocol(), taus=(1.0, 2.0)), seeds=3) for size in ("tiny", "quick", "paper")},
    claims=(Claim("It is so.", "here", "value", lambda ds: ds.value.isel(t=0).values, (-np.inf, np.inf)),),
    compute=compute,
    draw=draw,
    numbers=lambda ds: [["t"]],
)


@pytest.fixture
def figure(monkeypatch):
    """A figure that costs nothing, in place of those of the papers."""
    monkeypatch.setitem(FIGURES, "small", Entry("figure", "A small figure", (1, 1, 1)))
    monkeypatch.setattr(reproduce, "load", lambda name: FIGURE)
    monkeypatch.setattr("lazyscope.cli.process.prepare_jax", lambda: None)
    CALLS.clear()
    return "small"


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "out"
    with Store(out / "store") as store:
        sweep_function(cell, {"t": [1.0, 2.0]}, key=jax.random.key(0), seeds=3, store=store)
    return out


def chunks(folder):
    return sorted((folder / "store" / "chunks").glob("*.npz"))


def one_line(capsys):
    err = capsys.readouterr().err
    assert err.startswith("lazyscope: ")
    assert err.count("\n") == 1
    return err


def test_more_seeds_compute_only_the_new_ones(figure, tmp_path, capsys):
    arguments = ["reproduce", figure, "--size", "tiny", "--out", str(tmp_path)]
    assert cli.main([*arguments, "--seeds", "3"]) == 0
    assert CALLS[0][:2] == (0, 6)
    CALLS.clear()
    assert cli.main([*arguments, "--seeds", "10"]) == 0
    assert CALLS[0][:2] == (6, 20), "two values of t, seven seeds are left to do"
    CALLS.clear()
    assert cli.main([*arguments, "--seeds", "10"]) == 0
    assert CALLS == []
    with xr.open_dataset(tmp_path / "figures" / "small.nc", engine="h5netcdf") as ds:
        assert ds.sizes["seed"] == 10
        assert ds.attrs["precision"] == "float64"
    capsys.readouterr()
    assert cli.main(["store", "status", str(tmp_path)]) == 0
    assert "test_store_cli.cell v1" in (text := capsys.readouterr().out)
    assert "20" in text


def test_an_interrupted_run_keeps_what_is_finished(figure, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(xr.Dataset, "to_netcdf", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    assert cli.main(["reproduce", figure, "--size", "tiny", "--out", str(tmp_path)]) == 130
    assert "finished cells and figures are kept" in capsys.readouterr().err
    monkeypatch.undo()
    assert cli.main(["store", "check", str(tmp_path)]) == 0
    assert "6 cells whole, 0 chunks damaged" in capsys.readouterr().out


def test_a_second_run_into_the_same_folder(figure, folder, capsys):
    with Store(folder / "store"):
        assert cli.main(["reproduce", figure, "--size", "tiny", "--out", str(folder)]) == 2
        assert "one process at a time may write to a store" in one_line(capsys)
        assert cli.main(["store", "status", str(folder)]) == 0
        assert cli.main(["store", "check", str(folder)]) == 0


def test_status_and_check_of_a_whole_store(folder, capsys):
    for place in (folder, folder / "store"):
        assert cli.main(["store", "status", str(place)]) == 0
        assert cli.main(["store", "check", str(place)]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert "t: 2" in out
        assert "6 cells whole, 0 chunks damaged" in out


def test_check_finds_what_is_damaged_and_changes_nothing(figure, folder, capsys):
    bad = chunks(folder)[0]
    bad.write_bytes(bad.read_bytes()[:-7])
    assert cli.main(["store", "check", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert "1 chunks damaged" in out
    assert f"lazyscope: {bad} is truncated" in err.splitlines()[0]
    assert "sets the damaged chunks aside and computes their cells again" in err.splitlines()[1]
    assert bad in chunks(folder)
    assert cli.main(["store", "status", str(folder)]) == 0
    assert "is truncated" in one_line(capsys)
    assert cli.main(["store", "export", str(folder), "--out", str(folder / "cells")]) == 1
    assert "left out" in one_line(capsys)
    assert cli.main(["reproduce", figure, "--size", "tiny", "--out", str(folder)]) == 0
    assert "computed again where needed" in capsys.readouterr().err
    assert cli.main(["store", "check", str(folder)]) == 0
    capsys.readouterr()
    assert cli.main(["store", "status", str(folder)]) == 0
    assert "were set aside" in one_line(capsys)


@pytest.mark.parametrize("kind", ["netcdf", "csv"])
def test_export(folder, tmp_path, capsys, kind):
    assert cli.main(["store", "export", str(folder), "--out", str(tmp_path / "cells"), "--format", kind]) == 0
    (path,) = capsys.readouterr().out.split()
    if kind == "netcdf":
        with xr.open_dataset(path, engine="h5netcdf") as ds:
            assert ds.sizes == {"cell": 6}
            assert set(ds.coords) == {"t", "seed"}
    else:
        lines = Path(path).read_text().splitlines()
        assert lines[0] == "seed,t,value"
        assert len(lines) == 7


@pytest.mark.parametrize("command", ["status", "check", "export", "prune"])
def test_no_store_there(tmp_path, capsys, command):
    for place in (tmp_path, tmp_path / "nowhere"):
        assert cli.main(["store", command, str(place)]) == 2
        assert "needs a folder with store.json, got" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["status", "check", "export", "prune"])
def test_a_store_of_another_version(figure, folder, capsys, command):
    (folder / "store" / "store.json").write_text('{"format": 99}')
    run = partial(cli.main, ["store", command, str(folder)])
    for attempt in (run, partial(cli.main, ["reproduce", figure, "--out", str(folder)])):
        assert attempt() == 2
        assert "reads stores of format 1, got format 99" in one_line(capsys)


@stored_as("lazyscope.papers.gone.cell")
def gone(key, *, t, n):
    return {"value": t + n + jax.random.normal(key)}


@pytest.fixture(scope="module")
def mixed_once(tmp_path_factory):
    """A store with cells of somebody's own, and of a function of ours that no figure has."""
    folder = tmp_path_factory.mktemp("mixed")
    with Store(folder / "store") as store:
        sweep_function(cell, {"t": [1.0, 2.0]}, key=jax.random.key(0), seeds=3, store=store)
        for n, name in enumerate(("note-fig4", "note-fig4 --set width=16", "mine.py:FIGURE")):
            with store.used_for(name):
                sweep_function(partial(gone, n=n), {"t": [1.0]}, key=jax.random.key(0), seeds=3, store=store)
        sweep_function(partial(gone, n=3), {"t": [1.0]}, key=jax.random.key(0), seeds=3, store=store)
        with jax.default_matmul_precision("highest"), store.used_for("note-fig4"):
            sweep_function(partial(gone, n=0), {"t": [1.0]}, key=jax.random.key(0), seeds=3, store=store)
    (folder / "store" / "chunks" / f".{'0' * 64}.npz.ab12").write_bytes(b"half")
    (folder / "store" / "chunks" / f"{'0' * 64}.npz.bad").write_bytes(b"damaged")
    return folder


@pytest.fixture
def mixed(mixed_once, tmp_path):
    """A copy of it."""
    return shutil.copytree(mixed_once, tmp_path / "mixed")


def test_prune_says_what_no_figure_asks_for_and_removes_it_when_told_to(mixed, capsys):
    before = sorted((mixed / "store" / "chunks").iterdir())
    assert cli.main(["store", "prune", str(mixed)]) == 0
    out, err = capsys.readouterr()
    assert "gone.cell v1" in out
    assert "all" in out.splitlines()[-3]
    assert out.splitlines()[-3].split()[1] == "3"
    assert "--yes` removes" in err
    assert sorted((mixed / "store" / "chunks").iterdir()) == before
    assert cli.main(["store", "prune", str(mixed), "--yes"]) == 0
    out, err = capsys.readouterr()
    assert "3 cells and" in out.splitlines()[-1]
    assert "18 cells are no figure's and stay: lazyscope.papers.gone.cell; mine.py:FIGURE; note-fig4" in err
    removed = {path.name[:5] for path in set(before) - set((mixed / "store" / "chunks").iterdir())}
    assert removed > {".0000", "00000"}
    assert stores.check(mixed / "store") == (18, [])
    assert cli.main(["store", "prune", str(mixed), "--yes"]) == 0
    assert capsys.readouterr().out == f"{mixed / 'store'}: nothing to remove\n"


def test_cells_that_a_figure_asks_for_stay(mixed, monkeypatch):
    (one,) = [s for s in stores.status(mixed / "store")[0] if s.names == ("note-fig4",) and not asked(s)]
    monkeypatch.setattr(programs, "recorded", lambda: {one.function: [one.program.digest[: programs.DIGITS]]})
    assert asked(one)
    assert cli.main(["store", "prune", str(mixed), "--yes"]) == 0
    assert stores.check(mixed / "store") == (21, [])


def test_a_store_in_use_is_not_pruned(mixed, capsys):
    with Store(mixed / "store"):
        before = chunks(mixed)
        assert cli.main(["store", "prune", str(mixed), "--yes"]) == 2
        assert "one process at a time may write to a store" in capsys.readouterr().err.splitlines()[-1]
        assert cli.main(["store", "prune", str(mixed)]) == 0
    assert chunks(mixed) == before


@pytest.mark.parametrize(("answer", "left"), [("y", 18), ("n", 21), ("", 21), (EOFError, 21)])
def test_a_terminal_is_asked(mixed, monkeypatch, answer, left):
    def ask(question):
        if answer is EOFError:
            raise EOFError
        return answer

    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert cli.main(["store", "prune", str(mixed)]) == 0
    assert stores.check(mixed / "store") == (left, [])


def test_export_refuses_what_it_cannot_do(folder, capsys):
    assert cli.main(["store", "export", str(folder), "--format", "xls"]) == 2
    assert "--format must be one of netcdf, csv, got 'xls'" in one_line(capsys)
    assert cli.main(["store", "export", str(folder), "--out", str(chunks(folder)[0])]) == 2
    assert "--out must be a folder" in one_line(capsys)
