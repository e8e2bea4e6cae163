"""Where the cells of a sweep can be computed: any `concurrent.futures.Executor`, and three ways to get one.

`local(n)` starts processes here, `dask(address)` asks a running cluster, `from_submitit(executor)` submits jobs. The
process that calls `sweep` owns the store; workers get a function and cells and return NumPy arrays. What is sent is
serialised by the executor, as it does it (all of them use pickle): a worker trusts the process that feeds it.

    import jax
    import lazyscope


    def cell(key, t):
        return {"value": t * jax.random.normal(key)}


    if __name__ == "__main__":  # every worker imports the script
        with lazyscope.executors.local(2) as pool, lazyscope.Store("store") as store:
            ds = lazyscope.sweep(cell, {"t": [1.0, 2.0]}, key=jax.random.key(0), seeds=10, store=store, executor=pool)
        print(ds)

No variable has to be set. NPROC is XLA's own name for the number of its threads per CPU device, which can change the
last digits of a result. Workers compute with one thread whatever the environment says, so that their numbers depend on
neither the machine nor the executor; where JAX has started in a worker before, with other threads, the worker is
refused. A process without an executor takes the threads that NPROC says, all of the machine's where it is unset: with
NPROC=1, set before JAX starts, it gives the numbers of workers bit for bit. Stores keep it with every result.
"""

import multiprocessing
import os
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY = "ready"
START_SECONDS = 60.0
THREADS = "NPROC"
TRIES = 10  # of a question to a queue, or of a cancellation: file servers and schedulers have bad moments
SUBMISSIONS = 3
_starting = threading.Lock()


