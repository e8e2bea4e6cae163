"""PyTorch modules as pure JAX functions, with derivatives of every order.

`torch.export` traces the module to a graph of ATen operations on one example; the graph is then run with the
operations of `operations/`, batched with `jax.vmap`. So every transformation of JAX applies, PyTorch is not called
again, and examples cannot see each other. At conversion the graph is compared with the module, and JAX's outputs and
derivatives of two orders with the graph's, in float64.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lazyscope.adapters.torch.comparison import verify, verify_graph
from lazyscope.adapters.torch.graph import Program, canonical, doubled, run, unreached
from lazyscope.adapters.torch.preserving import evaluation
from lazyscope.adapters.torch.probing import probe, retraced, widely
from lazyscope.adapters.torch.tracing import export, trace
from lazyscope.models import Apply

_NUM_PROBES = 4


def from_torch(module: Any, example: Any) -> tuple[Apply, dict[str, Array]]:
    """A PyTorch `nn.Module` of one tensor; `params0` is a dict keyed by PyTorch's parameter names.

    `example` is a batch (tensor or array, a few rows suffice) of the shape and type that the module will be called
    on; `apply` takes tensors, too. The module is traced in evaluation mode and left as it was found: modes, buffers,
    caches, gradients, random state. A parameter under two names keeps its first;
    parameters with `requires_grad=False` and buffers (running statistics) are fixed at their present values.

    The graph is compared with the module by its outputs and derivatives, in the module's type; then JAX with the graph
    in float64 on copies, whatever the type: outputs, derivatives, and one second-order product at weights moved by .1 %
    (a start at 0 is at kinks). A UserWarning says when PyTorch has no second derivative; differences of the first take
    its place.

    Raises ValueError when the module does not run on the example, has uninitialised (lazy) parameters or none to train,
    is neither float32 nor float64, returns something else than one row per example or what does not depend on its
    parameters (the message says where it was lost), uses an operation that is not in `operations/`, or when one of the
    comparisons fails: the examples of a batch must not see each other, and a `torch.autograd.Function` with a
    derivative of its own is not seen. Outputs and derivatives must be finite on the example.

    Smooth functions are right at every order, where their parts have kinks too: at 0, say, log-sigmoid, the Huber
    loss and the square of a norm or of a standard deviation, which have wrong or NaN second derivatives in PyTorch.
    At kinks the first derivatives are PyTorch's; a norm has second derivative 0 at 0. A query of
    `scaled_dot_product_attention` without a key gives 0.
    """
    import torch  # pyright: ignore[reportMissingImports]

    name = type(module).__name__
    example = example if isinstance(example, torch.Tensor) else torch.tensor(np.asarray(example))
    if example.ndim == 0 or len(example) == 0:
        raise ValueError(f"from_torch needs a batch with at least one example, got shape {tuple(example.shape)}")
    trained = _trained(module, name)
    # Two rows or more, so that an output which loses or mixes the batch axis shows.
    rows = example.detach()[np.arange(max(2, min(len(example), _NUM_PROBES))) % len(example)]
    with evaluation(module):
        found = probe(module, name, trained, rows)
        graph = export(module, name, trained, rows[:1])
        program = trace(graph, name, module, trained)
        if not found.depends:
            raise ValueError(f"the outputs of {name} must depend on its trained parameters, got {unreached(program)}")
        verify_graph(name, found, *retraced(graph, trained, rows[:1], found.cotangent))
        wide = widely(graph, name, trained, rows, found.outputs.shape[1:])
    params0 = {key: jnp.array(parameter.numpy(force=True)) for key, parameter in trained.items()}
    with jax.enable_x64(True):
        verify(_function(doubled(program), wide.params, wide.rows, wide.outputs), name, wide)
    return _function(program, params0, rows.numpy(force=True), found.outputs), params0


def _function(program: Program, params0: Mapping[str, Any], rows: np.ndarray, outputs: np.ndarray) -> Apply:
    shape, dtype = rows.shape[1:], jax.dtypes.canonicalize_dtype(rows.dtype)
    types = {key: leaf.dtype for key, leaf in params0.items()}

    def one(params: Mapping[str, Array], example: Array) -> Array:
        inputs = {key: params[leaf] for key, leaf in program.leaves.items()}
        return run(program, {**inputs, program.source: example[None]}).reshape(outputs.shape[1:])

    def apply(params: PyTree, x: Any) -> Array:
        if not isinstance(params, Mapping) or {k: getattr(v, "dtype", None) for k, v in params.items()} != types:
            raise ValueError("the parameters must keep the names and types that from_torch gave them: convert again")
        x = _array(x)
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


def _array(x: Any) -> Any:
    """An array of NumPy's or JAX's as it is; a tensor, or nested lists, as an array of NumPy's."""
    if hasattr(x, "detach"):
        if str(x.dtype) == "torch.bfloat16":
            raise ValueError("inputs must be of a type that NumPy has, got a torch.bfloat16 tensor: use x.float()")
        return x.numpy(force=True)
    return x if hasattr(x, "dtype") and hasattr(x, "shape") else np.asarray(x)


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
        if tensor.dtype == float64 and canonical(np.dtype("float64")) != np.dtype("float64"):
            raise ValueError(
                f"float64 needs 64-bit JAX, got {key} in {name}: add jax.config.update('jax_enable_x64', True) "
                "before, or use module.float()"
            )
    trained = {key: parameter for key, parameter in module.named_parameters() if parameter.requires_grad}
    if not trained:
        raise ValueError(f"from_torch needs a parameter with requires_grad, got none in {name}: requires_grad_(True)")
    return trained
