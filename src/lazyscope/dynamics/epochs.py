"""SGD with momentum on the centred model in epochs, as image networks are trained (Chizat et al. 2019, §3.2).

Every epoch goes once through the training data in an order of its own; the last batch is smaller where the batch size
does not divide the number of examples. Steps are those of `centred_training`, in u = alpha·(w − w0), so that float32
keeps its digits at any alpha; alpha = inf trains the linearised model.

The loop is in Python, one compiled step after the other: XLA compiles the convolutions of a gradient to their fast
form outside of compiled loops only, and between two epochs a run can be saved, killed and taken up again, with the same
bits in the end. No product is taken at less than the full precision of its type, whatever a device's default.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key, PyTree

from lazyscope import examples
from lazyscope.door import entrance
from lazyscope.dynamics.centred import Centred, CentredTraining, Difference, centred_training
from lazyscope.dynamics.run import check_positive, check_record
from lazyscope.problems import Loss, Problem


class History(NamedTuple):
    """What a run has seen; NaN where it has not been yet.

    `batch_loss` is the mean over each epoch's batches, before their steps. The others have a row per recorded epoch;
    entries of their last axis: `loss`, `accuracy` of the net and `frozen_loss`, `frozen_accuracy` of the current
    weights with the activation pattern of w0 on train and test data, `stability` the share of gates of the test data
    that are as at w0, per layer with gates. `outputs` are alpha·(h(w) − h(w0)) on the test data at the last of them.
    """

    batch_loss: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray
    frozen_loss: np.ndarray
    frozen_accuracy: np.ndarray
    stability: np.ndarray
    outputs: np.ndarray


class EpochState(NamedTuple):
    """All that a run needs to go on: a pytree of arrays, to be saved and loaded as it is."""

    centred: Centred
    epoch: np.ndarray
    history: History


class _Programs(NamedTuple):
    training: CentredTraining
    measure: Callable[..., tuple[Array, list[Array], Array]]


@entrance
def train_in_epochs(
    difference: Difference,
    params0: PyTree,
    problem: Problem,
    *,
    alpha: float,
    rate: Callable[[int], float],
    epochs: int,
    batch: int,
    key: Key[Array, ""],
    momentum: float = 0.9,
    record: Sequence[int] | None = None,
    augment: Callable[[Key[Array, ""], Array], Array] | None = None,
    restore: Callable[[EpochState], EpochState | None] | None = None,
    keep: Callable[[EpochState], None] | None = None,
) -> EpochState:
    """`epochs` epochs of SGD on F_alpha of h(w) − h(w0), with learning rate `rate(epoch)` in epoch 0, 1, ...

    `difference` is that of a `Model`; `problem` needs held-out data, with one-hot targets or labels. `record` lists the
    numbers of epochs after which the net is evaluated, by default every one. `augment(key, x)` alters a batch of images
    anew each time. `restore(start)` may give the state of an earlier call instead of the fresh one, which shows its
    structure; `keep(state)` is called after every epoch. Orders and alterations depend on `key` and the epoch alone.

    Raises ValueError for types narrower than float32 or not all equal, without held-out data, for a batch size outside
    1 to n, an alpha or number of epochs that is not positive, and a `record` that is not increasing within 0 to
    `epochs`.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, or inf for the linearised model, got {alpha:g}")
    check_positive("epochs", epochs)
    if problem.x_test is None or problem.y_test is None:
        raise ValueError("training in epochs needs held-out data: build the Problem with x_test and y_test")
    held_out = (problem.x_test, problem.y_test)
    n = problem.num_examples
    if not 1 <= batch <= n:
        raise ValueError(f"a batch holds 1 to {n} of the training examples, got batch={batch}: choose one in between")
    dtype = _common_type(params0, problem)
    record = tuple(range(epochs + 1)) if record is None else check_record(record, epochs)
    e = jnp.asarray(1 / alpha, dtype)
    programs = _programs(difference, problem.loss, momentum, dtype)

    state = _start(programs, params0, problem, record, epochs, len(held_out[0]))
    saved = None if restore is None else restore(state)
    centred, epoch, history = state if saved is None else jax.tree.map(_owned, saved)

    def look(done: int) -> None:
        if done not in record:
            return
        row = record.index(done)
        train, test = (
            _evaluate(programs.measure, params0, centred.u, *data, e, batch)
            for data in ((problem.x, problem.y), held_out)
        )
        for name, *values in zip(History._fields[1:5], train[0], test[0], strict=True):
            getattr(history, name)[row] = values
        history.stability[row], history.outputs[:] = test[1:]

    if epoch == 0:
        look(0)
    for now in range(int(epoch), epochs):
        key_order, key_augment = jax.random.split(jax.random.fold_in(key, now))
        order = jax.random.permutation(key_order, n)
        centred, losses = _with_rate(centred, rate(now)), []
        for i, chosen in enumerate(order[first : first + batch] for first in range(0, n, batch)):
            x = examples.take(problem.x, chosen)
            if augment is not None:
                x = augment(jax.random.fold_in(key_augment, i), x)
            centred, loss = programs.training.advance(centred, params0, x, examples.take(problem.y, chosen), e)
            losses.append(loss)
        history.batch_loss[now] = np.mean(jax.device_get(losses), dtype=float)
        look(now + 1)
        if keep is not None:
            keep(EpochState(centred, np.asarray(now + 1), history))
    return EpochState(centred, np.asarray(epochs), history)


