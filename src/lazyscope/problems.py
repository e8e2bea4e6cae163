"""What is learnt: data, a loss R, and the papers' teacher-student problem.

Losses are means over examples: R(f) = (1/n) Σ_i l(f(x_i), y_i), in the function space of `docs/notation.md`, where
‖f‖² = (1/n) Σ_i Σ_c f_c(x_i)². The square loss is ½‖f − y‖². Losses are never divided by alpha².
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from lazyscope import examples
from lazyscope.door import entrance
from lazyscope.examples import Batch
from lazyscope.models import Apply, two_layer

Loss = Callable[[Array, Any], Array]


def square_loss(outputs: Float[Array, "n *out"], y: Array) -> Float[Array, ""]:
    """½‖f − y‖² = (1/2n) Σ_i Σ_c (f_c(x_i) − y_ic)². Raises ValueError for labels or for targets of another shape."""
    if not jnp.issubdtype(y.dtype, jnp.floating):
        raise ValueError(
            f"square_loss needs real targets, got {y.dtype} labels of shape {tuple(y.shape)}: "
            "one-hot encode them, or use loss=cross_entropy"
        )
    if outputs.shape != y.shape:
        raise ValueError(
            f"square_loss needs targets of the outputs' shape {tuple(outputs.shape)}, got {tuple(y.shape)}: "
            "reshape y (n outputs of shape () go with y of shape (n,))"
        )
    return 0.5 * jnp.sum((outputs - y) ** 2) / outputs.shape[0]


def cross_entropy(outputs: Float[Array, "n k"], y: Array) -> Float[Array, ""]:
    """(1/n) Σ_i −log softmax(f(x_i))_{y_i}, integer labels in [0, k).

    Raises ValueError for labels that are no integers, of another shape, or out of range, as far as there are values to
    look at: inside a transformation of JAX there are none, and the loss is NaN.
    """
    if not jnp.issubdtype(y.dtype, jnp.integer) or y.shape != outputs.shape[:1]:
        raise ValueError(
            f"cross_entropy needs integer labels of shape {tuple(outputs.shape[:1])}, "
            f"got {y.dtype} of shape {tuple(y.shape)}: pass class indices"
        )
    check_range("cross_entropy", y, outputs.shape[1])
    column = jnp.where(y < 0, outputs.shape[1], y)  # NaN, as for labels beyond the last column
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(outputs), column[:, None], axis=1))


IGNORED = -100
"""The label of a token that does not count, as in PyTorch."""


def token_cross_entropy(outputs: Array, y: Array) -> Float[Array, ""]:
    """Mean of −log softmax(f(x_i)_t)_{y_it} over the tokens that count: those whose label is not −100.

    Outputs are (n, t, v), labels (n, t) integers in [0, v). Raises ValueError as `cross_entropy` does, and where no
    token counts.
    """
    if not jnp.issubdtype(y.dtype, jnp.integer) or outputs.ndim != 3 or y.shape != outputs.shape[:2]:
        raise ValueError(
            f"token_cross_entropy needs outputs (n, t, v) and integer labels (n, t), got outputs of shape "
            f"{tuple(outputs.shape)} and {y.dtype} of shape {tuple(y.shape)}: pass one token index a position"
        )
    check_range("token_cross_entropy", y, outputs.shape[2], IGNORED)
    counted = y != IGNORED
    picked = jnp.take_along_axis(jax.nn.log_softmax(outputs), jnp.where(counted, y, 0)[..., None], axis=2)[..., 0]
    return -jnp.sum(jnp.where(counted, picked, 0)) / jnp.sum(counted).astype(outputs.dtype)


def check_loss(loss: Loss, outputs: Any, y: Batch) -> None:
    """ValueError where the loss on outputs of that shape is not one real number."""
    found = jax.eval_shape(loss, jax.ShapeDtypeStruct(outputs.shape, outputs.dtype), y)
    if getattr(found, "shape", None) != () or not jnp.issubdtype(found.dtype, jnp.floating):
        got = f"{found.dtype} of shape {tuple(found.shape)}" if hasattr(found, "shape") else type(found).__name__
        name = getattr(loss, "__name__", type(loss).__name__)
        raise ValueError(f"a loss must return one real number, got {got} from {name}: take the mean over examples")


def check_range(name: str, y: Array, classes: int, ignored: int | None = None) -> None:
    """ValueError for labels that are no column of the outputs, naming them; `ignored` is no label but stands for none.

    Inside a transformation of JAX there are no values to look at.
    """
    try:
        labels = np.asarray(y)
    except jax.errors.TracerArrayConversionError:
        return
    wrong = np.unique(labels[((labels < 0) | (labels >= classes)) & (labels != ignored)]).tolist()
    if wrong:
        listed = ", ".join(map(str, wrong[:6])) + (" ..." if len(wrong) > 6 else "")
        raise ValueError(
            f"{name} needs labels from 0 to {classes - 1}, one a column of the outputs, got {listed}: renumber them"
        )
    if ignored is not None and np.all(labels == ignored):
        raise ValueError(f"{name} needs a token that counts, got labels that are all {ignored}: drop that batch")


@dataclass(frozen=True)
class Problem:
    """Training data, optional held-out data and the loss.

    `x` is `(n, ...)`, or a pytree of such arrays, `y` is whatever `loss` takes. Lists of numbers, NumPy arrays, data
    frames and tensors become arrays of JAX here, copies of their own (`lazyscope.examples`).

    Raises ValueError when the numbers of examples disagree, when only one of `x_test`, `y_test` is given, when their
    examples have another shape than those of `x` and `y`, when there is no example, or when a value is not finite.
    """

    x: Batch
    y: Batch
    x_test: Batch | None = None
    y_test: Batch | None = None
    loss: Loss = square_loss

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise ValueError(
                f"loss must be a function of (outputs, y), got {self.loss!r}: pass ls.square_loss, ls.cross_entropy or "
                "your own"
            )
        if (self.x_test is None) != (self.y_test is None):
            raise ValueError("held-out data needs both x_test and y_test, got one of them: pass both or neither")
        for name in ("x", "y", "x_test", "y_test"):
            if (value := getattr(self, name)) is not None:
                batch = examples.as_batch(name, value)
                for leaf in jax.tree.leaves(batch):
                    _check_finite(name, leaf)
                object.__setattr__(self, name, batch)
        for suffix in ("", "_test"):
            x, y = getattr(self, f"x{suffix}"), getattr(self, f"y{suffix}")
            if x is not None and (examples.count(x) != examples.count(y) or examples.count(x) == 0):
                raise ValueError(
                    f"x{suffix} and y{suffix} need the same number of examples, at least one, got shapes "
                    f"{_shapes(x)} and {_shapes(y)}: the first axis counts examples"
                )
        for name, value, test in (("x", self.x, self.x_test), ("y", self.y, self.y_test)):
            if test is not None and examples.shapes(test) != examples.shapes(value):
                raise ValueError(
                    f"{name}_test needs examples of {name}'s shape {_shapes(value, 1)}, "
                    f"got {_shapes(test, 1)}: the first axis counts examples"
                )

    @property
    def num_examples(self) -> int:
        """n, the number of training examples."""
        return examples.count(self.x)

    def check_labels(self, outputs: Any) -> None:
        """ValueError where class labels, held-out ones included, are no columns of outputs of that shape."""
        if self.loss not in (cross_entropy, token_cross_entropy):
            return
        ignored = IGNORED if self.loss is token_cross_entropy else None
        for y in (self.y, self.y_test):
            # What is no label, or has another shape, the loss itself refuses.
            if isinstance(y, jax.Array) and jnp.issubdtype(y.dtype, jnp.integer) and y.ndim == len(outputs.shape) - 1:
                check_range(self.loss.__name__, y, outputs.shape[-1], ignored)


@dataclass(frozen=True)
class Case:
    """A model at its initial parameters with its problem: what `diagnose` and the command line take.

    `train(apply, params0) -> params`, or with a third argument for the `Scale`, is the user's own trainer;
    `gates(params, x)` the activation pattern.
    """

    apply: Apply
    params0: PyTree
    problem: Problem
    train: Callable[..., PyTree] | None = None
    gates: Callable[[PyTree, Array], Any] | None = None
    alpha: float = 1.0


@entrance
def teacher_student(
    key: Key[Array, ""], *, n: int, d: int, n_test: int, teacher_width: int = 3, target_scale: float = 1.0
) -> Problem:
    """The papers' regression problem (Chizat et al. 2019, §3.1; note §4.1).

    Inputs uniform on the unit sphere of R^d. The teacher is a two-layer ReLU net of `teacher_width` units with
    ‖b_i‖ = 1 and a_i = ±1; its outputs, times `target_scale`, are the targets. Square loss.
    """
    key_x, key_test, key_b, key_a = jax.random.split(key, 4)

    def sphere(key: Key[Array, ""], rows: int) -> Array:
        v = jax.random.normal(key, (rows, d))
        return v / jnp.linalg.norm(v, axis=1, keepdims=True)

    teacher = {"a": jax.random.rademacher(key_a, (teacher_width,), float), "b": sphere(key_b, teacher_width)}
    apply = two_layer(teacher_width, d).apply
    x, x_test = sphere(key_x, n), sphere(key_test, n_test)
    return Problem(x, target_scale * apply(teacher, x), x_test, target_scale * apply(teacher, x_test))


@entrance
def least_squares_test_loss(
    features: Float[Array, "n k"], features_test: Float[Array, "n_test k"], problem: Problem
) -> Float[Array, ""]:
    """Held-out square loss of the minimum-norm least-squares fit of `problem.y` on fixed features.

    A baseline: with features (x, 1) ordinary linear regression, with φ(b_i·x) the random-features regression on the
    initial hidden layer. Directions below eps·max(n, k) of the largest singular value are left out.
    """
    if problem.y_test is None:
        raise ValueError("least_squares_test_loss needs held-out data: build the Problem with x_test and y_test")
    coefficients = jnp.linalg.lstsq(features, problem.y)[0]
    return square_loss(features_test @ coefficients, problem.y_test)


def _shapes(x: Batch, start: int = 0) -> str:
    found = [str(tuple(leaf.shape[start:])) for leaf in jax.tree.leaves(x)]
    return found[0] if len(found) == 1 else f"[{', '.join(found)}]"


def _check_finite(name: str, value: Array) -> None:
    if not jnp.issubdtype(jax.dtypes.result_type(value), jnp.floating):
        return
    try:
        bad = int(np.sum(~np.isfinite(np.asarray(value))))
    except jax.errors.TracerArrayConversionError:
        return  # inside a transformation there are no values to look at; the run's status catches a NaN later
    if bad:
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite values: clean or drop those examples")
