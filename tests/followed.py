"""Advice followed: diagnose a case, do what the recommendation says, diagnose again."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

import lazyscope as ls

EXAMPLE = Path(__file__).parents[1] / "examples" / "normal_values.py"
EXAMPLES = 100  # held-out inputs for j and the kernel


def load() -> Any:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("normal_values", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Advised(NamedTuple):
    """A case that is not lazy as it is.

    `train` is `told` of alpha, or does not take it: then `slower(factor)` is the trainer with its learning rate times
    that factor, and `by` says which factor is its own. Without a trainer it is descent of the library.
    """

    case: ls.Case
    slower: Callable[[float], Callable] | None = None
    by: str = ""


def cases() -> dict[str, Callable[[], Advised]]:
    """Ten cases: SGD and Adam, square loss and cross-entropy, trainers that are told alpha or not, and our descent."""
    nv = load()

    def ours(case: ls.Case) -> Advised:
        return Advised(ls.Case(case.apply, case.params0, case.problem, alpha=case.alpha))

    def told(case: ls.Case) -> Advised:
        return Advised(case)

    def untold(case: ls.Case, by: str) -> Advised:
        inner = case.train

        def slower(factor: float) -> Callable:
            # The trainers of the example read their factor from the scale that they are told.
            scale = ls.Scale(factor**-0.5 if by == "sgd" else 1 / factor)
            return lambda apply, params0: inner(apply, params0, scale)  # type: ignore[misc]

        return Advised(ls.Case(case.apply, case.params0, case.problem, train=slower(1.0)), slower, by)

    cross = ls.cross_entropy
    return {
        "two-layer, plain, tau 2: ours, square": lambda: ours(nv.two_layer(2.0, False)),
        "two-layer, symmetrised, tau .1: ours, square": lambda: ours(nv.two_layer(0.1, True)),
        "MLP: ours, cross-entropy": lambda: ours(nv.net("MLP", 64, loss=cross)),
        "MLP: SGD told, square": lambda: told(nv.net("MLP", 64)),
        "MLP: Adam untold, square": lambda: untold(nv.net("MLP", 64, by="Adam"), "adam"),
        "MLP: SGD untold, cross-entropy": lambda: untold(nv.net("MLP", 64, loss=cross), "sgd"),
        "MLP: Adam told, cross-entropy": lambda: told(nv.net("MLP", 64, loss=cross, by="Adam")),
        "attention: Adam told, square": lambda: told(nv.net("attention block", 32, by="Adam")),
        "conv net: SGD told, cross-entropy": lambda: told(nv.net("conv net", 32, loss=cross)),
        "LoRA: Adam untold, cross-entropy": lambda: untold(nv.fine_tuned(True), "adam"),
    }


def follow(advised: Advised, key: Any = None) -> tuple[ls.Diagnosis, ls.Diagnosis]:
    """The diagnosis as it is, and that of the case changed as recommended."""
    case, key = advised.case, jax.random.key(5) if key is None else key
    before = ls.diagnose(
        case.apply, case.params0, case.problem, train=case.train, alpha=case.alpha, key=key, examples=EXAMPLES
    )
    to_do = before.recommendation
    assert to_do is not None
    apply = ls.center(case.apply, case.params0) if to_do.center else case.apply
    train = case.train if advised.slower is None else advised.slower(getattr(to_do, advised.by))
    after = ls.diagnose(
        apply,
        case.params0,
        case.problem,
        train=train,
        alpha=to_do.alpha,
        key=key,
        examples=EXAMPLES,
        with_kappa=False,
    )
    return before, after
