"""The gap g between two sets of outputs, the trained model's and its trained linearisation's, with its interval."""

import math
from functools import partial

import jax
import numpy as np
from jaxtyping import Array

from lazyscope.examples import Batch, alone, take
from lazyscope.intervals import Interval, reach, root_of_ratio, student
from lazyscope.problems import Loss, square_loss

JACKKNIFE = 20  # groups of examples that are left out in turn, for a loss that is no mean over examples


def gap(loss: Loss, f: Array, f_linear: Array, f0: Array, y: Batch) -> Interval:
    """G on held-out outputs of shape (n, ...), alpha in them, with its 95 % interval over the n examples.

    ‖f_T − f_lin,T‖/min(‖f_T − f_0‖, ‖y − mean y‖) for the square loss; for another one the larger of
    ‖f_T − f_lin,T‖/‖f_T − f_0‖ and |L(f_T) − L(f_lin,T)|/|L(f_0) − L(f_T)|.
    """
    apart, moved = _squares(f, f_linear), _squares(f, f0)
    if loss is square_loss:
        targets = np.asarray(y, float)
        spread = _squares(targets, np.broadcast_to(targets.mean(axis=0, keepdims=True), targets.shape))
        vary = bool(np.any(targets != targets[:1]))  # the mean of equal numbers may be off by a rounding
        return _by_outputs(apart, spread if vary and _total(spread) < _total(moved) else moved)
    return _larger(_by_outputs(apart, moved), _by_loss(loss, f, f_linear, f0, y))


def losses(loss: Loss, f: Array, f_linear: Array, f0: Array, y: Batch) -> dict[str, float]:
    """The three held-out losses, by the names under which they are printed."""
    return {
        "loss at start": float(_value(loss, f0, y)),
        "loss, trained": float(_value(loss, f, y)),
        "loss, linearised": float(_value(loss, f_linear, y)),
    }


@partial(jax.jit, static_argnums=0)
def _value(loss: Loss, f: Array, y: Batch) -> Array:
    return loss(f, y)


@partial(jax.jit, static_argnums=0)
def _one_by_one(loss: Loss, f: Array, y: Batch) -> Array:
    return jax.vmap(lambda one, target: loss(one[None], alone(target)))(f, y)


_Squares = tuple[np.ndarray, float]  # squares of each example in a unit, and the unit


def _squares(a: Array | np.ndarray, b: Array | np.ndarray) -> _Squares:
    difference = np.asarray(a, float) - np.asarray(b, float)
    rows = difference.reshape(difference.shape[0], -1)
    unit = float(np.max(np.abs(rows), initial=0)) or 1.0
    return np.sum((rows / unit) ** 2, axis=1), unit


def _total(squares: _Squares) -> float:
    return math.sqrt(float(np.sum(squares[0]))) * squares[1]


def _by_outputs(apart: _Squares, scale: _Squares) -> Interval:
    found, factor = root_of_ratio(apart[0], scale[0]), apart[1] / scale[1]
    return Interval(found * factor, found.low * factor, found.high * factor)


def _by_loss(loss: Loss, f: Array, f_linear: Array, f0: Array, y: Batch) -> Interval:
    """|L(f_T) − L(f_lin,T)|/|L(f_0) − L(f_T)|; its error is that of a ratio of means, on the plain scale."""
    end, linear, start = (float(_value(loss, v, y)) for v in (f, f_linear, f0))
    difference, drop = end - linear, start - end
    if difference == 0:
        return Interval(0.0, 0.0, 0.0)
    if drop == 0 or not math.isfinite(difference / drop):
        return Interval(math.inf, math.inf, math.inf)
    ratio = difference / drop
    rows = [_each(loss, v, y, whole) for v, whole in ((f, end), (f_linear, linear), (f0, start))]
    if rows[0] is not None and rows[1] is not None and rows[2] is not None:
        spread = reach(((rows[0] - rows[1]) - ratio * (rows[2] - rows[0])) / drop)
    else:
        spread = _jackknife(loss, f, f_linear, f0, y)
    value = abs(ratio)
    return Interval(value, max(value - spread, 0.0), value + spread)


def _each(loss: Loss, f: Array, y: Batch, whole: float) -> np.ndarray | None:
    """The losses of the examples one by one, where their mean is the loss of all."""
    each = np.asarray(_one_by_one(loss, f, y), float)
    return each if np.isclose(float(np.mean(each)), whole, rtol=1e-5) else None


def _jackknife(loss: Loss, f: Array, f_linear: Array, f0: Array, y: Batch) -> float:
    """Half the interval of the ratio of losses, by leaving out groups of examples in turn."""
    n = f.shape[0]
    groups = min(n, JACKKNIFE)
    if groups < 2:
        return math.inf

    def ratio(rows: np.ndarray) -> float:
        end, linear, start = (float(loss(v[rows], take(y, rows))) for v in (f, f_linear, f0))
        return abs(end - linear) / abs(start - end) if start != end else math.inf

    without = np.array([ratio(np.flatnonzero(np.arange(n) % groups != g)) for g in range(groups)])
    return student(math.sqrt((groups - 1) * float(np.var(without))), groups - 1)


def _larger(a: Interval, b: Interval) -> Interval:
    return Interval(max(a, b), max(a.low, b.low), max(a.high, b.high))
