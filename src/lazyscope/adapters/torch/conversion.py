"""PyTorch modules as pure JAX functions, with derivatives of every order.

`torch.export` traces the module to a graph of ATen operations on one example; the graph is then run with the
operations of `operations/`, batched with `jax.vmap`. So every transformation of JAX applies, PyTorch is not called
again, and examples cannot see each other. At conversion, outputs and derivatives are compared with PyTorch's.
"""

from copy import deepcopy
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PyTree

from lazyscope import examples
from lazyscope.adapters.torch.batches import Taken, taken, taken_by_call
from lazyscope.adapters.torch.comparison import left_of_parts, verify, verify_graph, verify_in_32_bits
from lazyscope.adapters.torch.converted import Converted
from lazyscope.adapters.torch.graph import canonical, doubled, unreached
from lazyscope.adapters.torch.outputs import Choice, Output, flat
from lazyscope.adapters.torch.preserving import evaluation
from lazyscope.adapters.torch.probing import leading, probe, retraced
from lazyscope.adapters.torch.tracing import export, first_line, trace
from lazyscope.adapters.torch.widening import widely
from lazyscope.progress import Progress, heard, silent

_NUM_PROBES = 4
_GROWING = ("mul", "pow", "prod", "shift", "exp2")  # operations of integers that leave 32 bits first
_LABELS = ("start_positions", "end_positions")  # of Hugging Face, beside those with "label" in their names


def from_torch(
    module: Any, batch: Any, *, output: Output = None, dtype: Any = None, progress: Progress | None = None
) -> tuple[Converted, dict[str, Array]]:
    """A PyTorch `nn.Module` as it is; `params0` is a dict keyed by PyTorch's parameter names.

    `batch` is what the loader yields (a few rows suffice), with the shapes and types that the module will be called
    on: a tensor or array, a list or tuple for the module's positional arguments, or a mapping for those of its
    names, entries nested or not. Entries that the module does not take, or that its output does not depend on (labels),
    are left out. `apply` takes such batches, as tensors or arrays, with or without what was left out, and a module of
    one entry that entry alone. `output` says which output is meant: a name, an index, or a function of all; by default
    the tensor that the module returns, else its `logits`. What was taken and left out, `apply.described` and every
    printed diagnosis say.

    The module is traced in evaluation mode and left as it was found: modes, buffers, caches, gradients, random state.
    A parameter under two names keeps its first; parameters with `requires_grad=False` and buffers (running statistics)
    are fixed at their present values. `dtype`, "float32" or "float64", converts a copy of the module in that type; one
    of bfloat16 or float16 needs it.

    The graph is compared with the module by its outputs and derivatives, in the module's type; then JAX with the graph
    in float64 on copies, whatever the type: outputs, derivatives, and one second-order product at weights moved by .1 %
    (a start at 0 is at kinks). A UserWarning says when PyTorch has no second derivative, or one that differences of its
    first do not confirm; those differences take its place. It says, too, when PyTorch's first derivative is wrong:
    JAX's is what it has with contiguous gradients, and differences of the outputs confirm it. `progress` hears of the
    parts: traced, compared with the module, compared as JAX (`lazyscope.progress`).

    Raises ValueError when the module does not run on the batch, has uninitialised (lazy) parameters or none to train,
    is neither float32 nor float64, returns something else than one row per example or what does not depend on its
    parameters (the message says where it was lost), uses an operation that is not in `operations/`, or when one of the
    comparisons fails: the examples of a batch must not see each other, and a `torch.autograd.Function` with a
    derivative of its own is not seen. Outputs and derivatives must be finite on the batch.

    Smooth functions are right at every order, where their parts have kinks too: at 0, say, log-sigmoid, the Huber
    loss and the square of a norm or of a standard deviation, which have wrong or NaN second derivatives in PyTorch.
    At kinks the first derivatives are PyTorch's; a norm has second derivative 0 at 0. A query of
    `scaled_dot_product_attention` without a key gives 0.
    """
    import torch  # pyright: ignore[reportMissingImports]

    name = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(f"from_torch needs a module in Python, got a {name} of torch.jit: pass what it was made of")
    with torch.inference_mode(False):
        inputs, leaves = taken(module.forward, name, batch)
        leaves = _tensors(inputs, leaves)
        if dtype is not None:
            module, leaves = _cast(module, leaves, dtype)
        return _converted(module, name, inputs, leaves, output, report=heard(progress))


