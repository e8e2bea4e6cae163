"""The same sweep wherever it runs: spawned workers, a Dask cluster, submitted jobs; and what happens when they die."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import pytest
import xarray as xr
from test_executors import descend

from lazyscope import FailedCellsError, Store, executors
from lazyscope import store as stores
from lazyscope import sweep as sweep_function

pytestmark = pytest.mark.slow
DIMS = {"path": ("step",)}
CELL = partial(descend, size=20)


def run(executor: Executor | None = None, *, function: Any = CELL, dims: Any = DIMS, powers=(1, 2), **options: Any):
    axes = {"t": [0.1 * i for i in range(1, 11)], "power": list(powers)}
    static = ["power"]
    options |= {"key": jax.random.key(3), "seeds": 10, "dims": dims, "static": static, "executor": executor}
    return sweep_function(function, axes, **options)


@pytest.fixture(scope="module")
def here():
    """200 cells computed in this process."""
    ds = run()
    assert ds.value.size == 200
    return ds


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Workers that are started as commands find the tests and this checkout."""
    places = [str(Path(__file__).parent), str(Path(executors.__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*places, os.environ.get("PYTHONPATH", "")]))


def test_two_spawned_workers_give_the_same_bits_and_survive_a_kill(here, tmp_path):
    def kill(done, total, label):
        if 3 <= done < 100 and not killed:
            killed.append(multiprocessing.active_children()[0])
            killed[0].kill()

    killed: list[Any] = []
    with Store(tmp_path / "s") as store, executors.local(2) as pool:
        xr.testing.assert_identical(run(pool, store=store, progress=kill), here)
        assert killed
        cells, problems = stores.check(tmp_path / "s")
    assert (cells, problems) == (200, [])


def test_the_standard_pool_gives_the_same_bits_where_it_is_spawned(here):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        xr.testing.assert_identical(run(pool), here)


def test_dask_gives_the_same_bits(here):
    from distributed import LocalCluster  # pyright: ignore[reportMissingImports]

    cluster: Any = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=0)
    with cluster, executors.dask(cluster.scheduler_address) as pool:
        xr.testing.assert_identical(run(pool), here)


def test_submitted_jobs_give_the_same_bits(here, tmp_path):
    import submitit  # pyright: ignore[reportMissingImports]

    queue = submitit.LocalExecutor(folder=tmp_path / "jobs")
    queue.update_parameters(timeout_min=5)
    with executors.from_submitit(queue, workers=1, seconds=0.2) as pool:
        xr.testing.assert_identical(run(pool), here)


def deadly(key, *, t, power):
    if power == 2 and multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"value": t * jax.random.normal(key)}


def test_cells_that_kill_their_worker_are_left_out_and_the_others_kept(tmp_path):
    with Store(tmp_path / "s") as store, executors.local(1) as pool:
        with pytest.raises(FailedCellsError, match=r"100 of 200 cells were left out.*power=2.*a worker died .signal 9"):
            run(pool, function=deadly, dims={}, store=store, powers=(1, 2))
        assert len(store) == 100


FIGURE = """
import sys
import jax, jax.numpy as jnp, numpy as np
from lazyscope import cli
from lazyscope.claims import Claim
from lazyscope.figures import new_figure
from lazyscope.papers import reproduce
from lazyscope.papers.registry import FIGURES, Entry
from lazyscope.papers.figure import Cell, Figure, Size
from lazyscope.papers.student import Protocol, Scales


def cell(key, *, t):
    start = t * jax.random.normal(key)
    return {"value": jax.lax.fori_loop(0, 2_500_000, lambda i, w: w - 1e-9 * jnp.sin(w), start)}


def compute(settings, trials):
    return trials.over(Cell(cell, 1), {"t": settings.taus})


def draw(ds):
    figure, (ax,) = new_figure(2.0, 2.0)
    ax.plot(ds.t, ds.value.mean("seed"))
    return figure


if __name__ == "__main__":
    settings = Scales(Protocol(), taus=tuple(1.0 + i for i in range(10)))
    claim = Claim("It is so.", "here", "value", lambda ds: ds.value.isel(t=0).values, (-np.inf, np.inf))
    figure = Figure(
        caption="", sizes={"tiny": Size(settings, 3)}, compute=compute, claims=(claim,), draw=draw,
        numbers=lambda ds: [["t"]],
    )
    FIGURES["small"] = Entry("figure", "A small figure", (1, 1, 1))
    reproduce.load = lambda name: figure
    sys.exit(cli.main(["reproduce", "small", "--size", "tiny", "--out", sys.argv[1], *sys.argv[2:]]))
"""


def ended(group, seconds=10):
    """Whether all processes of a group have ended within some time."""
    for _ in range(10 * seconds):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_sigterm_keeps_what_is_finished_and_ends_the_workers(tmp_path):
    script, out = tmp_path / "slow_figure.py", tmp_path / "out"
    script.write_text(FIGURE)
    command = [sys.executable, str(script), str(out), "--workers", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while process.poll() is None and not list((out / "store" / "chunks").glob("*.npz")):
            time.sleep(0.05)
        assert process.poll() is None, process.communicate()
        process.terminate()
        _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error.splitlines()[-1].startswith("lazyscope: interrupted; finished cells and figures are kept")
    assert "Traceback" not in error
    assert ended(process.pid), "no worker outlives its parent"
    kept, problems = stores.check(out / "store")
    assert 0 < kept < 30
    assert problems == []
    subprocess.run(command, check=True, capture_output=True)
    assert stores.check(out / "store") == (30, [])
    subprocess.run([*command[:2], str(tmp_path / "whole")], check=True, capture_output=True)
    first, second = (xr.load_dataset(o / "figures" / "small.nc", engine="h5netcdf") for o in (out, tmp_path / "whole"))
    xr.testing.assert_equal(first, second)


def test_chaos_in_short():
    """Workers and parents killed, a disk filled, a chunk cut short: `benchmarks/chaos.py` runs more of it."""
    command = [
        sys.executable,
        str(Path(__file__).parents[1] / "benchmarks" / "chaos.py"),
        "--runs",
        "1",
        "--faults",
        "4",
    ]
    done = subprocess.run([*command, "--cells", "300"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 workers killed" in done.stdout
    assert "1 of 1 runs ended with the Dataset of one that was left alone" in done.stdout
