"""Where a sweep is computed changes none of its bits, and nothing that was finished is lost when a worker is."""

import os
import re
import signal
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from lazyscope import FailedCellsError, Store, executors
from lazyscope import sweep as sweep_function
from lazyscope.sweep import remote

KEY = jax.random.key(3)
DIMS = {"path": ("step",)}


def descend(key, *, t, power=1, size=5):
    matrix = jax.random.normal(key, (size, size)) / size
    start = jnp.ones(size)
    end = jax.lax.fori_loop(0, 50, lambda i, w: w - 0.01 * t**power * (matrix @ w - start), start)
    return {"value": end.sum(), "path": end, "sign": end[0] > 0}


def refuse(key, *, t, power=1):
    if power == 2:
        raise ValueError("no squares here")
    return {"value": t * jax.random.normal(key)}


def run(executor: Any = None, *, function: Any = descend, taus: Any = (0.5, 1.0, 2.0), seeds: Any = 4, **options):
    axes = {"t": taus} | options.pop("axes", {})
    dims = options.pop("dims", DIMS)
    return sweep_function(function, axes, key=KEY, seeds=seeds, executor=executor, dims=dims, **options)


def by_hand(key, *, t, scale):
    value = jax.random.normal(key)
    for _ in range(3):
        value = value * t
    return {"value": scale * value, "odd": np.asarray(t > 1)}


def test_cells_with_a_loop_of_their_own_go_to_workers_too():
    options: dict[str, Any] = {"function": by_hand, "dims": {}, "compiled": False, "local": {"scale": 2.0}}
    executor = Answering()
    xr.testing.assert_identical(run(executor, **options), run(**options))
    assert executor.calls > 0


class Answering(Executor):
    """Answers at once, in this thread; `fails(n)` gives the error of the n-th call, if any."""

    def __init__(self, fails=lambda call: None):
        self.fails, self.calls = fails, 0

    def submit(self, fn, /, *args, **kwargs):
        future: Future = Future()
        self.calls += 1
        if (error := self.fails(self.calls)) is not None:
            future.set_exception(error)
        else:
            future.set_result(fn(*args, **kwargs))
        return future


class Counting(Executor):
    """Answers at once and counts the calls that fail."""

    failed = 0

    def submit(self, fn, /, *args, **kwargs):
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except ValueError as error:
            self.failed += 1
            future.set_exception(error)
        return future


def test_threads_give_the_bits_of_this_process():
    options: dict[str, Any] = {"axes": {"power": [1, 2]}, "static": ["power"], "function": partial(descend, size=7)}
    with ThreadPoolExecutor(2) as pool:
        xr.testing.assert_identical(run(pool, **options), run(**options))


def test_a_store_may_bring_the_executor(tmp_path):
    executor = Answering()
    with Store(tmp_path / "s") as store:
        assert executors.OnWorkers(store, executor).folder == (tmp_path / "s").absolute()
        first = run(store=executors.OnWorkers(store, executor))
        asked = executor.calls
        again = run(store=executors.OnWorkers(store, executor))
    assert asked > 0
    assert executor.calls == asked, "what is kept is asked of nobody"
    xr.testing.assert_identical(first, run())
    xr.testing.assert_identical(first, again)


def test_a_worker_that_dies_twice_costs_nothing():
    executor = Answering(lambda call: BrokenExecutor("died") if call in (2, 3, 5) else None)
    calls = []
    ds = run(executor, progress=lambda *call: calls.append(call))
    xr.testing.assert_identical(ds, run())
    assert (calls[0][:2], calls[-1][:2]) == ((0, 12), (12, 12))
    assert [call[0] for call in calls] == sorted(call[0] for call in calls)


def test_cells_that_always_fail_are_told_at_the_end_and_the_others_kept(tmp_path):
    with Store(tmp_path / "s") as store:
        options: dict[str, Any] = {"function": refuse, "dims": {}, "store": store, "static": ["power"]}
        pool = Counting()
        with pytest.raises(
            FailedCellsError, match=r"12 of 24 cells were left out after 3 failures.*power=2, seed=.*no squares here"
        ):
            run(pool, axes={"power": [2, 1]}, **options)
        assert len(store) == 12
        assert pool.failed <= 4, "a program that does not compile is not tried for every cell"
        kept = run(axes={"power": [1]}, **options)
    xr.testing.assert_identical(kept, run(axes={"power": [1]}, **(options | {"store": None})))


@pytest.mark.parametrize("function", [lambda key, t: {"value": t}, partial(lambda key, t: {"value": t})])
def test_what_workers_cannot_import_is_refused(function):
    with pytest.raises(ValueError, match=r"workers need a function that they can import, got .*lambda.*functools"):
        run(Answering(), function=function, dims={})