class local(Executor):  # noqa: N801, reads as a verb: `with local(8) as pool`
    """`workers` processes on this machine, each with one XLA thread; one that dies is replaced, and its call fails.

    A thread feeds each process through a pipe of its own. A `ProcessPoolExecutor` would lose every call in flight with
    one process, not say which one was to blame, and could wait for ever on the half-written answer of a killed one. The
    processes are spawned, never forked: a fork of a process in which JAX runs may hang.

    Leaving a `with` block by an exception (Ctrl-C, say) ends the processes at once; otherwise they finish their calls.
    A script that uses this needs `if __name__ == "__main__":` around what it runs, since every process imports it.
    """

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ValueError(f"there must be at least one worker, got {workers}: leave the executor out for none")
        self.workers = workers
        self._calls: queue.SimpleQueue[tuple[Future[Any], Any] | None] = queue.SimpleQueue()
        self._processes: dict[int, Any] = {}
        self._closed = self._killed = False
        self._threads = [threading.Thread(target=self._feed, args=(i,), daemon=True) for i in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """`fn(*args, **kwargs)` in one of the processes."""
        if self._closed:
            raise RuntimeError("an executor must be open to be used, got one after its end: make another")
        future: Future[Any] = Future()
        self._calls.put((future, (fn, args, kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; the processes end with the last one."""
        self._closed = True
        while cancel_futures and not self._calls.empty():
            with suppress(queue.Empty):  # a worker may be faster
                if (call := self._calls.get_nowait()) is not None:
                    call[0].cancel()
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def kill(self) -> None:
        """End the processes now, whatever they do."""
        self._killed = True
        for process in list(self._processes.values()):
            process.kill()
        self.shutdown(cancel_futures=True)

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if kind is None:
            self.shutdown()
        else:
            self.kill()

    def _feed(self, number: int) -> None:
        pipe = None
        while (taken := self._calls.get()) is not None:
            future, call = taken
            if not future.set_running_or_notify_cancel():
                continue
            try:
                pipe = pipe or self._start(number)
                pipe.send(call)
                done, value = pipe.recv()
            except (EOFError, ConnectionError, BrokenExecutor) as error:
                pipe, code = None, self._ended(number)
                died = error if isinstance(error, BrokenExecutor) else BrokenExecutor(f"a worker died ({code})")
                future.set_exception(died)
            except BaseException as error:  # the call or its answer does not pickle: the next one may
                future.set_exception(error)
            else:
                future.set_result(value) if done else future.set_exception(RuntimeError(value))
        if pipe is not None:
            pipe.close()
            self._ended(number)

    def _start(self, number: int) -> Any:
        if self._killed:
            raise BrokenExecutor("the executor was ended")
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with one_thread():
            process.start()
        theirs.close()
        self._processes[number] = process
        try:
            if self._killed or not ours.poll(START_SECONDS):
                process.kill()
            ours.recv()
        except (EOFError, ConnectionError):
            raise BrokenExecutor(
                f"a worker must import the script that runs, got an end before its start ({self._ended(number)}): "
                'put what the script runs under `if __name__ == "__main__":`'
            ) from None
        return ours

    def _ended(self, number: int) -> str:
        process = self._processes.pop(number, None)
        if process is None:
            return "not started"
        process.join(5)
        code = process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"


def _serve(pipe: Any) -> None:
    """A worker: one call after the other until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal: the parent says what happens
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe.send(READY)
    while True:
        try:
            function, args, kwargs = pipe.recv()
        except EOFError:
            return
        except Exception as error:  # a call that this process cannot import
            pipe.send((False, in_words(error)))
            continue
        try:
            answer = (True, function(*args, **kwargs))
        except BaseException as error:  # sys.exit in a cell as well
            answer = (False, in_words(error))
        try:
            pipe.send(answer)
        except ConnectionError:
            return
        except Exception as error:  # an answer that does not pickle
            pipe.send((False, in_words(error)))


@contextmanager
def one_thread() -> Iterator[None]:
    """Processes that are started inside have one XLA thread from the beginning, and can start.

    A worker imports the script before it runs anything of ours, and a script may use JAX where it is imported. Standard
    input is a script that no worker can read; multiprocessing would have them try.
    """
    main = sys.modules["__main__"]
    file, before = getattr(main, "__file__", None), os.environ.get(THREADS)
    unread = file is not None and not Path(file).is_file()
    with _starting:
        os.environ[THREADS] = "1"
        if unread:
            del main.__file__
        try:
            yield
        finally:
            os.environ.pop(THREADS) if before is None else os.environ.update({THREADS: before})
            if unread:
                main.__file__ = file


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def check_address(address: str) -> None:
    """ConnectionError for what is no address of a Dask scheduler, before anything is started for it."""
    if re.fullmatch(r"([a-z]+://)?[^\s/]+:\d+", address) is None:
        raise ConnectionError(
            f"a Dask address must be [PROTOCOL://]HOST:PORT, got {address!r}: tcp://10.0.0.1:8786, say"
        )


@contextmanager
def dask(address: str, *, seconds: float = 10.0) -> Iterator[Executor]:
    """The workers of the Dask scheduler at `address`, such as tcp://10.0.0.1:8786."""
    from distributed import Client  # pyright: ignore[reportMissingImports]

    check_address(address)
    try:
        client = Client(address, timeout=seconds, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise ConnectionError(
            f"a Dask scheduler must answer at its address, got {in_words(error)} from {address!r}: "
            "start one with `dask scheduler`, which prints its address"
        ) from None
    with client:
        yield client.get_executor()


class from_submitit(Executor):  # noqa: N801, makes one out of another
    """A submitit executor as one of `concurrent.futures`: every call becomes a job.

    A job is a process of its own that imports and compiles anew, so chunks are made for `chunk_seconds` of work. About
    twice `workers` jobs are queued at a time; `seconds` is how often they are asked whether they have ended.

    A question that fails is asked ten times before its future gets the error, and a submission is tried three times
    before `submit` raises ConnectionError.
    """

    def __init__(self, executor: Any, *, workers: int = 64, chunk_seconds: float = 600.0, seconds: float = 1.0) -> None:
        self._executor = executor
        self.workers, self.chunk_seconds, self._seconds = workers, chunk_seconds, seconds
        self._jobs: dict[Future[Any], _Job] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """`fn(*args, **kwargs)` as a job."""
        if self._closed:
            raise RuntimeError("an executor must be open to be used, got one after its end: make another")
        job = _Job(self._submitted(fn, *args, **kwargs))
        future: Future[Any] = Future()
        with self._lock:
            self._jobs[future] = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._follow, daemon=True)
                self._thread.start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; with `cancel_futures` the jobs that have not ended are cancelled."""
        self._closed = True
        if cancel_futures:
            with self._lock:
                for future in self._jobs:
                    future.cancel()
        thread = self._thread
        if wait and thread is not None:
            thread.join()

    def __exit__(self, kind: Any, *rest: Any) -> None:
        self.shutdown(cancel_futures=kind is not None)

    def _submitted(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        for left in reversed(range(SUBMISSIONS)):
            try:
                with one_thread():
                    return self._executor.submit(fn, *args, **kwargs)
            except Exception as error:
                if left == 0:
                    raise ConnectionError(
                        f"a queue must take jobs, got {in_words(error)} {SUBMISSIONS} times: what is finished is kept "
                        "where there is a store; try again when the queue does"
                    ) from error
                time.sleep(self._seconds)
        return None

    def _follow(self) -> None:
        while True:
            with self._lock:
                jobs = list(self._jobs.items())
                if not jobs:
                    self._thread = None
                    return
            for future, job in jobs:
                if job.over(future):
                    with self._lock:
                        del self._jobs[future]
            time.sleep(self._seconds)


@dataclass
class _Job:
    """A job and how often in a row asking about it has failed."""

    job: Any
    failures: int = 0

    def over(self, future: Future[Any]) -> bool:
        """Whether nothing is left to ask; what came of the job is on its future then."""
        value, raised, ended = None, None, False
        try:
            if future.cancelled():
                self.job.cancel()
            elif self.job.done():
                ended = True
                value = self.job.result()
            else:
                self.failures = 0
                return False
        except BaseException as error:  # one thread follows all jobs: it outlives whatever one of them raises
            self.failures += 1
            if self.failures < TRIES and (not ended or isinstance(error, OSError)):  # submitit wraps what a job raises
                return False
            raised = error
        if future.set_running_or_notify_cancel():
            future.set_result(value) if raised is None else future.set_exception(raised)
        return True


def in_words(error: BaseException) -> str:
    """An exception in one line; of one that brings the traceback of another process, what was raised there."""
    text = str(error).strip()
    if "Traceback (most recent call last)" in text:
        told = [line for line in text.splitlines() if re.match(r"[A-Za-z_][\w.]*(: |$)", line)]
        if told:
            return told[-1]
    first = " ".join(text.split("\n\n")[0].split())
    return f"{type(error).__name__}: {first[:300]}" if text else type(error).__name__
