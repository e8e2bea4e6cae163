"""The sample inputs that PyTorch ships for its operators, run by PyTorch and by the operation rules.

`python tests/samples.py [OPERATOR ...]` examines those that are not in the record yet, or those named, and adds them to
the record that `test_torch_samples` holds them to; then it writes `docs/operators.md`.
"""

import json
import sys
import warnings
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from operators_page import PAGE, page
from torch.testing._internal.common_methods_invocations import op_db  # pyright: ignore[reportMissingImports]
from torch.utils import _pytree as pytree  # pyright: ignore[reportMissingImports]

from lazyscope.adapters.torch.graph import run
from lazyscope.adapters.torch.operations import KINDS as KINDS_OF_OPERATIONS
from lazyscope.adapters.torch.tracing import export, first_line, trace

RECORD = Path(__file__).parent / "samples.json"
COUNT, LARGEST = 4, 2000  # samples an operator, numbers in a sample
KINDS = (torch.float64, torch.int64, torch.complex128)
OPERATORS = {f"{op.name}.{op.variant_test_name}".rstrip("."): op for op in op_db}
# Relative errors of values, first and second derivatives, and those of operators with fewer digits.
TOLERANCE, DIFFERENCES = (1e-9, 1e-8, 1e-7), 1e-5
FEWER = {
    # JAX's zeta function has 8 digits left of 0.
    **{f"polygamma.polygamma_n_{n}": 1e-6 for n in range(5)},
    "special.polygamma.special_polygamma_n_0": 1e-6,
    "nn.functional.hardsigmoid": 1e-7,  # PyTorch's sixth is one of float32
}
UNDEFINED = {
    **dict.fromkeys(("empty", "empty_like", "empty_permuted", "empty_strided"), "uninitialised numbers"),
    **dict.fromkeys(("new_empty", "new_empty_strided"), "uninitialised numbers"),
    **{f"nn.functional.max_unpool{n}d": "writes twice to one place" for n in (1, 2, 3)},
}


@dataclass(frozen=True)
class Row:
    """How many samples of an operator were run, by which rules; errors of value and derivatives; or why it was not."""

    samples: int
    operations: list[str]
    errors: list[float]
    tolerances: list[float]
    refused: str = ""

    @property
    def right(self) -> bool:
        return all(error <= most for error, most in zip(self.errors, self.tolerances, strict=True))


class Sampled(torch.nn.Module):
    """Calls of one operator side by side: every entry of every result, as one row.

    Tensors with a derivative are parameters, others buffers; both are shifted by the input, which is 0, so that `vmap`
    sees arrays that differ between examples everywhere.
    """

    def __init__(self, operator, samples):
        super().__init__()
        self.operator, self.calls, self.tensors = operator, [], []
        for sample in samples:
            leaves, structure = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
            self.calls.append(([self._kept(leaf) for leaf in leaves], structure, sample.output_process_fn_grad))

    def _kept(self, leaf):
        if not isinstance(leaf, torch.Tensor):
            return leaf, None
        name = f"t{len(self.tensors)}"
        self.tensors.append(name)
        if leaf.requires_grad:
            self.register_parameter(name, torch.nn.Parameter(leaf.detach().clone()))
        else:
            self.register_buffer(name, leaf.detach().clone())
        return None, name

    def forward(self, x):
        return torch.cat([part for call in self.calls for part in self._called(call, x.sum())])[None]

    def _called(self, call, zero):
        values, structure, what_is_defined = call
        leaves = [value if name is None else shifted(getattr(self, name), zero) for value, name in values]
        first, args, kwargs = pytree.tree_unflatten(leaves, structure)
        # Symmetric, triangular, ... as the operator needs it.
        results = self.operator.gradcheck_wrapper(self.operator.op, first, *args, **kwargs)
        results = pytree.tree_leaves(what_is_defined(results))
        return [flat(result) for result in results if isinstance(result, torch.Tensor)]


def shifted(tensor, zero):
    return tensor ^ (zero != 0) if tensor.dtype == torch.bool else tensor + zero.to(tensor.dtype)


def flat(result):
    result = torch.view_as_real(result.resolve_conj()) if result.is_complex() else result
    return result.to(torch.float64).flatten()


def samples(operator):
    """Small samples of an operator from all over its list."""
    torch.manual_seed(0)
    dtype = kind(operator)
    every = operator.sample_inputs("cpu", dtype, requires_grad=operator.supports_autograd and dtype is torch.float64)
    every = list(islice(every, 200))
    found = [sample for sample in every if size(sample) <= LARGEST] or sorted(every, key=size)[:1]
    places = np.unique(np.linspace(0, len(found) - 1, min(COUNT, len(found))).astype(int))
    return [found[i] for i in places]


def kind(operator):
    """float64, or the type of numbers of an operator that has none of it; None for none of ours."""
    return next((dtype for dtype in KINDS if dtype in operator.supported_dtypes("cpu")), None)


def size(sample):
    leaves = pytree.tree_leaves((sample.input, sample.args, sample.kwargs))
    return sum(leaf.numel() for leaf in leaves if isinstance(leaf, torch.Tensor))