def from_exported(program: Any, *, output: Output = None) -> tuple[Converted, dict[str, Array]]:
    """A `torch.export.ExportedProgram`, from `torch.export.export` or `torch.export.load`, as `from_torch` does it.

    Its example inputs are the batch. It computes what was exported: a module in evaluation mode, please. Exported with
    a batch axis of one example or a dynamic one, it runs each example by itself; with one of n it runs blocks of n.

    Raises ValueError for anything else than such a program, for one without its example inputs, and as `from_torch`.
    """
    import torch  # pyright: ignore[reportMissingImports]

    if not isinstance(program, torch.export.ExportedProgram):
        raise ValueError(
            f"from_exported needs a torch.export.ExportedProgram, got a {type(program).__name__}: "
            "pass torch.export.export(module, args) or torch.export.load(file), or the module to from_torch"
        )
    if program.example_inputs is None:
        raise ValueError("from_exported needs a program with its example inputs, got none: export the module again")
    args, kwargs = program.example_inputs
    module = program.module()
    for switch in ("train", "eval"):  # the mode is fixed in the program, and PyTorch refuses to be asked for one
        vars(module).pop(switch, None)
    inputs, leaves = taken_by_call(module.forward, args, kwargs)
    leaves = _tensors(inputs, leaves)
    fixed = None if _is_dynamic(program) else len(leaves[0])
    return _converted(module, "the program", inputs, leaves, output, fixed)


def _converted(
    module: Any,
    name: str,
    inputs: Taken,
    leaves: list[Any],
    output: Output,
    fixed: int | None = None,
    report: Progress = silent,
) -> tuple[Converted, dict[str, Array]]:
    """A module of any number of examples, or of a fixed one."""
    trained = _trained(module, name)
    weights = {key: parameter.numpy(force=True) for key, parameter in trained.items()}
    # Two rows or more, so that an output which loses or mixes the batch axis shows.
    n, block = fixed or max(2, min(len(leaves[0]), _NUM_PROBES)), fixed or 1
    rows = tuple(leaf.detach()[np.arange(n) % len(leaf)] for leaf in leaves)
    choice = Choice(output, name)
    parts, what = 5, f"converting {name}, parts"
    report(0, parts, what)
    with evaluation(module):
        inputs, rows = _without_labels(module, inputs, rows, choice)
        function = flat(module, inputs, choice)
        found = probe(function, name, trained, rows, block)
    floor = left_of_parts(found.gradients, weights)
    report(1, parts, what)
    with evaluation(module):  # what these calls left in a cache is no constant
        graph = export(function, name, trained, tuple(leading(rows, block)))
        program = trace(graph, name, function, trained)
        report(2, parts, what)
        if not found.depends:
            raise ValueError(f"the outputs of {name} must depend on its trained parameters, got {unreached(program)}")
        verify_graph(name, found, *retraced(graph, trained, leading(rows, block), found.cotangent), floor)
        report(3, parts, what)
        shape = found.outputs.shape[1:]
        wide = widely(graph, name, trained, rows, shape, block)
    report(4, parts, what)
    values = jax.device_put([np.array(value) for value in weights.values()])
    params0 = dict(zip(trained, values, strict=True))
    arrays, said = [row.numpy(force=True) for row in rows], f"{choice.said} of {name}"
    apply = Converted(program, inputs, params0, arrays, shape, said, block)
    if not apply.taken.keys:
        raise ValueError(f"the outputs of {name} must depend on its batch, got none of it used: pass what it uses")
    with jax.enable_x64(True):
        checked = Converted(doubled(program), inputs, wide.params, wide.rows, shape, said, block)
        verify(checked, name, wide, inputs.batch(wide.rows))
    if jax.dtypes.canonicalize_dtype(np.int64) != np.int64 and _counts_in_64_bits(graph, rows):
        verify_in_32_bits(apply, name, params0, inputs.batch(arrays), found.outputs, floor)
    if block > 1:
        _check_alone(apply, name, params0, inputs.batch(arrays), found.outputs, floor)
    report(parts, parts, what)
    return apply, params0


def _counts_in_64_bits(graph: Any, rows: tuple[Any, ...]) -> bool:
    """Whether there are doubles, products of long integers or integers that are long: what 32 bits may not hold."""
    import torch  # pyright: ignore[reportMissingImports]

    if any(
        not row.is_floating_point() and row.numel() and int(row.max()) >= 2**31 for row in rows if not row.is_complex()
    ):
        return True
    values = [
        (str(node.target), node.meta.get("val")) for node in graph.exported.graph.nodes if node.op == "call_function"
    ]
    kinds = [(target, value.dtype) for target, value in values if isinstance(value, torch.Tensor)]
    return any(
        kind is torch.float64 or (kind is torch.int64 and any(word in target for word in _GROWING))
        for target, kind in kinds
    )