@cache
def _programs(difference: Difference, loss: Loss, momentum: float, dtype: jnp.dtype) -> _Programs:
    """The compiled step and evaluation, the same for every alpha, rate and set of weights."""
    sgd = optax.inject_hyperparams(optax.sgd, static_args=("momentum",), hyperparam_dtype=dtype)
    optimizer = sgd(learning_rate=0.0, momentum=momentum)

    @jax.jit
    def measure(params0: PyTree, u: PyTree, x: Array, y: Array, e: Array) -> tuple[Array, list[Array], Array]:
        with jax.default_matmul_precision("highest"):
            outputs, kept = difference(params0, u, x, e)
            frozen, _ = difference(params0, u, x, e, frozen=True)
        labels = y if jnp.issubdtype(y.dtype, jnp.integer) else jnp.argmax(y, axis=-1)
        values = [
            value
            for f in (outputs, frozen)
            for value in (loss(f, y), jnp.mean(jnp.argmax(f, axis=-1) == labels, dtype=f.dtype))
        ]
        return jnp.stack(values), [jnp.mean(leaf, dtype=outputs.dtype) for leaf in jax.tree.leaves(kept)], outputs

    return _Programs(centred_training(difference, loss=loss, optimizer=optimizer), measure)


def _start(
    programs: _Programs, params0: PyTree, problem: Problem, record: tuple[int, ...], epochs: int, held_out: int
) -> EpochState:
    centred = programs.training.start(params0)
    e = jnp.zeros((), problem.x.dtype)
    _, kept, outputs = jax.eval_shape(programs.measure, params0, centred.u, problem.x[:1], problem.y[:1], e)

    def unknown(*shape: int) -> np.ndarray:
        return np.full(shape, np.nan)

    rows = len(record)
    history = History(
        batch_loss=unknown(epochs),
        loss=unknown(rows, 2),
        accuracy=unknown(rows, 2),
        frozen_loss=unknown(rows, 2),
        frozen_accuracy=unknown(rows, 2),
        stability=unknown(rows, len(kept)),
        outputs=unknown(held_out, *outputs.shape[1:]),
    )
    return EpochState(centred, np.asarray(0), history)


def _owned(leaf: Array | np.ndarray) -> Array | np.ndarray:
    # Host arrays are written to and device arrays given away in the run: neither may be the caller's.
    return np.array(leaf) if isinstance(leaf, np.ndarray) else jnp.array(leaf)


def _evaluate(
    measure: Callable[..., tuple[Array, list[Array], Array]],
    params0: PyTree,
    u: PyTree,
    x: Array,
    y: Array,
    e: Array,
    batch: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means over the data of losses and accuracies and of the gates kept, and the outputs, `batch` examples a time."""
    firsts = range(0, len(x), batch)
    found = jax.device_get([measure(params0, u, x[i : i + batch], y[i : i + batch], e) for i in firsts])
    weights = np.array([min(batch, len(x) - i) for i in firsts]) / len(x)
    values, kept, outputs = zip(*found, strict=True)
    return weights @ np.asarray(values, float), weights @ np.asarray(kept, float), np.concatenate(outputs)


def _with_rate(centred: Centred, rate: float) -> Centred:
    hyperparams = centred.optimizer.hyperparams
    rate_array = jnp.asarray(rate, hyperparams["learning_rate"].dtype)
    return centred._replace(
        optimizer=centred.optimizer._replace(hyperparams=hyperparams | {"learning_rate": rate_array})
    )


def _common_type(params0: PyTree, problem: Problem) -> jnp.dtype:
    """The one float type of weights and images; ValueError where they differ or are narrower than float32."""
    found = {jnp.asarray(leaf).dtype for leaf in (*jax.tree.leaves(params0), problem.x, problem.x_test)}
    targets = {y.dtype for y in (problem.y, problem.y_test) if y is not None and jnp.issubdtype(y.dtype, jnp.floating)}
    names = sorted(map(str, found | targets))
    if len(names) > 1 or names[0] not in ("float32", "float64"):
        raise ValueError(
            f"training in epochs needs weights, images and targets of one type, float32 or float64, got "
            f"{' and '.join(names)}: cast them"
        )
    return jnp.dtype(names[0])