def test_workers_of_other_versions_are_refused(monkeypatch):
    facts = iter([{"jaxlib": "0.1"}])
    ours = remote.facts()
    monkeypatch.setattr(remote, "facts", lambda: ours | next(facts, {}))
    executor = Answering()
    with pytest.raises(ValueError, match=r"versions of this process, jaxlib .*, got 0.1 on .*: install the same"):
        run(executor)


def test_a_worker_with_other_threads_is_refused(monkeypatch):
    monkeypatch.setenv("NPROC", "2")
    with pytest.raises(RuntimeError, match="one XLA thread, got a process where JAX runs with NPROC=2: set NPROC=1"):
        remote._prepare()
    assert os.environ["NPROC"] == "2"


def test_a_forked_worker_is_refused(monkeypatch):
    monkeypatch.setattr(remote, "LOADED_IN", -1)
    with pytest.raises(RuntimeError, match="started afresh, got a process forked from one where JAX runs"):
        remote._prepare()


def test_what_has_come_back_is_kept_on_an_interruption(tmp_path):
    def interrupt(done, total, label):
        if done >= 3:
            raise KeyboardInterrupt

    with Store(tmp_path / "s") as store:
        with pytest.raises(KeyboardInterrupt):
            run(Answering(), store=store, progress=interrupt)
        assert len(store) > 3, "the chunks that had come back and not been told of"
        xr.testing.assert_identical(run(Answering(), store=store), run())


def test_an_executor_that_cannot_go_on_says_so():
    class Broken(Answering):
        def submit(self, fn, /, *args, **kwargs):
            raise BrokenExecutor("a process died")

    with pytest.raises(RuntimeError, match="replace a worker that dies, got Broken with BrokenExecutor: a process"):
        run(Broken())


def test_jobs_as_futures():
    class Job:
        def __init__(self, call):
            self.call, self.asked, self.cancelled = call, 0, False

        def done(self):
            self.asked += 1
            return self.asked > 2

        def result(self):
            return self.call()

        def cancel(self):
            self.cancelled = True

    class Submitting:
        def submit(self, fn, *args, **kwargs):
            return Job(partial(fn, *args, **kwargs))

    with executors.from_submitit(Submitting(), seconds=0.01) as pool:
        assert pool.submit(max, 3, 4).result() == 4
        with pytest.raises(ValueError, match="invalid literal"):
            pool.submit(int, "x").result()
    with pytest.raises(RuntimeError, match="open to be used"):
        pool.submit(max, 1, 2)


# --- processes ------------------------------------------------------------------------------------------------------


def die_once(path):
    if not Path(path).exists():
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


@pytest.mark.slow
def test_local_workers_die_and_are_replaced(tmp_path):
    with executors.local(1) as pool:
        first = pool.submit(os.getpid).result()
        assert first not in (os.getpid(), None)
        with pytest.raises(RuntimeError, match="ValueError: invalid literal"):
            pool.submit(int, "x").result()
        assert pool.submit(os.getpid).result() == first
        with pytest.raises(BrokenExecutor, match=r"a worker died \(signal 9"):
            pool.submit(die_once, str(tmp_path / "dead")).result()
        assert pool.submit(os.getenv, "NPROC").result() == "1"
        assert pool.submit(os.getpid).result() != first
        with pytest.raises(Exception, match="pickle"):
            pool.submit(lambda: 1).result()
    with pytest.raises(RuntimeError, match="open to be used"):
        pool.submit(os.getpid)


@pytest.mark.slow
def test_local_workers_end_at_once_on_an_exception():
    began = time.monotonic()
    pool = executors.local(1)
    pool.submit(os.getpid).result()
    long, queued = pool.submit(time.sleep, 60), pool.submit(os.getpid)
    while not long.running():
        time.sleep(0.01)
    with suppress(KeyboardInterrupt), pool:
        raise KeyboardInterrupt
    assert time.monotonic() - began < 30
    assert isinstance(long.exception(), BrokenExecutor)
    assert queued.cancelled()


def test_there_is_at_least_one_worker():
    with pytest.raises(ValueError, match="at least one worker, got 0"):
        executors.local(0)


@pytest.mark.parametrize("page", ["dask", "slurm"])
def test_the_pages_on_clusters_name_what_there_is(page):
    text = (Path(__file__).parents[1] / "docs" / f"{page}.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, page, "exec")
        for name in re.findall(r"ls\.executors\.(\w+)", block):
            assert hasattr(executors, name)
