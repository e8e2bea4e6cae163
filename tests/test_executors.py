"""Where a sweep is computed changes none of its bits, and nothing that was finished is lost when a worker is."""

import os
import pickle
import re
import signal
import sys
import textwrap
import time
import types
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import fresh
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from lazyscope import FailedCellsError, Store, executors
from lazyscope import store as stores
from lazyscope import sweep as sweep_function
from lazyscope.sweep import remote
from lazyscope.sweep.sending import ByValue, sendable

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
    executor = Answering()
    with pytest.raises(ValueError, match=r"workers need a function that they can import, got .*lambda.*functools"):
        run(executor, function=function, dims={})
    assert executor.calls == 0


@jax.jit
def jitted(key, t):
    return {"value": t * jax.random.normal(key)}


def test_a_function_that_is_no_name_for_itself_goes_by_value():
    with executors.local(1) as pool:  # a process is started by the first call
        sent = sendable(jitted, [], pool)
    assert isinstance(sent, ByValue)
    for function in (sent, pickle.loads(pickle.dumps(sent))):
        assert function(KEY, t=2.0)["value"] == jitted(KEY, t=2.0)["value"]


def with_activation(key, *, t, activation):
    return {"value": activation(t * jax.random.normal(key)), "same": jnp.array(activation is jnp.tanh)}


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.relu, jax.nn.softplus, jax.nn.gelu, np.tanh, jitted])
def test_functions_that_a_module_has_arrive_as_themselves(activation):
    function = partial(with_activation, activation=activation)
    with executors.local(1) as pool:
        sent = [sendable(function, [], executor) for executor in (pool, Answering())]
    assert all(pickle.loads(pickle.dumps(one)).keywords["activation"] is activation for one in sent)


@pytest.mark.slow
def test_workers_ask_which_activation_they_were_given_and_hear_what_this_process_hears():
    function = partial(with_activation, activation=jnp.tanh)
    with executors.local(1) as pool:
        ds = run(pool, function=function, axes={"t": [0.5]}, dims={})
    assert ds.same.all()
    xr.testing.assert_identical(ds, run(function=function, axes={"t": [0.5]}, dims={}))


