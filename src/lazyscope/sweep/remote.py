"""Cells computed elsewhere: what a worker gets and gives back, and what the process that owns the store does meanwhile.

A worker has one device and one XLA thread, so its numbers are those of this process to the last bit. Nothing is known
of an executor but `submit`: how many chunks are in flight follows from how many workers have answered.
"""

import os
import socket
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from lazyscope.executors import THREADS, in_words, one_thread
from lazyscope.progress import Progress
from lazyscope.sweep.by_hand import Calls
from lazyscope.sweep.cells import Cell, Function, View
from lazyscope.sweep.program import BUFFER_CELLS, Program
from lazyscope.sweep.results import Expected, shapes_of, traced

TRIES = 3  # a worker can die of a neighbour's memory; what fails three times fails by itself
ANSWER_BYTES = 2**26  # of one chunk: answers that wait to be written are held in memory
ANSWER_CELLS = 32 * BUFFER_CELLS
MOST_WORKERS = 1000
PROGRAMS = 8  # compiled programs that a worker keeps
LOADED_IN = os.getpid()  # a forked process has inherited it


class FailedCellsError(RuntimeError):
    """Some cells could not be computed; all others were."""


class Task(NamedTuple):
    """Some cells of one program, with everything that decides their numbers."""

    program: str  # names function, settings, root key and numerics together: a worker compiles each name once
    function: Function
    fixed: dict[str, Any]
    key: tuple[str, np.ndarray]
    numerics: dict[str, Any]
    compiled: bool
    cells: list[Cell]


class Answer(NamedTuple):
    """The results of a task, one row per cell, and what is needed to plan the next."""

    results: dict[str, np.ndarray]
    seconds: float  # without compilation
    cell_bytes: int
    worker: str
    origin: dict[str, str]


# --- in the worker --------------------------------------------------------------------------------------------------

_programs: "OrderedDict[str, Program | Calls]" = OrderedDict()
_turn = threading.Lock()  # a Dask worker may have several threads, which share the one device anyway


def work(task: Task) -> Answer:
    """Compute the cells of a task."""
    _prepare()
    with _turn, _numerics(task.numerics):
        program = _compiled(task)
        began = time.perf_counter()
        parts = [program.run(task.cells[i : i + program.capacity]) for i in range(0, len(task.cells), program.capacity)]
        seconds = time.perf_counter() - began
    results = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Answer(results, seconds, program.cell_bytes, f"{socket.gethostname()} {os.getpid()}", facts())


def facts() -> dict[str, str]:
    """What the last digits of a result may depend on."""
    threads = os.environ.get(THREADS, "default")
    return _versions() | {"device_kind": jax.local_devices()[0].device_kind, "xla_threads": threads}


@cache
def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("lazyscope", "jax", "jaxlib", "numpy")}


def _prepare() -> None:
    if os.getpid() != LOADED_IN:
        raise RuntimeError(
            "workers must be started afresh, got a process forked from one where JAX runs: "
            'ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")), or lazyscope.executors.local'
        )
    before = os.environ.get(THREADS)
    os.environ[THREADS] = "1"
    try:
        jax.config.update("jax_num_cpu_devices", 1)
    except RuntimeError:  # JAX runs already: of this sweep or of somebody else, with the threads that were set then
        if before != "1":
            os.environ.pop(THREADS) if before is None else os.environ.update({THREADS: before})
            raise RuntimeError(
                f"a worker needs one XLA thread, got a process where JAX runs with {THREADS}={before or 'unset'}: "
                f"set {THREADS}=1 in its environment before JAX starts"
            ) from None


def _compiled(task: Task) -> Program | Calls:
    program = _programs.pop(task.program, None)
    if program is None:
        kind, data = task.key
        root = jax.random.wrap_key_data(jnp.asarray(data), impl=kind)
        if task.compiled:
            cell = traced(task.function, task.fixed, task.cells[0], root)
            program = Program(cell, task.cells[0], task.fixed, root, jax.local_devices()[:1])
        else:
            program = Calls(task.function, root)
    _programs[task.program] = program
    while len(_programs) > PROGRAMS:
        _programs.popitem(last=False)
    return program


NUMERICS = {
    "jax_enable_x64": "enable_x64",
    "jax_default_matmul_precision": "default_matmul_precision",
    "jax_numpy_dtype_promotion": "numpy_dtype_promotion",
    "jax_numpy_rank_promotion": "numpy_rank_promotion",
    "jax_threefry_partitionable": "threefry_partitionable",
    "jax_default_prng_impl": "default_prng_impl",
}