def examined(operator, whole=False):
    """The row of an operator: PyTorch and the rules side by side; of operations that are decomposed, or `whole`."""
    name = f"{operator.name}.{operator.variant_test_name}".rstrip(".")
    if name in UNDEFINED or kind(operator) is None:
        return Row(0, [], [], [], UNDEFINED.get(name, "no float64, integers or complex128 on a CPU"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            chosen = samples(operator)
        except (RuntimeError, AssertionError, TypeError) as error:
            return Row(0, [], [], [], first_line(error))
        chosen = [sample for sample in chosen if stands(operator, sample)] if whole else chosen
        every = side_by_side(name, operator, chosen, whole)
        if not every.refused or len(chosen) == 1:
            return every
        # One of them may be what is refused, say statistics over the batch.
        alone = [side_by_side(name, operator, [sample], whole) for sample in chosen]
        kept = [sample for sample, row in zip(chosen, alone, strict=True) if not row.refused]
        return side_by_side(name, operator, kept, whole) if kept else every


def stands(operator, sample):
    """Whether the graph of a call is read as it stands, with an operation that PyTorch would decompose."""
    module, x = Sampled(operator, [sample]), torch.zeros(1, 1, dtype=torch.float64)
    params = dict(module.named_parameters())
    try:
        program = trace(export(module, "sample", params, (x,)), "sample", module, params)
    except ValueError:
        return False
    return any(step.operation in KINDS_OF_OPERATIONS["composites"] for step in program.steps)


def side_by_side(name, operator, chosen, whole):
    random = np.random.default_rng(0)
    try:
        module, x = Sampled(operator, chosen), torch.zeros(1, 1, dtype=torch.float64)
        params = dict(module.named_parameters())
        directions = {key: torch.tensor(random.standard_normal(p.shape)) for key, p in params.items()}
        cotangent = torch.tensor(random.standard_normal(module(x).shape))
        expected, by_differences = by_pytorch(module, x, params, cotangent, directions)
        graph = export(module, "sample", params, (x,))
        program = trace(graph, "sample", module, params, whole=whole)
    except (ValueError, RuntimeError, AssertionError, TypeError) as error:
        return Row(0, [], [], [], first_line(error))
    found = by_jax(program, params, cotangent, directions)
    errors = [apart(a, b, k == 0) for k, (a, b) in enumerate(zip(found[: len(expected)], expected, strict=True))]
    tolerances = [max(most, FEWER.get(name, 0)) for most in TOLERANCE]
    tolerances[2] = DIFFERENCES if by_differences else tolerances[2]
    return Row(len(chosen), sorted({s.operation for s in program.steps}), errors, tolerances[: len(errors)])


def by_pytorch(module, x, params, cotangent, directions):
    """Value, gradient of c·value and its change along the directions; differences where PyTorch has no second one."""
    value = module(x)
    if not value.requires_grad:
        return [value.detach().numpy()[0]], False

    def gradient(p, again=False):
        outputs = torch.func.functional_call(module, p, (x,))
        found = torch.autograd.grad(outputs, list(p.values()), cotangent, allow_unused=True, create_graph=again)
        return [torch.zeros_like(v) if g is None else g for v, g in zip(p.values(), found, strict=True)]

    def moved(step):
        return {key: (p.detach() + step * directions[key]).requires_grad_() for key, p in params.items()}

    first = gradient(params)
    try:
        pairs = zip(gradient(params, True), directions.values(), strict=True)
        slope = torch.stack([(g * v).sum() for g, v in pairs]).sum()
        if slope.requires_grad:
            change = torch.autograd.grad(slope, list(params.values()), allow_unused=True)
            second = [torch.zeros_like(p) if g is None else g for p, g in zip(params.values(), change, strict=True)]
        else:
            second = [torch.zeros_like(p) for p in params.values()]
        by_differences = False
    except RuntimeError:
        step, by_differences = 1e-6, True
        second = [(a - b) / (2 * step) for a, b in zip(gradient(moved(step)), gradient(moved(-step)), strict=True)]
    return [value.detach().numpy()[0], joined(first), joined(second)], by_differences


def by_jax(program, params, cotangent, directions):
    weights = {key: jnp.asarray(p.detach().numpy()) for key, p in params.items()}
    v = {key: jnp.asarray(d.numpy()) for key, d in directions.items()}
    c = jnp.asarray(cotangent.numpy()[0])

    def value(p):
        leaves = {key: p[leaf] for key, leaf in program.leaves.items()}

        def one(x):
            inputs = {source: x[None] for source in program.sources if source is not None}
            return run(program, leaves | inputs)[0]

        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return jax.vmap(one, axis_size=2)(jnp.zeros((2, 1)))[1]

    def everything(p):
        return value(p), *(jax.jvp(jax.grad(lambda q: jnp.vdot(c, value(q))), (p,), (v,)) if p else ())

    # The lowest level: nearly all time is compilation.
    found = jax.jit(everything, compiler_options={"xla_backend_optimization_level": 0})(weights)
    first, *derivatives = jax.device_get(found)
    return [first, *(joined([tree[key] for key in params]) for tree in derivatives)][: 3 if params else 1]


def joined(leaves):
    arrays = (leaf.numpy(force=True) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves)
    return np.concatenate([np.zeros(0), *(array.ravel() for array in arrays)])


def apart(found, expected, is_value):
    """Relative to what is finite by PyTorch; values that are not finite must be the same."""
    known = np.isfinite(expected)
    if found.shape != expected.shape or (
        is_value and not np.array_equal(found[~known], expected[~known], equal_nan=True)
    ):
        return np.inf
    return float(np.linalg.norm((found - expected)[known]) / max(np.linalg.norm(expected[known]), 1e-3))


def recorded(row):
    """What the record keeps of a row: errors differ from machine to machine."""
    return {"samples": row.samples, "operations": row.operations, "refused": row.refused}


def written(record):
    """The record, a line an operator."""
    lines = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(record.items())]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    for name in sys.argv[1:] or [name for name in OPERATORS if name not in record]:
        try:
            row = examined(OPERATORS[name])
        except Exception as error:
            print(name, "WRONG", first_line(error), flush=True)
            continue
        print(name, row.samples, row.errors, row.refused, "" if row.right else "WRONG", flush=True)
        if row.right:
            record[name] = recorded(row)
            written(record)
    PAGE.write_text(page(record, OPERATORS))
