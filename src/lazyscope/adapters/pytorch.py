"""PyTorch modules as pure JAX functions, with derivatives of every order.

`torch.export` traces the module to a graph of ATen operations on one example; the graph is then run with the
operations of `aten.py`, batched with `jax.vmap`. So every transformation of JAX applies, PyTorch is not called again,
and examples cannot see each other. At conversion, outputs and derivatives are compared with PyTorch's.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lazyscope.adapters.aten import OPERATIONS
from lazyscope.models import Apply

# Kept whole. Decomposed, the derivative of the activations overflows, and a detached value would be differentiated.
_WHOLE = ("aten.celu.default", "aten.detach.default", "aten.mish.default", "aten.softplus.default")
# Types are cast to what the graph states; where and how an array lies in memory is JAX's business.
_STORAGE = {"device", "dtype", "layout", "memory_format", "non_blocking", "pin_memory"}
_NUM_PROBES = 4


@dataclass(frozen=True)
class _Ref:
    """An argument that is the result of an earlier step."""

    name: str


@dataclass(frozen=True)
class _Step:
    name: str
    operation: str
    args: Any
    kwargs: Any
    dtype: np.dtype | None


@dataclass(frozen=True)
class _Program:
    """A traced module without any of PyTorch: `leaves` maps graph inputs to parameter names."""

    steps: list[_Step]
    leaves: dict[str, str]
    constants: dict[str, np.ndarray]
    source: str
    result: str


def from_torch(module: Any, example: Any) -> tuple[Apply, dict[str, Array]]:
    """A PyTorch `nn.Module` of one tensor; `params0` is a dict keyed by PyTorch's parameter names.

    `example` is a batch (tensor or array, a few rows suffice) of the shape and type that the module will be called
    on. The module is traced in evaluation mode and left as it was found. A parameter under two names keeps its first;
    parameters with `requires_grad=False` and buffers (running statistics) are fixed at their present values.

    Raises ValueError when the module does not run on the example, has uninitialised (lazy) parameters or none to train,
    is neither float32 nor float64, returns something else than one row per example, uses an operation that `aten.py`
    does not list, or when JAX and PyTorch disagree on outputs or derivatives: the examples of a batch must not see
    each other, and `torch.no_grad` inside `forward` is not seen (write `.detach()`).
    """
    import torch  # pyright: ignore[reportMissingImports]

    name = type(module).__name__
    example = example if isinstance(example, torch.Tensor) else torch.tensor(np.asarray(example))
    if example.ndim == 0 or len(example) == 0:
        raise ValueError(f"from_torch needs a batch with at least one example, got shape {tuple(example.shape)}")
    trained = _trained(module, name)
    # Two rows or more, so that an output which loses or mixes the batch axis shows.
    rows = example[np.arange(max(2, min(len(example), _NUM_PROBES))) % len(example)]
    with _evaluation(module):
        outputs, cotangent, gradients = _probe(module, name, trained, rows)
        program = _trace(module, name, trained, rows[:1])
    params0 = {key: jnp.array(parameter.detach().cpu().numpy()) for key, parameter in trained.items()}
    apply = _function(program, params0, np.asarray(rows), outputs)
    _verify(apply, name, params0, np.asarray(rows), outputs, cotangent, gradients)
    return apply, params0


def _function(program: _Program, params0: dict[str, Array], rows: np.ndarray, outputs: np.ndarray) -> Apply:
    shape, dtype = rows.shape[1:], jax.dtypes.canonicalize_dtype(rows.dtype)
    types = {key: leaf.dtype for key, leaf in params0.items()}

    def one(params: Mapping[str, Array], example: Array) -> Array:
        inputs = {key: params[leaf] for key, leaf in program.leaves.items()}
        return _run(program, {**inputs, program.source: example[None]}).reshape(outputs.shape[1:])

    def apply(params: PyTree, x: Array) -> Array:
        if {key: leaf.dtype for key, leaf in params.items()} != types:
            raise ValueError("the parameters must keep the names and types that from_torch gave them: convert again")
        same_kind = x.dtype == dtype or (dtype.kind == "i" and jnp.issubdtype(x.dtype, jnp.integer))
        if x.shape[1:] != shape or not same_kind:
            raise ValueError(
                f"inputs must be {dtype} of shape (n, {', '.join(map(str, shape))}) as in the example of from_torch, "
                f"got {x.dtype} of shape {tuple(x.shape)}: convert them, or the module again"
            )
        # The rules of PyTorch, whatever the caller's; results are cast to the types of the graph.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return jax.vmap(lambda example: one(params, example))(jnp.asarray(x, dtype))

    return apply


def _run(program: _Program, values: dict[str, Any]) -> Array:
    values = {key: jnp.asarray(value) for key, value in program.constants.items()} | values
    for step in program.steps:
        args, kwargs = _filled(step.args, values), _filled(step.kwargs, values)
        value = args[0][args[1]] if step.operation == "getitem" else _rule(step.operation)(*args, **kwargs)
        values[step.name] = value if step.dtype is None else jnp.asarray(value, _type(step.dtype))
    return values[program.result]


def _filled(argument: Any, values: dict[str, Any]) -> Any:
    if isinstance(argument, _Ref):
        return values[argument.name]
    if isinstance(argument, list | tuple):
        return type(argument)(_filled(part, values) for part in argument)
    return {key: _filled(part, values) for key, part in argument.items()} if isinstance(argument, dict) else argument


def _rule(operation: str) -> Any:
    # "max.dim": the overload where it has a rule of its own, else the operation.
    return OPERATIONS.get(operation, OPERATIONS.get(operation.split(".")[0]))


def _type(dtype: np.dtype) -> np.dtype:
    return jax.dtypes.canonicalize_dtype(dtype)


# --- what is asked of PyTorch


def _trained(module: Any, name: str) -> dict[str, Any]:
    """The parameters to differentiate by name, shared ones once. Refuses what cannot be converted."""
    from torch import float32, float64  # pyright: ignore[reportMissingImports]
    from torch.nn.parameter import is_lazy  # pyright: ignore[reportMissingImports]

    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(f"from_torch needs initialised parameters, got lazy {key} in {name}: call it on a batch")
        if tensor.is_floating_point() and tensor.dtype not in (float32, float64):
            raise ValueError(
                f"from_torch needs float32 or float64, got {tensor.dtype} {key} in {name}: use module.float()"
            )
        if tensor.dtype == float64 and _type(np.dtype("float64")) != np.dtype("float64"):
            raise ValueError(
                f"float64 needs 64-bit JAX, got {key} in {name}: add jax.config.update('jax_enable_x64', True) "
                "before, or use module.float()"
            )
    trained = {key: parameter for key, parameter in module.named_parameters() if parameter.requires_grad}
    if not trained:
        raise ValueError(f"from_torch needs a parameter with requires_grad, got none in {name}: requires_grad_(True)")
    return trained


@contextmanager
def _evaluation(module: Any) -> Iterator[None]:
    """Evaluation mode, without the fused attention that exists only for inference; both restored afterwards."""
    import torch  # pyright: ignore[reportMissingImports]

    modes = {part: part.training for part in module.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    module.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for part, training in modes.items():
            part.training = training


def _probe(module: Any, name: str, trained: dict[str, Any], rows: Any) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Outputs of the module, a direction c in output space and Dhᵀ c."""
    import torch  # pyright: ignore[reportMissingImports]

    try:
        outputs = module(rows)
    except Exception as error:
        raise ValueError(f"{name} must run on the example of shape {tuple(rows.shape)}, got: {_line(error)}") from error
    if not isinstance(outputs, torch.Tensor) or outputs.ndim == 0 or len(outputs) != len(rows):
        got = f"shape {tuple(outputs.shape)}" if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise ValueError(
            f"{name} must return one tensor with a row per example, got {got} for {len(rows)} examples: "
            "wrap it in a module that does"
        )
    if not outputs.requires_grad:
        raise ValueError(
            f"the output of {name} must depend on its trained parameters, got none it depends on: "
            "compute it outside torch.no_grad and without .detach()"
        )
    values = outputs.detach().cpu().numpy()
    cotangent = np.random.default_rng(0).standard_normal(values.shape).astype(values.dtype)
    direction = torch.tensor(cotangent, device=outputs.device)
    found = torch.autograd.grad(outputs, list(trained.values()), direction, allow_unused=True)
    gradients = [None if g is None else g.cpu().numpy() for g in found]
    return values, cotangent, dict(zip(trained, gradients, strict=True))


