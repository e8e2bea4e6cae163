"""The operator norm ‖D²h‖ of a model on a batch, from below, by a portfolio of starts.

With f the outputs over √n, flattened, it is the Euclidean norm of the symmetric bilinear map B(u, v) = D²f[u, v],

    ‖D²h‖ = max ‖B(u, v)‖ over unit u, v = max_z ‖H_z‖ = max_u ‖B(u, u)‖,   H_z = D²(z·f),   z unit,

the second and third form because H_z is symmetric. Finding that maximum is a nonconvex problem (the spectral norm of
a tensor), so the value is a lower bound.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from lazyscope import tree
from lazyscope.criterion.ascent import CONTINUE, SCREEN, Ascent, Moves, cost, flat
from lazyscope.criterion.budget import Budget, Counter
from lazyscope.criterion.estimate import Search
from lazyscope.criterion.products import Leaves, host_generator, in_units, num_parameters, parameter_dtype
from lazyscope.examples import Batch
from lazyscope.krylov import by_calls
from lazyscope.models import Apply
from lazyscope.progress import Progress, silent

_AGREE = 0.01  # starts whose values are this close count as agreeing
# Of the products left, what slices take at first, and those continued: starts that are never climbed are worth little.
_SCREENED, _CONTINUED = 0.46, 0.25


def hessian_norm(
    apply: Apply,
    params: PyTree,
    x: Batch,
    *,
    key: Key[Array, ""],
    budget: Budget,
    kernel_directions: Float[Array, "starts nk"],
    right: Sequence[Leaves] = (),
    spent: int = 0,
    unit: float = 1.0,
    progress: Progress = silent,
) -> tuple[Search, Leaves, Float[np.ndarray, " probes"]]:
    """‖D²h‖ from below, the direction u of its last climb, and probes ‖H_z v‖ of mean square ‖D²h‖_F².

    ‖B(u, u)‖ is that value, less what a climb lost that gained nothing.

    Three kinds of start, since none wins everywhere: the kernel's top directions; slices, the top singular pair of
    v ↦ B(e_j, v) for coordinates e_j of much energy (in a ReLU net every hidden unit is a local maximum of its own, and
    from e_j plain alternation cannot leave); random directions. Each then climbs: u the eigenvector of H_z of largest
    |eigenvalue|, z ← B(u, u)/‖B(u, u)‖. After one climb each, the budget goes to the highest that has not settled.
    The right singular vectors that belong to the kernel's directions, `right`, start their climbs, and their buffers
    are given up; without one a climb starts from a random vector. The search divides the outputs by `unit`, a power of
    two of about their derivative's scale, so that products of two derivatives do not overflow.
    """
    apply = in_units(apply, unit)
    count = Counter(budget.products, spent, progress)
    moves = Moves(
        apply,
        params,
        x,
        host_generator(key),
        num_parameters(params),
        parameter_dtype(params),
        by_calls(apply, params, x),
    )
    kernel = np.asarray(kernel_directions[: budget.kernel_starts])
    starts = [*right, *(tree.scale(0, tree.split(params)[0]) for _ in kernel[len(right) :])]
    ascents = [Ascent(z, u, 0.0) for z, u in zip(kernel, starts, strict=False)]
    probes = np.zeros(0)
    if budget.probes:
        energy, probes = moves.probe(budget.probes, kernel.shape[1], count)
        ascents += _slices(moves, energy, budget, count)
    for _ in range(budget.random_starts):
        if count.allows(cost(SCREEN)):
            ascents.append(moves.slice(moves.normal(), moves.normal(), SCREEN, count))

    best = _climb_all(moves, ascents, budget, count)
    values = np.array([a.value for a in best])
    top = best[int(values.argmax())]
    spread = 1 - values.min() / top.value if top.value > 0 else 0.0
    search = Search(
        value=unit * top.value,
        error=unit * min(top.gain, top.value),
        products=count.spent - spent,
        converged=top.settled,
        starts=len(best),
        agree=int(np.sum(values >= (1 - _AGREE) * top.value)),
        spread=float(spread),
    )
    return search, top.u, unit * probes


def _slices(moves: Moves, energy: np.ndarray, budget: Budget, count: Counter) -> list[Ascent]:
    """Ascents from the coordinates of most energy: all screened by a few steps, the best continued."""
    affordable = int(_SCREENED * count.left / cost(SCREEN)), max(int(_CONTINUED * count.left / cost(CONTINUE)), 1)
    chosen = np.argsort(-energy)[: min(budget.coordinates, affordable[0])]
    chosen = chosen[energy[chosen] > 0].tolist()
    start = moves.normal()

    def coordinate(j: int) -> np.ndarray:
        return np.eye(1, moves.size, j, dtype=moves.dtype)[0]

    screened = [(moves.slice(coordinate(j), start, SCREEN, count), j) for j in chosen if count.allows(cost(SCREEN))]
    screened.sort(key=lambda pair: -pair[0].value)
    return [
        moves.slice(coordinate(j), flat(ascent.u), CONTINUE, count)
        if moves.size > SCREEN and count.allows(cost(CONTINUE))
        else ascent
        for ascent, j in screened[: min(budget.keep, affordable[1])]
    ]


def _climb_all(moves: Moves, ascents: list[Ascent], budget: Budget, count: Counter) -> list[Ascent]:
    """Climb from every start once, the highest first, then always the highest that has not settled."""
    each = min(budget.climb_steps, moves.size) + 1
    waiting = sorted(ascents, key=lambda a: -a.value)
    climbing: list[Ascent] = []
    done: list[Ascent] = []
    while (waiting or climbing) and count.allows(each):
        if waiting:
            climbing.append(moves.climb(waiting.pop(0), budget.climb_steps, count))
            continue
        highest = max(range(len(climbing)), key=lambda i: climbing[i].value)
        ascent = moves.climb(climbing.pop(highest), budget.climb_steps, count)
        (done if ascent.settled else climbing).append(ascent)
    return [*done, *climbing, *waiting]
