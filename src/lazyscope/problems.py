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

Loss = Callable[[Array, Array], Array]


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
    """(1/n) Σ_i −log softmax(f(x_i))_{y_i}, integer labels. Raises ValueError when the labels are not integers."""
    if not jnp.issubdtype(y.dtype, jnp.integer) or y.shape != outputs.shape[:1]:
        raise ValueError(
            f"cross_entropy needs integer labels of shape {tuple(outputs.shape[:1])}, "
            f"got {y.dtype} of shape {tuple(y.shape)}: pass class indices"
        )
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(outputs), y[:, None], axis=1))


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


@dataclass(frozen=True)
class Case:
    """A model at its initial parameters with its problem: what `diagnose` and the command line take.

    `train(apply, params0) -> params` is the user's own trainer; `gates(params, x)` the activation pattern.
    """

    apply: Apply
    params0: PyTree
    problem: Problem
    train: Callable[[Apply, PyTree], PyTree] | None = None
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
