"""How lazily a PyTorch module trains: `lst.diagnose`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from jaxtyping import Array
from torch import nn  # pyright: ignore[reportMissingImports]
from torch.utils import _pytree  # pyright: ignore[reportMissingImports]

from lazyscope.adapters.torch.conversion import from_torch
from lazyscope.adapters.torch.converted import Converted
from lazyscope.adapters.torch.outputs import Choice, Output, flat
from lazyscope.adapters.torch.preserving import evaluation
from lazyscope.diagnose import Diagnosis, Thresholds
from lazyscope.diagnose import diagnose as judge
from lazyscope.groups import Groups
from lazyscope.models import Apply
from lazyscope.problems import Problem
from lazyscope.progress import Progress, heard
from lazyscope.torch.buffers import differing, told_apart
from lazyscope.torch.loader import Examples, Targets, alike, examples_of
from lazyscope.torch.losses import Found, loss_of, own_loss
from lazyscope.torch.padding import WithoutPadding, padding
from lazyscope.torch.training import random_state_kept, trained_twice
from lazyscope.torch.weights import End, at_end, copied, unwrapped

EXAMPLES = 1024  # of each iterable, at most
_FEW = 4  # examples that the module itself is called on


def diagnose(
    model: Any,
    batches: Any,
    *,
    held_out: Any = None,
    trained: str | PathLike[str] | Mapping[str, Any] | nn.Module | None = None,
    train: Callable[[Any], Any] | None = None,
    loss: str | Callable[..., Any] | None = None,
    targets: Targets = None,
    output: Output = None,
    groups: Groups = None,
    examples: int = EXAMPLES,
    num_steps: int = 1500,
    dtype: Any = None,
    ignore: Sequence[str] = (),
    thresholds: Thresholds = Thresholds(),  # noqa: B008
    with_kappa: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> Diagnosis:
    """How lazily `model`, an `nn.Module` at its start, trains: `lazyscope.diagnose` in PyTorch's terms.

    `trained=` is the end of a training: a folder in the layout of Hugging Face, a `.safetensors` file, a state dict or
    a module; g is the gap at those weights. `train=` is a function of yours that trains a module in place,
    `train(module)`: it is called with a copy of the model and, from the same random state, with `lst.linearize` of it,
    so that g compares two models trained by your optimizer, schedule, minibatches and weight decay. Neither: both are
    trained by gradient descent, `num_steps` steps at half the stability limit.

    `batches` and `held_out` are what a training loop goes over: any iterable of batches, or one batch, each a tensor, a
    tuple or list of tensors, or a mapping. The first `examples` of each are used, and the printed diagnosis says how
    many. `targets` says where a batch has its targets (a key, a position, or a function of the batch); by default the
    entry `labels` of a mapping, the last of several entries. Batches of tokens that have an attention mask are filled
    up to one length, and what a model of tokens gives at padding, where labels do not count, is left out.

    `loss` is "square", "cross_entropy", "token_cross_entropy", "next_token_cross_entropy", "binary_cross_entropy", or a
    function of (outputs, targets) that is a mean over examples; by default the loss that the model itself returns for
    its labels, else cross-entropy for integers and the square loss ½‖f − y‖² (n/2 times the mean of squares over n
    outputs) for real targets. `output` says which output of the model is meant, `groups` which parameters belong
    together, `ignore` which names in `trained` are no weights of the model, each as in `ls.adapters` and `ls.diagnose`.

    It is computed in the model's own type; one of bfloat16 or float16 needs `dtype="float32"` or "float64". The model
    is in evaluation mode, whatever mode it is in, and is left as it was found, like all random states.

    Buffers. A trained model is judged with the buffers it has: the running statistics of its BatchNorm. The start, and
    the linearisation, have those of the start. Where they differ, g and j hold their part; the diagnosis says how far
    the outputs move with new buffers and old weights, and which g and j there are with the new ones at both ends.

    `progress` hears of the conversion, of your two runs or the two descents, and of what is measured
    (`lazyscope.progress`); it changes no number.

    Raises ValueError, in one line, as `ls.diagnose`, `ls.adapters.from_torch` and `ls.adapters.load_checkpoint` do.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"diagnose needs a torch.nn.Module at its start, got {type(model).__name__}: pass the model")
    if trained is not None and train is not None:
        raise ValueError("diagnose takes train or trained, got both: drop trained to have your trainer called")
    if examples < 1:
        raise ValueError(f"examples must be at least 1, got {examples}")
    model = unwrapped(model)
    model = model if dtype is None else _cast(model, dtype)
    tensors = [*model.parameters(), *model.buffers()]
    report = heard(progress)
    options = {"groups": groups, "thresholds": thresholds, "num_steps": num_steps, "progress": report}
    with random_state_kept(), jax.enable_x64(True) if _is_double(tensors) else nullcontext():
        with random_state_kept():  # the user's training starts from it
            data = examples_of("batches", batches, model, examples, targets)
            rest = None if held_out is None else examples_of("held_out", held_out, model, examples, targets)
        data, rest = alike(data, rest, model)
        if dtype is not None:
            data, rest = _real_inputs(data, model), None if rest is None else _real_inputs(rest, model)
        end = None if trained is None else at_end(model, trained, ignore)
        found = _judged(model, data, rest, end, train, loss, output, with_kappa, jax.random.key(seed), options)
    return replace(found, advice=tuple(line.replace("ls.center", "model(x) − start(x)") for line in found.advice))