@contextmanager
def _numerics(settings: Mapping[str, Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for name, value in settings.items():
            stack.enter_context(getattr(jax, NUMERICS[name])(value))
        yield


# --- in the process that owns the store -----------------------------------------------------------------------------


@dataclass
class Group:
    """The cells that share their static coordinates, and what is known of their cost."""

    task: Task
    label: str
    left: deque[Cell]
    size: int = 1  # a cell first, to learn how long one takes
    kept: int = 0
    failures: int = 0

    @property
    def hopeless(self) -> bool:
        """Whether it has failed so often before anything came of it that its program cannot be run."""
        return self.kept == 0 and self.failures >= TRIES


@dataclass
class Chunk:
    """Cells on their way."""

    group: Group
    cells: list[Cell]
    tries: int = 0
    reason: str = ""


@dataclass
class Farm:
    """One sweep on one executor."""

    executor: Executor
    kept: View
    expected: Expected
    report: Progress
    done: int
    total: int
    chunk_seconds: float
    flying: dict[Future[Answer], Chunk] = field(default_factory=dict)
    again: deque[Chunk] = field(default_factory=deque)
    failed: list[Chunk] = field(default_factory=list)
    workers: set[str] = field(default_factory=set)

    def run(self, groups: Sequence[Group]) -> None:
        """Compute all groups. Finished chunks are kept whatever ends it; what keeps failing is told at the end."""
        waiting = deque(groups)
        try:
            while waiting or self.again or self.flying:
                while len(self.flying) < self._room() and (chunk := self._next(waiting)) is not None:
                    self.flying[self._submit(chunk)] = chunk
                finished, _ = wait(self.flying, return_when=FIRST_COMPLETED)
                for future in finished:
                    self._land(future)
        except BaseException:
            self._gather()
            raise
        if self.failed:
            raise FailedCellsError(self._failures())

    def _workers(self) -> int:
        # Nobody says how many workers an executor has, and a cluster's number changes: as many as have answered. Jobs
        # are new processes each, so that submitit's number is given.
        return min(max(len(self.workers), 1), getattr(self.executor, "workers", MOST_WORKERS))

    def _room(self) -> int:
        # None waits for another, and two more to find workers not yet heard of. All at once would be held in memory.
        return 2 * self._workers() + 2

    def _next(self, waiting: deque[Group]) -> Chunk | None:
        while self.again:
            chunk = self.again.popleft()
            if not chunk.group.hopeless:
                return chunk
            self.failed.append(chunk)
        while waiting and not waiting[0].left:
            waiting.popleft()
        if not waiting:
            return None
        group = waiting[0]
        # No worker idle while another has the rest, but none sent for less than a tenth of its time either.
        share = max(-(-len(group.left) // (2 * self._workers())), group.size // 10)
        return Chunk(group, [group.left.popleft() for _ in range(min(group.size, share, len(group.left)))])

    def _submit(self, chunk: Chunk) -> Future[Answer]:
        starts = one_thread() if isinstance(self.executor, ProcessPoolExecutor) else nullcontext()
        try:
            with starts:
                return self.executor.submit(work, chunk.group.task._replace(cells=chunk.cells))
        except BrokenExecutor as error:
            raise RuntimeError(
                f"an executor must be able to replace a worker that dies, got {type(self.executor).__name__} with "
                f"{in_words(error)}: what was finished is kept; lazyscope.executors.local starts new ones"
            ) from error

    def _land(self, future: Future[Answer]) -> None:
        chunk = self.flying.pop(future)
        error = CancelledError("the cluster gave it up") if future.cancelled() else future.exception()
        if error is None:
            self._keep(chunk, future.result())
            return
        chunk.tries, chunk.reason = chunk.tries + 1, in_words(error)
        chunk.group.failures += 1
        if chunk.tries < TRIES and not chunk.group.hopeless:
            self.again.append(chunk)
            return
        self.failed.append(chunk)
        if chunk.group.hopeless and chunk.group.left:  # the program is at fault, not a cell: the rest is not tried
            self.failed.append(Chunk(chunk.group, list(chunk.group.left), TRIES, chunk.reason))
            chunk.group.left.clear()

    def _keep(self, chunk: Chunk, answer: Answer) -> None:
        group, ours = chunk.group, facts()
        for name in ("lazyscope", "jax", "jaxlib"):
            if answer.origin[name] != ours[name]:
                raise ValueError(
                    f"workers must have the versions of this process, {name} {ours[name]}, got {answer.origin[name]} "
                    f"on {answer.worker.split()[0]}: install the same there"
                )
        self.expected.check(shapes_of(answer.results))
        self.kept.write(chunk.cells, answer.results, origin=answer.origin)
        self.workers.add(answer.worker)
        group.kept += 1
        per_cell = max(answer.seconds / len(chunk.cells), 1e-9)
        most = min(ANSWER_CELLS, max(ANSWER_BYTES // answer.cell_bytes, 1))
        group.size = int(np.clip(self.chunk_seconds / per_cell, 1, most))
        self.done += len(chunk.cells)
        self.report(self.done, self.total, group.label)

    def _gather(self) -> None:
        """Keep what has come back and not been written, and call the rest off."""
        for future in self.flying:
            future.cancel()
        for future, chunk in self.flying.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                answer = future.result()
                if shapes_of(answer.results) == self.expected.shapes:
                    self.kept.write(chunk.cells, answer.results, origin=answer.origin)

    def _failures(self) -> str:
        cells = sum(len(chunk.cells) for chunk in self.failed)
        first = self.failed[0]
        where = ", ".join(f"{name}={value}" for name, value in (*first.cells[0].coords, ("seed", first.cells[0].seed)))
        return (
            f"{cells} of {self.total} cells were left out after {TRIES} failures, the first {where}: {first.reason}; "
            "with a store all others are kept, and the same command tries these again"
        )


def compute(
    function: Function,
    groups: Sequence[tuple[tuple[tuple[str, Any], ...], list[Cell]]],
    key: Key[Array, ""],
    kept: View,
    expected: Expected,
    report: Progress,
    total: int,
    executor: Executor,
    chunk_seconds: float,
    compiled: bool = True,
) -> None:
    """Compute the cells of each group on the executor's workers; `kept` is written by this process alone."""
    root = (str(jax.random.key_impl(key)), np.asarray(jax.random.key_data(key)))
    numerics = {name: getattr(jax.config, name) for name in NUMERICS}
    made = []
    for fixed, cells in groups:
        label = ", ".join(f"{name}={value}" for name, value in fixed)
        task = Task(uuid.uuid4().hex, function, dict(fixed), root, numerics, compiled, [])
        made.append(Group(task, label, deque(cells)))
    done = total - sum(len(cells) for _, cells in groups)
    report(done, total, "starting workers")
    Farm(executor, kept, expected, report, done, total, getattr(executor, "chunk_seconds", chunk_seconds)).run(made)