@pytest.mark.parametrize("values", [[], [lambda: 1]])
def test_what_can_be_sent_in_no_way_is_refused_before_a_worker_starts(values, monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    function, name = (descend, "descend") if values else (jitted, "jitted")
    with (
        executors.local(1) as pool,
        pytest.raises(
            ValueError, match=rf"workers need a function that they can import, got '{name}' .*: move it to the"
        ),
    ):
        sendable(function, values, pool)


def test_a_function_of_a_session_is_told_from_one_of_a_script(monkeypatch):
    main = types.ModuleType("__main__")
    exec("def cell(key, t): return {'value': t}", vars(main))
    monkeypatch.setitem(sys.modules, "__main__", main)
    with executors.local(1) as pool:
        assert isinstance(sendable(main.cell, [], pool), ByValue)
        monkeypatch.setitem(sys.modules, "cloudpickle", None)
        with pytest.raises(
            ValueError, match=r"got 'cell' \(no worker can read the session .*: move it to the top level"
        ):
            sendable(main.cell, [], pool)
        main.__file__ = __file__
        assert sendable(main.cell, [], pool) is main.cell


def test_processes_start_with_one_thread_and_without_a_script_that_is_no_file(monkeypatch):
    main = types.ModuleType("__main__")
    main.__file__ = "<stdin>"
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.delenv("NPROC")
    with executors.one_thread():
        assert os.environ["NPROC"] == "1"
        assert not hasattr(main, "__file__")
    assert "NPROC" not in os.environ
    assert main.__file__ == "<stdin>"


def test_facts_do_not_need_a_variable(monkeypatch):
    monkeypatch.delenv("NPROC")
    assert remote.facts()["xla_threads"] == "default"


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


class Job:
    """A job that has ended when it is asked for the third time; `fails(times asked)` gives what its asking raises."""

    def __init__(self, call, fails):
        self.call, self.fails, self.asked, self.cancelled = call, fails, 0, 0

    def done(self):
        self.asked += 1
        if (error := self.fails(self.asked)) is not None:
            raise error
        return self.asked > 2

    def result(self):
        return self.call()

    def cancel(self):
        self.cancelled += 1
        raise RuntimeError("scancel: error: Unable to contact slurm controller")


class Queue:
    """What submitit's executors look like; `fails` is that of each job in turn."""

    def __init__(self, *fails):
        self.fails, self.jobs = list(fails), []

    def submit(self, fn, *args, **kwargs):
        assert os.environ["NPROC"] == "1", "a job inherits it"
        fails = self.fails.pop(0) if self.fails else lambda asked: None
        self.jobs.append(Job(partial(fn, *args, **kwargs), fails))
        return self.jobs[-1]


STALE = OSError(116, "Stale file handle")


def test_jobs_as_futures(monkeypatch):
    monkeypatch.delenv("NPROC")
    with executors.from_submitit(Queue(), seconds=0.01) as pool:
        assert pool.submit(max, 3, 4).result(10) == 4
        with pytest.raises(ValueError, match="invalid literal"):
            pool.submit(int, "x").result(10)
        with pytest.raises(SystemExit):
            pool.submit(sys.exit, 3).result(10)
        assert pool.submit(max, 5, 6).result(10) == 6
    with pytest.raises(RuntimeError, match="open to be used"):
        pool.submit(max, 1, 2)


@pytest.mark.parametrize("error", [STALE, RuntimeError("sacct: error"), SystemExit(1)])
def test_a_question_that_fails_is_asked_again_and_costs_its_own_job_alone(error):
    once, always = (lambda asked: error if asked == 2 else None), (lambda asked: error)
    with executors.from_submitit(Queue(once, always), seconds=0.01) as pool:
        first, second, third = (pool.submit(max, i, 4) for i in range(3))
        assert first.result(10) == third.result(10) == 4
        assert second.exception(10) is error


def test_a_result_that_a_file_server_does_not_give_is_asked_for_again():
    answers = [STALE, STALE]

    def answer():
        if answers:
            raise answers.pop()
        return 7

    with executors.from_submitit(Queue(), seconds=0.01) as pool:
        assert pool.submit(answer).result(10) == 7


def test_a_cancellation_that_fails_is_tried_again_and_costs_no_other_job():
    queue = Queue(lambda asked: None, lambda asked: None)
    with executors.from_submitit(queue, seconds=0.01) as pool:
        first, second = pool.submit(max, 3, 4), pool.submit(max, 7, 8)
        first.cancel()
        assert second.result(10) == 8
        while not wait([first], timeout=0).done:
            time.sleep(0.01)
    assert queue.jobs[0].cancelled == executors.TRIES


def test_a_queue_that_takes_no_jobs_is_said_in_one_line():
    class Refusing:
        asked = 0

        def submit(self, *args, **kwargs):
            self.asked += 1
            raise OSError("sbatch: error: Socket timed out\non send")

    queue = Refusing()
    with executors.from_submitit(queue, seconds=0.01) as pool:
        with pytest.raises(
            ConnectionError, match=r"a queue must take jobs, got OSError: sbatch: .* 3 times"
        ) as refused:
            pool.submit(max, 1, 2)
        with pytest.raises(ConnectionError, match="a queue must take jobs"):
            run(pool)
    assert queue.asked == 6
    assert "\n" not in str(refused.value)


def test_what_another_process_raised_is_told_in_its_own_words():
    trace = "Job (task=0) failed during processing with trace:\n----\nTraceback (most recent call last):\n  File x\n"
    error = RuntimeError(f"{trace}ValueError: no such scale\n\n----\nYou can check full logs")
    assert executors.in_words(error) == "ValueError: no such scale"
    assert executors.in_words(KeyError()) == "KeyError"


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


def leave(code):
    sys.exit(code)


def unpicklable():
    return lambda: 1


@pytest.mark.slow
def test_local_workers_outlive_what_a_call_does():
    with executors.local(1) as pool:
        first = pool.submit(os.getpid).result()
        with pytest.raises(RuntimeError, match="SystemExit: 3"):
            pool.submit(leave, 3).result()
        with pytest.raises(RuntimeError, match="pickle"):
            pool.submit(unpicklable).result()
        assert pool.submit(os.getpid).result() == first


# --- as documented --------------------------------------------------------------------------------------------------

DOCS = Path(__file__).parents[1] / "docs"
CELLS = """
import jax
def train(key, tau): return {"loss": tau * jax.random.normal(key)}
"""
JOBQUEUE = """
from distributed import LocalCluster
class SLURMCluster(LocalCluster):
    def __init__(self, cores, processes, memory, walltime):
        super().__init__(n_workers=1, threads_per_worker=1, dashboard_address=":0", memory_limit=0)
    def adapt(self, maximum_jobs): pass
"""


def blocks(page):
    found = re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), re.DOTALL)
    assert found
    return found