def _trace(module: Any, name: str, trained: dict[str, Any], one: Any) -> _Program:
    """The graph of the module on one example, checked to consist of known operations."""
    import torch  # pyright: ignore[reportMissingImports]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own, about its internals
        try:
            exported = torch.export.export(module, (one,))
            table = {key: rule for key, rule in torch.export.default_decompositions().items() if str(key) not in _WHOLE}
            exported = exported.run_decompositions(table)
        except Exception as error:
            raise ValueError(
                f"from_torch needs a module that torch.export can trace, got from {name}: {_line(error)}"
            ) from error
    steps = [_step(node) for node in exported.graph.nodes if node.op == "call_function"]
    unknown = sorted({s.operation for s in steps if s.operation != "getitem" and _rule(s.operation) is None})
    if unknown:
        raise ValueError(
            f"from_torch has no JAX rule for {', '.join(unknown)} in {name}: "
            "replace it by other operations, or write that part in JAX"
        )
    return _Program(steps, *_inputs(exported, module, trained))


def _inputs(exported: Any, module: Any, trained: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any], str, str]:
    from torch.export.graph_signature import InputKind, OutputKind  # pyright: ignore[reportMissingImports]

    first = {id(parameter): key for key, parameter in trained.items()}
    everything = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers())
    everything |= dict(exported.constants)
    leaves, constants, source = {}, {}, ""
    for spec in exported.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            source = spec.arg.name
        elif id(tensor := everything[spec.target]) in first:
            leaves[spec.arg.name] = first[id(tensor)]
        else:
            constants[spec.arg.name] = np.array(tensor.detach().cpu().numpy())
    results = [spec for spec in exported.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
    return leaves, constants, source, results[0].arg.name


def _step(node: Any) -> _Step:
    kwargs = {key: _referred(value) for key, value in node.kwargs.items() if key not in _STORAGE}
    value = node.meta.get("val")
    dtype = np.dtype(str(value.dtype).removeprefix("torch.")) if hasattr(value, "dtype") else None
    operation = str(getattr(node.target, "__name__", node.target))
    operation = operation if operation == "getitem" else str(node.target).removeprefix("aten.")
    return _Step(node.name, operation, _referred(node.args), kwargs, dtype)


def _referred(argument: Any) -> Any:
    from torch.fx import Node  # pyright: ignore[reportMissingImports]

    if isinstance(argument, Node):
        return _Ref(argument.name)
    if isinstance(argument, list | tuple):
        return [_referred(part) for part in argument]
    return argument


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


# --- the comparison


def _verify(
    apply: Apply,
    name: str,
    params0: dict[str, Array],
    rows: np.ndarray,
    outputs: np.ndarray,
    cotangent: np.ndarray,
    gradients: dict[str, Any],
) -> None:
    """Compare outputs and Dhᵀ c with PyTorch's.

    The transposed product rather than a forward one: it shows each parameter by itself, so that a derivative lost in a
    small layer does not hide behind a large one.
    """
    loose = 1e-4 if outputs.dtype == np.float32 else 1e-9

    @jax.jit
    def both(params: dict[str, Array], x: Array, c: Array) -> tuple[Array, dict[str, Array]]:
        values, pull = jax.vjp(lambda p: apply(p, x), params)
        return values, pull(c)[0]

    try:
        values, pulled = jax.device_get(both(params0, jnp.asarray(rows), jnp.asarray(cotangent)))
    except Exception as error:
        raise ValueError(f"from_torch must run {name} in JAX, got: {_line(error)}: write that part in JAX") from error
    if not _close(values, outputs, loose, 0.0):
        raise ValueError(
            f"JAX and PyTorch must agree on {name}, got outputs that differ by {_largest(values - outputs):.1e} where "
            f"the largest is {_largest(outputs):.1e}: examples of a batch must not see each other, nor draw numbers"
        )
    whole = np.sqrt(sum(np.sum(g.astype(float) ** 2) for g in gradients.values() if g is not None))
    for key, found in pulled.items():
        expected = np.zeros_like(found) if gradients[key] is None else gradients[key]
        if not _close(found, expected, 10 * loose, 1e-3 * float(whole)):
            raise ValueError(
                f"JAX and PyTorch must agree on {name}, got derivatives by {key} that differ by "
                f"{_largest(found - expected):.1e}: torch.no_grad in forward is not seen, write .detach()"
            )


def _close(found: np.ndarray, expected: np.ndarray, tolerance: float, floor: float) -> bool:
    # Norms, not elements: near 0 an element is rounding noise. `not >` would pass NaN.
    error, size = (float(np.linalg.norm(v.astype(float).ravel())) for v in (found - expected, expected))
    return error <= tolerance * max(size, floor)


def _largest(v: np.ndarray) -> float:
    return float(np.max(np.abs(v), initial=0.0))
