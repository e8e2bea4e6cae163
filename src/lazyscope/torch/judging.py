"""How lazily a PyTorch module trains: `lst.diagnose`."""

import re
from collections.abc import Callable, Mapping, Sequence
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

from lazyscope.adapters.torch.converted import Converted
from lazyscope.adapters.torch.outputs import Choice, Output, flat
from lazyscope.adapters.torch.preserving import evaluation
from lazyscope.diagnose import Diagnosis, Thresholds
from lazyscope.diagnose import diagnose as judge
from lazyscope.diagnose.advice import IN_DOUBLE, LOWER
from lazyscope.groups import Groups
from lazyscope.progress import Progress, heard
from lazyscope.torch.buffers import differing, told_apart
from lazyscope.torch.loader import Examples, Targets
from lazyscope.torch.preparing import few_of, ready, taken
from lazyscope.torch.random_state import random_state_kept
from lazyscope.torch.training import trained_twice
from lazyscope.torch.weights import End, at_end, unwrapped

EXAMPLES = 1024  # of each iterable, at most


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
    costs: bool = False,
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

    With `costs`, `Diagnosis.costs` says what each part took, the conversion left out.

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
    report = heard(progress)
    options = {"groups": groups, "thresholds": thresholds, "num_steps": num_steps, "costs": costs, "progress": report}
    double = jax.enable_x64(True) if _is_double(unwrapped(model), dtype) else nullcontext()
    with torch.inference_mode(False), random_state_kept(), double:
        model, data, rest = taken(model, batches, held_out, examples, targets, dtype)
        end = None if trained is None else at_end(model, trained, ignore)
        found = _judged(model, data, rest, end, train, loss, output, with_kappa, jax.random.key(seed), options)
    return replace(found, advice=tuple(map(_for_modules, found.advice)))


def _for_modules(line: str) -> str:
    """A line of advice in terms of what `diagnose` takes here."""
    line = re.sub(rf"{LOWER} \S+,", "lower the scale of the outputs,", line)
    return line.replace("ls.center", "model(x) − start(x)").replace(IN_DOUBLE, 'pass `dtype="float64"`')


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
    it = ready(model, data, rest, loss, output, options["progress"])
    apply, params0, problem, words = it.apply, it.params0, it.problem, it.words
    ends = None if train is None else trained_twice(model, train, options["progress"])
    module = end.module if end is not None else ends.module if ends is not None else None
    if module is None:
        found = judge(it.model_of(()), params0, problem, key=key, with_kappa=with_kappa, **options)
        return replace(found, model=words)
    buffers = differing(apply, module)
    judged = it.model_of(buffers.start)
    start, last = params0 | buffers.start, _weights(module, params0) | buffers.end
    told = module if end is None else end.given
    _check(apply.given(buffers.start), last, told, few_of(data, told), Choice(output, type(model).__name__))
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
    same = judge(
        judged, old, problem, params=last, key=key, **(options | {"train": None, "with_kappa": False, "costs": False})
    )
    x = problem.x if problem.x_test is None else problem.x_test
    return told_apart(found, same, judged, start, old, last, x, buffers)


def _check(apply: Converted, params: dict[str, Array], module: nn.Module, few: Any, choice: Choice) -> None:
    """ValueError unless the trained module is what its start's conversion gives at its weights and buffers."""
    with evaluation(module), torch.no_grad():
        expected = flat(module, apply.taken, choice)(*apply.taken.leaves(few)).cpu().numpy()
    found = np.asarray(apply(params, few))
    apart, size = (float(np.linalg.norm(v.astype(float))) for v in (found - expected, expected))
    if np.isfinite(expected).all() and not apart <= 1e-3 * size:
        raise ValueError(
            f"the trained module must compute what the model does at other weights, got outputs that differ by "
            f"{apart:.1e} where they are {size:.1e}: build the model as it is when trained (what it is set to, hooks)"
        )


def _weights(module: nn.Module, params0: dict[str, Array]) -> dict[str, Array]:
    held = dict(module.named_parameters())
    return {name: jnp.array(held[name].detach().cpu().numpy()) for name in params0}


def _is_double(model: nn.Module, dtype: Any) -> bool:
    if dtype is not None:
        return str(dtype).removeprefix("torch.") == "float64"
    return any(tensor.dtype == torch.float64 for tensor in (*model.parameters(), *model.buffers()))