@pytest.fixture
def place(tmp_path):
    """A folder of a user with the modules that the pages import."""
    (tmp_path / "my_cells.py").write_text(CELLS)
    (tmp_path / "dask_jobqueue.py").write_text(JOBQUEUE)
    return tmp_path


def ran(place, script, cells=20, store="results/store"):
    (place / "script.py").write_text(script)
    done = fresh.python("script.py", cwd=place)
    assert done.returncode == 0, done.stderr
    assert stores.check(place / store) == (cells, [])
    again = fresh.python("script.py", cwd=place)
    assert again.returncode == 0, again.stderr
    assert "Warning" not in again.stderr, "nothing is said of threads"
    return done


@pytest.mark.slow
def test_the_example_of_the_module_runs(place):
    (example,) = re.findall(r"\n\n(    import jax\n.*?\n)\n\w", executors.__doc__ or "", re.DOTALL)
    assert "Dataset" in ran(place, textwrap.dedent(example), store="store").stdout


@pytest.mark.slow
def test_the_page_on_dask_runs(place, monkeypatch):
    from distributed import LocalCluster  # pyright: ignore[reportMissingImports]

    for name in fresh.SET_HERE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(place)  # workers take it over
    (block,) = blocks("dask")
    options: dict[str, Any] = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0", "memory_limit": 0}
    cluster: Any = LocalCluster(**options)
    with cluster:
        ran(place, block.replace("tcp://10.0.0.1:8786", cluster.scheduler_address))


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("slurm"), ids=["dask_jobqueue", "submitit"])
def test_the_page_on_slurm_runs(place, block):
    ran(place, block)


@pytest.mark.slow
def test_the_standard_pool_runs_with_no_variable_set(place):
    ran(
        place,
        """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
import jax, jax.numpy as jnp, lazyscope as ls
from my_cells import train
ONES = jnp.ones(3)  # JAX starts where a worker imports this script
if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    with ls.Store("results/store") as store, ProcessPoolExecutor(1, mp_context=spawn) as pool:
        ls.sweep(train, {"tau": [0.1, 1.0]}, key=jax.random.key(0), seeds=10, store=store, executor=pool)
""",
    )


SESSION = """
import jax, jax.numpy as jnp, lazyscope as ls
ONES = jnp.ones(3)
def cell(key, t): return {"v": t * jax.random.normal(key) * ONES.sum()}
if __name__ == "__main__":
    with ls.executors.local(1) as pool:
        ds = ls.sweep(cell, {"t": [1.0, 2.0]}, key=jax.random.key(0), seeds=2, executor=pool)
    assert ds.identical(ls.sweep(cell, {"t": [1.0, 2.0]}, key=jax.random.key(0), seeds=2))
    print(dict(ds.sizes))
"""
NOTEBOOK = f"""
import sys
exec(compile({SESSION!r}, "<ipython-input-1>", "exec"), sys.modules["__main__"].__dict__)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "given"),
    [(["-"], SESSION), (["-c", SESSION], None), (["-c", NOTEBOOK], None), (["script.py"], None)],
    ids=["standard input", "-c", "notebook", "script"],
)
def test_local_workers_compute_cells_of_any_session(arguments, given, tmp_path):
    (tmp_path / "script.py").write_text(SESSION)
    done = fresh.python(*arguments, cwd=tmp_path, input=given)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "{'t': 2, 'seed': 2}\n"