def _judged(
    model: nn.Module,
    data: Examples,
    rest: Examples | None,
    end: End | None,
    train: Callable[[Any], Any] | None,
    loss: str | Callable[..., Any] | None,
    output: Output,
    with_kappa: bool,
    key: Any,
    options: dict[str, Any],
) -> Diagnosis:
    few, choice = _on_device(data.inputs, model), Choice(output, type(model).__name__)
    apply, params0 = from_torch(model, few, output=output, progress=options["progress"])
    meant = _loss(model, data, few, apply, params0, loss, choice)
    parts = [(apply.taken.batch(apply.taken.leaves(one.inputs)), meant.targets(_real(one.targets, model)))
             for one in (data, rest) if one is not None]  # fmt: skip
    problem = Problem(*(part for pair in parts for part in pair), loss=meant.loss)
    used = f"{data.said} training" + ("" if rest is None else f" and {rest.said} held-out")
    words = f"{apply.described}; loss: {meant.said}; {used} examples"
    counts = padding(problem, apply.shape)
    words += "" if counts is None else "; padding left out"

    def model_of(buffers: Iterable[str]) -> Apply:
        made = apply.given(buffers)
        return made if counts is None else WithoutPadding(made, counts)

    problem.check_labels(jax.ShapeDtypeStruct((data.number, *apply.shape), float))  # before the user's training
    ends = None if train is None else trained_twice(model, train, options["progress"])
    module = end.module if end is not None else ends.module if ends is not None else None
    if module is None:
        found = judge(model_of(()), params0, problem, key=key, with_kappa=with_kappa, **options)
        return replace(found, model=words)
    buffers = differing(apply, module)
    judged = model_of(buffers.start)
    start, last = params0 | buffers.start, _weights(module, params0) | buffers.end
    _check(apply.given(buffers.start), last, module, _on_device(data.inputs, module), choice)
    if ends is None:
        assert end is not None
        found = judge(judged, start, problem, params=last, key=key, with_kappa=with_kappa, **options)
        how = found.how.replace("elsewhere", f"elsewhere, {end.said}", 1)
    else:
        linear = _weights(ends.linear, params0) | buffers.start
        both = iter((last, linear))  # called with the model first, then with its linearisation
        options = options | {"train": lambda _apply, _params0: next(both), "with_kappa": with_kappa}
        found = judge(judged, start, problem, key=key, **options)
        how = ends.how
    found = replace(found, model=words, how=how)
    if not buffers.start:
        return found
    old = params0 | buffers.end
    same = judge(judged, old, problem, params=last, key=key, **(options | {"train": None, "with_kappa": False}))
    x = problem.x if problem.x_test is None else problem.x_test
    return told_apart(found, same, judged, start, old, last, x, buffers)


def _loss(
    model: nn.Module,
    data: Examples,
    few: Any,
    apply: Converted,
    params0: dict[str, Array],
    loss: str | Callable[..., Any] | None,
    choice: Choice,
) -> Found:
    own = outputs = None
    if loss is None:
        with evaluation(model):
            own, outputs = own_loss(model, few, data.key, choice)
    f = torch.from_numpy(np.array(apply(params0, few)))
    y = _real(data.targets, model)[: len(f)]
    return loss_of(loss, own, f, y, f if outputs is None else outputs)


def _check(apply: Converted, params: dict[str, Array], module: nn.Module, few: Any, choice: Choice) -> None:
    """ValueError unless the trained module is what its start's conversion gives at its weights and buffers."""
    with evaluation(module), torch.no_grad():
        expected = flat(module, apply.taken, choice)(*apply.taken.leaves(few)).cpu().numpy()
    found = np.asarray(apply(params, few))
    apart, size = (float(np.linalg.norm(v.astype(float))) for v in (found - expected, expected))
    if np.isfinite(expected).all() and not apart <= 1e-3 * size:
        raise ValueError(
            f"the trained module must compute what the model does at other weights, got outputs that differ by "
            f"{apart:.1e} where they are {size:.1e}: rebuild the model as it is trained (what it is set to, hooks)"
        )


def _weights(module: nn.Module, params0: dict[str, Array]) -> dict[str, Array]:
    held = dict(module.named_parameters())
    return {name: jnp.array(held[name].detach().cpu().numpy()) for name in params0}


def _on_device(inputs: Any, model: nn.Module) -> Any:
    device = next(model.parameters()).device
    return _pytree.tree_map(lambda leaf: leaf[:_FEW].to(device) if isinstance(leaf, torch.Tensor) else leaf, inputs)


def _real(values: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """Real numbers in the model's type."""
    return values.to(next(model.parameters()).dtype) if values.is_floating_point() else values


def _cast(model: nn.Module, dtype: Any) -> nn.Module:
    name = str(dtype).removeprefix("torch.")
    if name not in ("float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, got {name}: derivatives need that many digits")
    return copied(model).to(getattr(torch, name))


def _real_inputs(data: Examples, model: nn.Module) -> Examples:
    cast = _pytree.tree_map(lambda leaf: _real(leaf, model) if isinstance(leaf, torch.Tensor) else leaf, data.inputs)
    return data._replace(inputs=cast)


def _is_double(tensors: Sequence[torch.Tensor]) -> bool:
    return any(tensor.dtype == torch.float64 for tensor in tensors)
