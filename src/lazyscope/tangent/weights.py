"""Where weights enter a model through matrix products or convolutions, found in its jaxpr.

A leaf w that enters h as y_p = w u_p alone, for inputs u_p at positions p (one of a dense layer, the places of its
filter for a convolution, those of all its uses where it is used several times in one form), has the derivative
∂h/∂w = Σ_p δ_p u_pᵀ with δ_p = ∂h/∂y_p. Inputs and δ are much smaller than these matrices, and kernels follow from them
(Novak et al. 2022, §3). δ is the derivative in a shift that is added to y. A bias that is added to y is the weight of
one more input, which is 1. No model has to declare anything: `lazyscope.tangent.uses` says which equations are such
products, loops over leaves and short ones are walked turn by turn, and what is not recognised (products of parameters,
longer loops) is left to its Jacobian.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun
from jaxtyping import Array, Float, PyTree

from lazyscope.tangent.uses import Fact, Meeting, Origin, Product, Stack, Use, held, kept, meeting

_CALLS = ("jit", "pjit", "checkpoint", "remat2")  # the names depend on the version of JAX
_MOST_TURNS = 64  # of a loop over leaves, its layers say: compiling grows with them
_MOST_REPEATS = 4  # of a loop that uses the same leaves again: more positions soon cost more than their Jacobian


class Place(NamedTuple):
    """All products of a leaf, as positions of one; `offset` is the leaf that is added to each of them and no more."""

    positions: int
    fan_in: int
    units: int
    uses: tuple[Use, ...]
    offset: int | None


class Turned(NamedTuple):
    """A leaf of which loops alone take an entry at each of their turns: apart, the entries may have places."""

    turns: int


_Meet = Callable[[Meeting, list[Any]], list[Any]]
Function = Callable[[list[Array], PyTree], Array]


class _Met(NamedTuple):
    """One meeting of a leaf: its use as weights, or what it is the offset of, and what it went through before."""

    use: Use | None
    added_to: int | None
    path: tuple[Hashable, ...]
    turns: int


def places(function: Function, theta: list[Array], example: PyTree) -> list[Place | Turned | None]:
    """For each leaf the products, or loops, through which alone it enters function(theta, example), None for others."""
    met: list[list[_Met]] = [[] for _ in theta]

    def note(meeting: Meeting, outputs: list[Any]) -> list[Any]:
        for i, origin in enumerate(meeting.origins):
            use = meeting.parts[i].use if meeting.parts else None
            met[origin.leaf].append(_Met(use, meeting.added_to, origin.path, meeting.turns))
        return outputs

    jax.eval_shape(lambda th, one: _through(function, th, one, note), theta, example)
    added = [{(m.added_to, len(meetings), m.path) for m in meetings} for meetings in met]

    def place(leaf: int) -> Place | Turned | None:
        uses, turns = [meeting.use for meeting in met[leaf]], {meeting.turns for meeting in met[leaf]}
        if len(turns) == 1 and 0 not in turns:
            return Turned(*turns)
        first = uses[0] if uses else None
        if first is None or any(use is None or use.layout != first.layout for use in uses):
            return None
        # As many sums with an offset as products, each of its own, are one for each.
        offset = next((other for other, to in enumerate(added) if [t[:2] for t in to] == [(leaf, len(uses))]), None)
        return Place(sum(use.positions for use in uses), first.fan_in, first.units, tuple(uses), offset)  # type: ignore[arg-type]

    return [place(leaf) for leaf in range(len(theta))]


def tapped(
    function: Function, theta: list[Array], example: PyTree, shifts: dict[int, list[Array]]
) -> tuple[Array, dict[int, list[Float[Array, "positions fan_in"]]]]:
    """function(theta, example) with shifts added to all products of some leaves, and the inputs of those products."""
    inputs: dict[int, list[Array]] = {leaf: [] for leaf in shifts}

    def shift(meeting: Meeting, outputs: list[Any]) -> list[Any]:
        if not meeting.parts or shifts.keys().isdisjoint(origin.leaf for origin in meeting.origins):
            return outputs
        output, moves = outputs[0], []
        for origin, part in zip(meeting.origins, meeting.parts, strict=True):
            if origin.leaf not in shifts:  # one of a stack
                moves.append(jnp.zeros(part.use.output.shape, part.use.output.dtype))
                continue
            found, given = inputs[origin.leaf], part.inputs()
            output = output if part.again is None else part.again(given)
            moves.append(shifts[origin.leaf][len(found)])
            found.append(origin.scale * given)
        return [output + (moves[0] if meeting.axis is None else jnp.stack(moves, axis=meeting.axis))]

    return _through(function, theta, example, shift), inputs


def _through(function: Function, theta: list[Array], example: PyTree, meet: _Meet) -> Array:
    closed, inputs = jax.make_jaxpr(function)(theta, example), jax.tree.leaves(example)
    facts = [*(Origin(leaf, 1, jnp.shape(value)) for leaf, value in enumerate(theta)), *[None] * len(inputs)]
    (output,), facts = _run(closed, [*theta, *inputs], facts, meet)
    _elsewhere(facts, [output], meet)
    return output


def _run(
    closed: ClosedJaxpr, operands: Sequence[Any], facts: Sequence[Fact], meet: _Meet
) -> tuple[list[Any], list[Fact]]:
    """Evaluate a jaxpr, equation by equation, telling `meet` of each that uses a leaf."""
    jaxpr: Jaxpr = closed.jaxpr
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *operands], strict=True))
    known: dict[Any, Fact] = {}
    uses = _uses(jaxpr)

    def learn(variables: Sequence[Any], facts: Sequence[Fact]) -> None:
        # What enters several equations is no longer a product that an offset is added to.
        known.update(
            (v, f) for v, f in zip(variables, facts, strict=True) if uses[v] == 1 or not isinstance(f, Product)
        )

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    def fact_of(atom: Any) -> Fact:
        return None if isinstance(atom, Literal) else known.get(atom)

    learn(jaxpr.invars, facts)
    for equation in jaxpr.eqns:
        given = [read(atom) for atom in equation.invars]
        outputs, found = _step(jaxpr, equation, given, [fact_of(atom) for atom in equation.invars], meet)
        values |= zip(equation.outvars, outputs, strict=True)
        learn(equation.outvars, found)
    return [read(atom) for atom in jaxpr.outvars], [fact_of(atom) for atom in jaxpr.outvars]


def _step(
    jaxpr: Jaxpr, equation: JaxprEqn, given: list[Any], sources: list[Fact], meet: _Meet
) -> tuple[list[Any], Sequence[Fact]]:
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
        return _run(_body(equation), given, sources, meet)
    used = any(held(source) for source in sources)
    if used and name == "scan" and 0 < params["length"] <= _most_turns(equation, sources):
        return _turn_by_turn(equation, given, sources, meet)
    outputs, nothing = _evaluate(jaxpr, equation, given), [None] * len(equation.outvars)
    if not used:
        return outputs, nothing
    if (still := kept(equation, given, sources)) is not None:
        return outputs, [still]
    met = meeting(equation, given, sources, outputs)
    single = met.parts and met.axis is None
    return meet(met, outputs), [Product(met.origins[0].leaf, met.parts[0].use)] if single else nothing


def _body(equation: JaxprEqn) -> ClosedJaxpr:
    inner = equation.params["jaxpr"]
    return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, [])


def _rows(outside: Sequence[Any], inside: Sequence[Any]) -> int:
    """Where the rows of a scan begin: each turn has one axis less of them. Newer JAX names their number otherwise."""
    return sum(len(there.aval.shape) == len(here.aval.shape) for there, here in zip(outside, inside, strict=True))


def _most_turns(equation: JaxprEqn, sources: list[Fact]) -> int:
    rows = sources[_rows(equation.invars, _body(equation).jaxpr.invars) :]
    return _MOST_TURNS if any(held(row) for row in rows) else _MOST_REPEATS


def _turn_by_turn(
    equation: JaxprEqn, given: list[Any], sources: list[Fact], meet: _Meet
) -> tuple[list[Any], list[Fact]]:
    """A scan, its body evaluated at each turn; of what is stacked each turn has its own leaf."""
    body, length = _body(equation), equation.params["length"]
    first, carried = _rows(equation.invars, body.jaxpr.invars), _rows(equation.outvars, body.jaxpr.outvars)
    fixed = first - carried
    values, facts, rows = given[fixed:first], sources[fixed:first], [[]] * length
    same = [fact if held(fact) else None for fact in sources[:fixed]]  # a product enters every turn

    def of_turn(fact: Fact, turn: int) -> Fact:
        return fact.origins[turn] if isinstance(fact, Stack) and fact.axis == 0 else None

    for fact in sources[first:]:
        if isinstance(fact, Origin) and not fact.path:
            meet(Meeting((fact,), turns=length), [])
        elif of_turn(fact, 0) is None:
            _elsewhere([fact], [], meet)
    for turn in reversed(range(length)) if equation.params["reverse"] else range(length):
        own = [jax.lax.index_in_dim(value, turn, keepdims=False) for value in given[first:]]
        own_facts = [of_turn(fact, turn) for fact in sources[first:]]
        found, known = _run(body, [*given[:fixed], *values, *own], [*same, *facts, *own_facts], meet)
        values, facts, rows[turn] = found[:carried], known[:carried], found[carried:]
        _elsewhere(known[carried:], [], meet)
    stacked = [jnp.stack(each) for each in zip(*rows, strict=True)]
    return [*values, *stacked], [*facts, *[None] * len(stacked)]


def _elsewhere(facts: Sequence[Fact], outputs: list[Any], meet: _Meet) -> None:
    """Tell of leaves that go where they are not followed."""
    for origins in filter(None, map(held, facts)):
        meet(Meeting(origins), outputs)


def _uses(jaxpr: Jaxpr) -> Counter:
    atoms = [atom for equation in jaxpr.eqns for atom in equation.invars] + list(jaxpr.outvars)
    return Counter(atom for atom in atoms if not isinstance(atom, Literal))


def _evaluate(jaxpr: Jaxpr, equation: JaxprEqn, given: list[Any]) -> list[Any]:
    atoms = [(atom, value) for atom, value in zip(equation.invars, given, strict=True) if not isinstance(atom, Literal)]
    alone = jaxpr.replace(constvars=[], invars=[a for a, _ in atoms], outvars=equation.outvars, eqns=[equation])
    return jaxpr_as_fun(ClosedJaxpr(alone, []))(*(value for _, value in atoms))
