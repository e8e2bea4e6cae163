"""The two-layer student of both papers and its data."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import numpy as np
import xarray as xr
from jaxtyping import Array, Bool, Key, PyTree

from lazyscope.dynamics import DIVERGED, EarlyStop, Status, default_record
from lazyscope.models import Model, two_layer
from lazyscope.papers.figure import prefixed
from lazyscope.papers.step_size.rules import StepRule, chizat_step_size
from lazyscope.problems import Problem, teacher_student
from lazyscope.store import stored_as

NOTE_STOP = EarlyStop(patience=100, min_delta=1e-4, on_test=True)  # note §4.4
DIFFERENTIAL_EXAMPLES = 200  # held-out inputs on which the change j of the differential is measured


@dataclass(frozen=True)
class Data:
    """Teacher-student data on the sphere of R^d."""

    n: int = 1000
    n_test: int = 1000
    d: int = 100
    teacher_width: int = 3
    target_scale: float = 1.0

    def problem(self, key: Key[Array, ""]) -> Problem:
        """One draw of it."""
        return teacher_student(
            key,
            n=self.n,
            d=self.d,
            n_test=self.n_test,
            teacher_width=self.teacher_width,
            target_scale=self.target_scale,
        )


@stored_as("lazyscope.papers.protocol.Protocol")
@dataclass(frozen=True)
class Protocol(Data):
    """Settings of one two-layer experiment; the defaults are those of Chizat et al. 2019, Figure 1c."""

    width: int = 50
    num_steps: int = 10_000
    doubled: bool = True
    step_rule: StepRule = chizat_step_size
    test_every: int = 10
    stop: EarlyStop | None = None

    @property
    def record(self) -> tuple[int, ...]:
        """Recorded steps: 0, about 24 log-spaced ones and the last."""
        return default_record(self.num_steps, 24)


TINY = Protocol(n=40, n_test=40, d=8, width=8, num_steps=300)
QUICK = Protocol(num_steps=5000)


@dataclass(frozen=True)
class Scales:
    """A protocol and the initialisation scales tau at which it is run."""

    protocol: Protocol
    taus: tuple[float, ...]


def setup(key: Key[Array, ""], protocol: Protocol) -> tuple[Model, PyTree, Problem]:
    """Model, initial parameters at tau = 1 and problem of a trial: the same for every tau, as in the papers' code."""
    key_data, key_init = jax.random.split(key)
    model = two_layer(protocol.width, protocol.d)
    return model, model.init(key_init, doubled=protocol.doubled), protocol.problem(key_data)


def from_both_starts(run: Callable[[Protocol], xr.Dataset], protocol: Protocol) -> xr.Dataset:
    """What `run` gives of a protocol with the plain start, and beside it, under `symmetrised_`, with the other."""
    plain, symmetrised = (run(replace(protocol, doubled=doubled)) for doubled in (False, True))
    return plain.merge(prefixed(symmetrised, "symmetrised_"), join="exact")


def held_out(problem: Problem) -> tuple[Array, Array]:
    """The held-out inputs and targets, which every problem of the papers has."""
    if problem.x_test is None or problem.y_test is None:
        raise ValueError("the problems of the papers must have held-out data, got one without: set n_test >= 1")
    return problem.x_test, problem.y_test


def how_it_ended(status: Status) -> dict[str, Bool[Array, ""]]:
    """What `figures.MARKS` shows of a run."""
    return {
        "diverged": status.code == DIVERGED,
        "unstable": status.unstable,
        "precision_limited": status.precision_limited,
        "still_improving": status.still_improving,
    }


def decades(first: float, last: float, step: float) -> tuple[float, ...]:
    """10^first, 10^(first+step), ..., 10^last, as decimal numbers that print short."""
    exponents = np.arange(round((last - first) / step) + 1) * step + float(first)
    return tuple(float(f"{10**e:.6g}") for e in exponents)
