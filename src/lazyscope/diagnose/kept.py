"""What a diagnosis keeps to be looked at: some outputs, what the kernel can learn, what was seen on the way."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyscope.examples import Batch, first
from lazyscope.problems import Loss
from lazyscope.tangent import as_matrix

OUTPUTS = 200  # entries of the outputs that are kept, evenly spaced over examples
KERNEL_SIDE = 1024  # rows of K(w0) whose eigenvectors are computed, at most
DIRECTIONS = 64  # leading directions that are kept


class Outputs(NamedTuple):
    """At most 200 of the `total` entries of the held-out outputs, alpha in them, evenly spaced.

    Entry `entry` (of the flattened outputs) of example `example` at the start, after training the model and after
    training its linearisation; `target` is empty where targets are no numbers like the outputs.
    """

    total: int
    example: tuple[int, ...]
    entry: tuple[int, ...]
    start: tuple[float, ...]
    trained: tuple[float, ...]
    linearised: tuple[float, ...]
    target: tuple[float, ...]


class Learnable(NamedTuple):
    """What the tangent kernel K(w0) on `examples` of the inputs lets training learn, and how fast.

    `eigenvalues` are the leading ones, at most 64 of `rank`, relative to the largest, and `shares` the part of ‖r‖² on
    their eigenvectors, for what is to be learnt, r = −∇R(f_0) (y − f_0 over n for the square loss); empty where r = 0.
    `reachable` is the part on all `rank` of them: the rest is never learnt by the linearisation. `size`, `rank`,
    `condition` and `effective_rank` are those of the whole kernel (`lazyscope.tangent.Spectrum`).
    """

    examples: int
    size: int
    rank: int
    condition: float
    effective_rank: float
    reachable: float | None
    eigenvalues: tuple[float, ...]
    shares: tuple[float, ...]


class Trajectory(NamedTuple):
    """What was seen along our descent, or along a run of the caller's (`Diagnosis.along`).

    Losses of the model and of its linearisation at the steps `step`, the held-out ones empty without such data. `gap`
    is g at `gap_step`: between the two as they are after so many steps, or, with `same_weights`, between the model and
    its linearisation at the model's weights. `differential` is j at `differential_step`, on `differential_examples`
    inputs (0: not said).
    """

    step: tuple[int, ...]
    train: tuple[float, ...]
    train_linearised: tuple[float, ...]
    test: tuple[float, ...]
    test_linearised: tuple[float, ...]
    gap_step: tuple[int, ...] = ()
    gap: tuple[float, ...] = ()
    differential_step: tuple[int, ...] = ()
    differential: tuple[float, ...] = ()
    differential_examples: int = 0
    same_weights: bool = False


def some_outputs(f0: Array, f: Array, f_linear: Array, y: Batch) -> Outputs:
    """Entries of outputs of shape (n, ...), evenly spaced over examples and then over what an example gives."""
    each = max(f[0].size, 1)
    chosen = np.unique(np.linspace(0, f.size - 1, min(f.size, OUTPUTS)).round().astype(int))

    def at(values: Array) -> tuple[float, ...]:
        return numbers(np.asarray(values).reshape(-1)[chosen])

    like = isinstance(y, jax.Array) and y.shape == f.shape and jnp.issubdtype(y.dtype, jnp.floating)
    return Outputs(
        total=f.size,
        example=tuple(int(i) for i in chosen // each),
        entry=tuple(int(i) for i in chosen % each),
        start=at(f0),
        trained=at(f),
        linearised=at(f_linear),
        target=at(y) if like else (),
    )


def learnable(kernel: Float[Array, "n n *kk"], loss: Loss, f0: Array, y: Batch) -> Learnable | None:
    """Spectrum of K(w0) on the inputs of the outputs `f0` and targets `y`, and the shares of what is to be learnt.

    On as many of the first inputs as make at most 1024 rows; None where an example alone has more.
    """
    rows = as_matrix(kernel)
    each = rows.shape[0] // f0.shape[0]
    n = min(f0.shape[0], KERNEL_SIDE // each)
    if n == 0:
        return None
    matrix = np.asarray(rows[: n * each, : n * each], float)
    residual = np.asarray(jax.grad(loss)(f0[:n], first(y, n)), float).reshape(-1)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    if values[0] == 0:
        return None
    values = values / values[0]
    rank = int(np.sum(values > len(values) * float(np.finfo(rows.dtype).eps)))
    size = float(np.max(np.abs(residual)))
    shares = np.zeros(0)
    if size > 0:
        residual = residual / size
        shares = (vectors[:, :rank].T @ residual) ** 2 / (residual @ residual)
    return Learnable(
        examples=n,
        size=len(values),
        rank=rank,
        condition=float(1 / values[rank - 1]),
        effective_rank=float(values.sum() ** 2 / (values @ values)),
        reachable=float(shares.sum()) if size > 0 else None,
        eigenvalues=numbers(values[: min(rank, DIRECTIONS)]),
        shares=numbers(shares[:DIRECTIONS]),
    )


def numbers(values: Array | np.ndarray) -> tuple[float, ...]:
    """Plain numbers."""
    return tuple(float(value) for value in np.asarray(values))
