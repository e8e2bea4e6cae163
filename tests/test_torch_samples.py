"""Every operation rule against the sample inputs that PyTorch ships for its operators."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")]
torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")

import operators_page  # noqa: E402
import samples  # noqa: E402

from lazyscope.adapters.torch.graph import rule  # noqa: E402
from lazyscope.adapters.torch.operations import KINDS  # noqa: E402

RECORD = json.loads(samples.RECORD.read_text())


def for_every_operation():
    """Operators whose samples run every operation that any runs; `python tests/samples.py` runs all of them."""
    left, chosen = {operation for row in RECORD.values() for operation in row["operations"]}, []
    while left:
        best = max(RECORD, key=lambda name: len(left & set(RECORD[name]["operations"])))
        chosen.append(best)
        left -= set(RECORD[best]["operations"])
    return sorted(chosen)


@pytest.mark.parametrize("name", for_every_operation())
def test_samples_of_an_operator_give_the_values_and_derivatives_of_pytorch(name):
    row = samples.examined(samples.OPERATORS[name])
    assert row.right, row
    found, expected = samples.recorded(row), RECORD[name]
    assert bool(found.pop("refused")) == bool(expected["refused"]), row.refused
    assert found.items() <= expected.items()


def test_every_operator_is_recorded_and_every_rule_is_run_by_samples_or_elsewhere():
    assert set(samples.OPERATORS) == set(RECORD)
    seen = {operation for row in RECORD.values() for operation in row["operations"]}
    seen |= {operation.split(".")[0] for operation in seen}
    own = {"composites"}  # below
    rules = {name for kind in KINDS if kind not in own for name in KINDS[kind] if not name.endswith(".squared")}
    assert rules - seen == set(operators_page.ELSEWHERE)


# Operators whose samples run what is read whole.
READ_WHOLE = (
    *(
        "__rsub__",
        "addcmul",
        "arange",
        "baddbmm",
        "chunk",
        "expand_as",
        "eye",
        "flatten",
        "log_softmax",
        "mT",
        "matmul",
    ),
    *("max.binary", "min.binary", "movedim", "mv", "narrow", "new_full", "new_ones", "new_zeros", "ones", "ones_like"),
    *("outer", "real", "repeat_interleave", "reshape", "roll", "softmax.with_dtype", "split", "square", "squeeze"),
    *("stack", "t", "to", "transpose", "tril", "triu", "unbind", "unflatten", "var", "view_as", "zeros", "zeros_like"),
    *(
        f"nn.functional.{name}"
        for name in ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "batch_norm", "conv1d", "conv2d")
    ),
    *(
        f"nn.functional.{name}"
        for name in ("conv3d", "glu", "group_norm", "layer_norm", "linear", "max_pool2d", "relu6")
    ),
    *(f"nn.functional.{name}" for name in ("pad.constant", "rms_norm", "scaled_dot_product_attention", "silu")),
)


@pytest.mark.parametrize("name", READ_WHOLE)
def test_samples_read_as_they_stand_give_the_values_and_derivatives_of_pytorch(name):
    row = samples.examined(samples.OPERATORS[name], whole=True)
    assert row.samples, row
    assert row.right, row


X, W = torch.linspace(-1, 2, 12, dtype=torch.float64), torch.arange(2, 12, dtype=torch.float64).reshape(5, 2)
DIRECT = {
    "_embedding_bag": (W, torch.tensor([0, 4, 4, 1]), torch.tensor([0, 1])),
    "_neg_view": (X,),
    "adaptive_avg_pool1d": (X.reshape(1, 2, 6), [4]),
    "avg_pool1d": (X.reshape(1, 2, 6), [3], [2], [1]),
    "col2im": (X.reshape(1, 4, 3), [4, 2], [2, 2], [1, 1], [0, 0], [1, 1]),
    "fill": (X, 3.0),
    "lift_fresh_copy": (X,),
    "select_scatter": (X.reshape(3, 4), X[:4] ** 2, 0, 1),
    "clamp_max": (X, 1.0),
    "clamp_min": (X, 0.5),
    "contiguous": (X.reshape(3, 4).T,),
    "dropout": (X, 0.5, False),
    "masked_fill.Scalar": (X, X > 0, 3.0),
    "masked_fill.Tensor": (X, X > 0, X[2]),
    "numpy_T": (X.reshape(3, 4),),
    "rsub.Scalar": (X, 2.0, 3),
    "type_as": (X, W),
}


@pytest.mark.parametrize("name", DIRECT)
def test_what_no_sample_runs_is_that_of_pytorch_with_its_derivative(name):
    x, *others = DIRECT[name]
    x = x.clone().requires_grad_()
    packet, _, overload = name.partition(".")
    operation = getattr(torch.ops.aten, packet)
    expected = (getattr(operation, overload) if overload else operation)(x, *others)
    expected = expected[0] if isinstance(expected, tuple) else expected
    c = torch.arange(expected.numel(), dtype=torch.float64).cos().reshape(expected.shape)
    slope = torch.autograd.grad(expected, x, c)[0] if expected.requires_grad else torch.zeros_like(x)

    def function(first):
        rest = (jnp.asarray(v.numpy()) if isinstance(v, torch.Tensor) else v for v in others)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            found = rule(f"{packet}.{overload or 'default'}")(first, *rest)
        return found[0] if isinstance(found, tuple) else found

    found, pull = jax.vjp(function, jnp.asarray(x.detach().numpy()))
    np.testing.assert_allclose(found, expected.detach().resolve_neg(), atol=1e-12)
    np.testing.assert_allclose(pull(jnp.asarray(c.numpy()))[0], slope, atol=1e-12)


def test_every_core_operation_has_a_rule_or_a_reason():
    assert [name for name, why in operators_page.without_rule().items() if not why] == []


def test_the_page_is_current():
    assert operators_page.PAGE.read_text() == operators_page.page(RECORD, samples.OPERATORS)