def _without_labels(module: Any, inputs: Taken, rows: tuple[Any, ...], choice: Choice) -> tuple[Taken, tuple[Any, ...]]:
    """What is left without the labels, where the output is the same to the last bit: a loss is not always traceable."""
    from torch import equal  # pyright: ignore[reportMissingImports]

    labels = {i for i, name in enumerate(inputs.names) if "label" in name or name in _LABELS}
    fewer, kept = inputs.without(labels)
    if not labels or not kept:
        return inputs, rows
    chosen = tuple(rows[i] for i in kept)
    try:
        same = equal(flat(module, fewer, choice)(*chosen), flat(module, inputs, choice)(*rows))
    except Exception:  # they are needed
        return inputs, rows
    return (fewer, chosen) if same else (inputs, rows)


def _check_alone(
    apply: Converted, name: str, params0: dict[str, Array], rows: PyTree, outputs: np.ndarray, floor: float
) -> None:
    """ValueError where a block of one example and repeats of it gives another output than one of several."""
    alone = np.asarray(apply(params0, examples.first(rows, 1)))
    if not np.allclose(alone, outputs[:1], rtol=1e-4, atol=1e-4 * float(np.max(np.abs(outputs), initial=floor))):
        raise ValueError(
            f"the examples of a batch must not see each other, got another output from {name} for one of them alone: "
            "export the module in evaluation mode"
        )


def _tensors(inputs: Taken, leaves: list[Any]) -> list[Any]:
    """Tensors of at least one example each, all of as many."""
    tensors = [_tensor(name, leaf) for name, leaf in zip(inputs.names, leaves, strict=True)]
    counts = {len(tensor) if tensor.ndim else 0 for tensor in tensors}
    if len(counts) != 1 or 0 in counts:
        shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in zip(inputs.names, tensors, strict=True))
        raise ValueError(
            f"a batch needs at least one example, and a row for each in every entry, got {shapes}: the first axis "
            "counts examples"
        )
    return tensors


def _tensor(name: str, leaf: Any) -> Any:
    import torch  # pyright: ignore[reportMissingImports]

    if isinstance(leaf, torch.Tensor):
        return leaf.clone() if leaf.is_inference() else leaf  # no derivative goes through those of inference_mode
    try:
        return torch.tensor(np.asarray(leaf))
    except (TypeError, ValueError):
        raise ValueError(
            f"a batch must hold tensors or arrays of numbers, got other objects for {name}: pass one that the loader "
            "yields, next(iter(loader))"
        ) from None


def _cast(module: Any, tensors: list[Any], dtype: Any) -> tuple[Any, list[Any]]:
    """A copy of the module in another type, and its inputs."""
    import torch  # pyright: ignore[reportMissingImports]

    name = str(dtype).removeprefix("torch.") if str(dtype).startswith("torch.") else np.dtype(dtype).name
    if name not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, got {name}: derivatives need that many digits")
    to = getattr(torch, name)
    try:
        copy = deepcopy(module)
    except Exception as error:
        raise ValueError(
            f"dtype needs a module that can be copied, got: {first_line(error)}: use module.to(torch.{name}) instead"
        ) from error
    return copy.to(to), [t.to(to) if t.is_floating_point() else t for t in tensors]


def _is_dynamic(program: Any) -> bool:
    """Whether the first axis of the inputs is one of any length."""
    import torch  # pyright: ignore[reportMissingImports]

    inputs = [node.meta["val"] for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    return all(isinstance(v.shape[0], torch.SymInt) for v in inputs if isinstance(v, torch.Tensor))


def _trained(module: Any, name: str) -> dict[str, Any]:
    """The parameters to differentiate by name, shared ones once. Refuses what cannot be converted."""
    from torch import float32, float64  # pyright: ignore[reportMissingImports]
    from torch.nn.parameter import is_lazy  # pyright: ignore[reportMissingImports]

    for key, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(f"from_torch needs initialised parameters, got lazy {key} in {name}: call it on a batch")
        if tensor.is_floating_point() and tensor.dtype not in (float32, float64):
            raise ValueError(
                f"from_torch needs float32 or float64, got {tensor.dtype} {key} in {name}: add dtype='float32'"
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
