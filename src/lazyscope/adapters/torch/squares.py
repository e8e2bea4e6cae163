"""Squares of norms, standard deviations, square roots and absolute values: smooth, while these have a kink at 0."""

from dataclasses import replace
from typing import Any

from lazyscope.adapters.torch.graph import Reference, Step
from lazyscope.adapters.torch.operations import OPERATIONS

_MOVES = {"alias", "clone", "expand", "permute", "select", "slice", "squeeze", "unsqueeze", "view"}
_MOVES |= {
    "contiguous",
    "expand_as",
    "flatten",
    "movedim",
    "narrow",
    "reshape",
    "t",
    "transpose",
    "unflatten",
    "view_as",
}

_ORDER = {"linalg_vector_norm": 1, "_cdist_forward": 2}  # which argument is the order of a norm


def smooth_squares(steps: list[Step]) -> list[Step]:
    """The same steps, with ‖x‖² as the sum of squares wherever the graph squares a norm, and so for its relatives.

    From the derivative 0 of ‖x‖ at 0, the second derivative of its square would come out as 0 for 2.
    """
    known, result = {step.name: step for step in steps}, []
    for step in steps:
        base, exponent = _even_power(step)
        square = None if base is None else _squared(base, known, f"{step.name}_")
        if not square:
            result.append(step)
        elif exponent == 2:
            result += [*square[:-1], replace(square[-1], name=step.name, dtype=step.dtype)]
        else:
            power = replace(step, operation="pow.Tensor_Scalar", args=[Reference(square[-1].name), exponent // 2])
            result += [*square, power]
    return result


def _even_power(step: Step) -> tuple[Any, int]:
    if step.operation == "square.default" or (step.operation == "mul.Tensor" and step.args[0] == step.args[1]):
        return step.args[0], 2
    even = step.operation == "pow.Tensor_Scalar" and step.args[1] != 0 and step.args[1] % 2 == 0
    return (step.args[0], int(step.args[1])) if even else (None, 0)


def _squared(base: Any, known: dict[str, Step], prefix: str) -> list[Step] | None:
    """Steps whose last is the square of `base`; None where squaring it changes nothing about a kink."""
    step = known.get(base.name) if isinstance(base, Reference) else None
    if step is None:
        return None
    kind, name = step.operation.split(".")[0], prefix + step.name
    order = _ORDER.get(kind)
    if f"{kind}.squared" in OPERATIONS and (order is None or step.args[order : order + 1] in ([], [2])):
        return [replace(step, name=name, operation=f"{kind}.squared")]
    inner = _squared(step.args[0], known, prefix) if kind in _MOVES else None
    return inner and [*inner, replace(step, name=name, args=[Reference(inner[-1].name), *step.args[1:]])]
