import fresh
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyscope import Problem, cross_entropy, square_loss, teacher_student
from lazyscope.problems import least_squares_test_loss

X = jnp.arange(12.0).reshape(6, 2)
Y = jnp.arange(6.0)


def test_square_loss_is_half_the_squared_function_space_distance():
    outputs, y = jnp.array([[1.0, 2.0], [3.0, 5.0]]), jnp.array([[0.0, 2.0], [1.0, 1.0]])
    assert square_loss(outputs, y) == 0.5 * (1 + 4 + 16) / 2


def test_cross_entropy_of_equal_logits_is_log_k():
    loss = cross_entropy(jnp.zeros((4, 3)), jnp.array([0, 1, 2, 0]))
    np.testing.assert_allclose(loss, np.log(3), rtol=1e-15)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_column_is_refused_and_nan_inside_a_transformation(label):
    with pytest.raises(ValueError, match=f"labels from 0 to 2, one a column of the outputs, got {label}: renumber"):
        cross_entropy(jnp.zeros((1, 3)), jnp.array([label]))
    assert np.isnan(jax.jit(cross_entropy)(jnp.zeros((1, 3)), jnp.array([label])))


def test_labels_for_the_square_loss_are_refused():
    with pytest.raises(ValueError, match="one-hot encode them"):
        square_loss(jnp.ones(3), jnp.array([0, 1, 2]))


def test_targets_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"targets of the outputs' shape \(3,\), got \(3, 1\)"):
        square_loss(jnp.ones(3), jnp.ones((3, 1)))


def test_real_targets_for_cross_entropy_are_refused():
    with pytest.raises(ValueError, match="pass class indices"):
        cross_entropy(jnp.ones((3, 2)), jnp.ones(3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, Y[:5]), r"same number of examples, at least one, got shapes \(6, 2\) and \(5,\)"),
        ((X[:0], Y[:0]), "at least one"),
        ((X.at[1, 1].set(jnp.nan), Y), "x must be finite, got 1 NaN or infinite values"),
        ((X, Y.at[2].set(jnp.inf)), "y must be finite, got 1"),
        ((X, Y, X), "both x_test and y_test"),
        ((X, Y, X, Y[:3]), "x_test and y_test need the same number"),
        ((X, Y, X[:, :1], Y), r"x_test needs examples of x's shape \(2,\), got \(1,\)"),
        ((X, Y, X, Y[:, None]), r"y_test needs examples of y's shape \(\), got \(1,\)"),
    ],
)
def test_wrong_data_is_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        Problem(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_loss_that_is_no_function_is_refused(tmp_path):
    # Not here, where types are checked before.
    script = "import jax.numpy as jnp, lazyscope as ls; ls.Problem(jnp.ones((2, 1)), jnp.ones(2), loss='mse')"
    said = fresh.python("-c", script, cwd=tmp_path)
    assert (
        said.stderr.strip()
        .splitlines()[-1]
        .startswith("ValueError: loss must be a function of (outputs, y), got 'mse': pass ls.square_loss")
    )


def test_teacher_student_lies_on_the_sphere_and_is_realised_by_three_units():
    problem = teacher_student(jax.random.key(0), n=400, d=3, n_test=50)
    np.testing.assert_allclose(jnp.linalg.norm(problem.x, axis=1), 1, rtol=1e-14)
    assert problem.x_test is not None
    assert problem.x_test.shape == (50, 3)
    # Each teacher unit is 1-homogeneous in x and bounded by |x| = 1.
    assert float(jnp.abs(problem.y).max()) <= 3


def test_target_scale_multiplies_the_targets():
    one, hundred = (teacher_student(jax.random.key(0), n=9, d=3, n_test=9, target_scale=s) for s in (1.0, 100.0))
    np.testing.assert_allclose(hundred.y, 100 * one.y, rtol=1e-14)


def test_least_squares_recovers_a_linear_target():
    x = jax.random.normal(jax.random.key(0), (30, 4))
    w = jnp.array([1.0, -2.0, 0.5, 3.0])
    problem = Problem(x[:20], x[:20] @ w, x[20:], x[20:] @ w)
    assert float(least_squares_test_loss(problem.x, x[20:], problem)) < 1e-28
