"""A graph as it stands: operations whole, writes in place, float64 where a type is left open; and convolutions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyscope.adapters.torch.graph import run
from lazyscope.adapters.torch.operations import convolutions
from lazyscope.adapters.torch.tracing import export, trace

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning:torch")]
torch = pytest.importorskip("torch")


class Of(torch.nn.Module):
    """A module from a function of its parameter and its input."""

    def __init__(self, function):
        super().__init__()
        self.function, self.p = function, torch.nn.Parameter(torch.tensor([0.7, -1.1, 0.4], dtype=torch.float64))

    def forward(self, x):
        return self.function(self.p, x)


def written_and_read_by_its_first_name(p, x):
    h = p * x
    h.add_(x).relu_()
    return h * p


def written_after_it_was_used(p, x):
    h = p * x
    before = h.exp()
    h.mul_(2.0)
    return before + h


def written_below_a_view(p, x):
    h = p * x
    view = h.view(-1)
    h.add_(1.0)
    return (view.reshape(h.shape) * h).transpose(0, 1).contiguous().transpose(0, 1)


def written_through_a_view(p, x):
    h = p * x
    h[:, 1].mul_(3.0)
    return h * p


def without_gradient(p, x):
    with torch.no_grad():
        scale = (p * x).relu_()
    return p * x * scale


FUNCTIONS = {
    written_and_read_by_its_first_name: True,
    written_after_it_was_used: True,
    written_below_a_view: False,
    written_through_a_view: False,
    without_gradient: True,
}


@pytest.mark.parametrize(("function", "as_it_stands"), FUNCTIONS.items(), ids=lambda v: getattr(v, "__name__", ""))
def test_what_is_written_in_place_is_seen_by_all_that_see_it(function, as_it_stands, monkeypatch):
    module, x = Of(function), torch.tensor([[1.5, 2.0, -3.0]], dtype=torch.float64)
    trained = dict(module.named_parameters())
    graph = export(module, "Of", trained, (x,))
    if as_it_stands:  # then PyTorch has nothing to decompose
        monkeypatch.setattr(type(graph.exported), "run_decompositions", None)
    program = trace(graph, "Of", module, trained)

    def outputs(p):
        values: dict[Any, Any] = dict.fromkeys(program.leaves, p) | {program.sources[0]: jnp.asarray(x.numpy())}
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return run(program, values)

    p = jnp.asarray(module.p.detach().numpy())
    expected = module(x)
    (slope,) = torch.autograd.grad(expected.sum(), module.p)
    np.testing.assert_allclose(outputs(p), expected.detach(), rtol=1e-14)
    np.testing.assert_allclose(jax.grad(lambda q: jnp.sum(outputs(q)))(p), slope, rtol=1e-14)


CONVOLUTIONS = {
    "plain": ((1, 1, 1, 0, 0), 1),
    "strided, padded": ((3, 1, 1, 2, 1), 2),
    "dilated": ((2, 2, 1, 1, 1), 1),
    "transposed, cut": ((1, 1, 3, -1, 1), 2),
    "one place": ((2, 1, 1, -2, -3), 1),
}


@pytest.mark.parametrize("largest", [0, 2**20])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_by_products_is_that_of_jax(name, largest, monkeypatch):
    monkeypatch.setattr(convolutions, "_LARGEST", largest)
    entries, groups = CONVOLUTIONS[name]
    windows = [convolutions._Window(*entries), convolutions._Window(1, 1, 1, 1, 0)]
    random = np.random.default_rng(0)
    x, w = (jnp.asarray(random.standard_normal(s)) for s in ((2, 4, 8, 5), (6, 4 // groups, 3, 2)))
    found, expected = (f(x, w, windows, groups) for f in (convolutions._by_products, convolutions._convolved))
    np.testing.assert_allclose(found, expected, atol=1e-13)
