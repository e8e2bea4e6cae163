"""A kernel in blocks of examples, each as large as a budget of bytes allows."""

import itertools
from collections.abc import Callable
from functools import lru_cache, partial
from math import prod, sqrt
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lazyscope import examples
from lazyscope.door import checked_outputs, concrete
from lazyscope.examples import Batch
from lazyscope.models import Apply
from lazyscope.tangent.derivatives import Derivative, Outputs, cheaper, contract, derivatives, in_units

_MOST_PIECES = 3  # of a symmetric kernel: 6 of 9 blocks are computed, more save little and take longer to compile
_LEAST_ROWS = 64  # of a piece, examples times outputs: products of fewer rows run below the matrix rate

_Loop = Callable[[Any, Any, Callable[[Any, PyTree], PyTree], PyTree], PyTree]


class Form(NamedTuple):
    """What is kept: which pairs of outputs, and whether one kernel a leaf or their sum."""

    outputs: Outputs
    by_leaf: bool = False


def dense(apply: Apply, params: PyTree, x: Batch, x2: Batch | None, form: Form) -> PyTree:
    """The kernel from the derivatives of all examples at once."""
    if x2 is None:
        return _square(form, _pieces(form, _derivatives(apply, form.by_leaf, params, x)))
    return _block(form, *(_derive(apply, form, None, params, batch) for batch in (x, x2)))


def dense_bytes(apply: Apply, params: PyTree, x: Batch, x2: Batch | None, form: Form) -> int:
    """Bytes that `dense` holds: derivatives, what they are made from, and twice the kernel."""
    size = _sizes(apply, params, x, x2, form)
    examples = size.n if x2 is None else size.n + size.n2
    derivatives = size.derivative * examples + size.working * max(size.n, size.n2)
    return size.item * (derivatives + 2 * size.pair * size.n * size.n2)


def blocked(
    apply: Apply,
    params: PyTree,
    x: Batch,
    x2: Batch | None,
    form: Form,
    memory_budget: float,
    unit: Float[Array, ""] | None = None,
) -> PyTree:
    """The kernel with at most `memory_budget` bytes at a time; ValueError where not even one pair of examples fits.

    With `unit` derivatives are divided by it, and the kernel by its square.
    """
    size = _sizes(apply, params, x, x2, form)
    # The padded kernel and its slice; per block two derivatives, what one is made from, the block and its transpose.
    kernels, each = 2 * size.pair * size.n * size.n2, 2 * size.derivative + size.working
    rest = memory_budget / size.item - kernels
    smallest = each + 2 * size.pair
    if rest < smallest:
        raise ValueError(
            f"the kernel and the Jacobians of two examples must fit memory_budget={memory_budget:.3g} bytes, need "
            f"{size.item * (smallest + kernels):.3g}: take fewer examples, raise memory_budget, or call "
            "kernel_product(apply, params, x, x2)"
        )
    largest = int((sqrt(each**2 + 8 * size.pair * rest) - each) / (4 * size.pair))
    longest = max(size.n, size.n2)
    # Blocks of equal size, so that the last is not mostly padding.
    block = -(-longest // -(-longest // max(largest, 1)))
    # A compiled loop would slow the convolutions down that are in it (`krylov.lanczos_by_calls` says why).
    loop = _python_loop if concrete(params, x, x2) else jax.lax.fori_loop
    found = _assemble(apply, form, block, loop, params, x, x2, unit)
    return jax.tree.map(lambda kernel: kernel[: size.n, : size.n2], found)


def affordable(apply: Apply, params: PyTree, x: Batch, form: Form, numbers: float) -> int:
    """How many examples have derivatives, and a kernel, of at most so many numbers each; fewer than one is 0."""
    size = _sizes(apply, params, x, None, form)
    return int(min(numbers / size.derivative, sqrt(numbers / size.pair)))


def each_leaf(apply: Apply, params: PyTree, x: Batch) -> list[Derivative]:
    """The derivative of each leaf, by the program that kernels of leaves have."""
    return _derivatives(apply, True, params, x)


def held(apply: Apply, params: PyTree, x: Batch) -> int:
    """Entries of one example's derivatives, leaf by leaf, and of what they are made from."""
    size = _sizes(apply, params, x, None, Form("all", by_leaf=True))
    return size.derivative + size.working


class _Sizes(NamedTuple):
    n: int
    n2: int
    item: int
    derivative: int  # entries an example
    working: int  # entries an example, while its derivative is made
    pair: int  # entries of the kernel a pair of examples


def _sizes(apply: Apply, params: PyTree, x: Batch, x2: Batch | None, form: Form) -> _Sizes:
    outputs = checked_outputs(apply, params, x)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), x)
    leaves, structure = jax.tree.flatten((params, one))
    shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    n = examples.count(x)
    n2 = n if x2 is None else examples.count(x2)
    return _Sizes(n, n2, outputs.dtype.itemsize, *_entries(apply, form, structure, shapes))


# Looking through a large model takes longer than a small kernel of it.
@lru_cache(maxsize=64)
def _entries(
    apply: Apply, form: Form, structure: jax.tree_util.PyTreeDef, leaves: tuple[jax.ShapeDtypeStruct, ...]
) -> tuple[int, int, int]:
    found = jax.eval_shape(partial(_derivatives, apply, form.by_leaf), *jax.tree.unflatten(structure, leaves))
    one = jax.eval_shape(partial(_cheaper, form, unit=None), found)
    return _count(one), _count(found), _count(jax.eval_shape(partial(_block, form), one, one))


def _count(shapes: PyTree) -> int:
    return sum(prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def _python_loop(start: Any, stop: int, body: Callable[[Any, PyTree], PyTree], state: PyTree) -> PyTree:
    for i in range(start, stop):
        state = body(jnp.asarray(i), state)
    return state


def _assemble(
    apply: Apply,
    form: Form,
    block: int,
    loop: _Loop,
    params: PyTree,
    x: Batch,
    x2: Batch | None,
    unit: Float[Array, ""] | None,
) -> PyTree:
    symmetric = x2 is None
    rows, height = examples.blocks(x, block)
    columns, width = (rows, height) if x2 is None else examples.blocks(x2, block)

    def fill_row(i: Array, kernels: PyTree) -> PyTree:
        left = _derive(apply, form, unit, params, examples.take(rows, i))

        def fill(j: Array, kernels: PyTree) -> PyTree:
            right = _derive(apply, form, unit, params, examples.take(columns, j))
            return _put(form, symmetric, block, kernels, left, right, i, j)

        if not symmetric:
            return loop(0, width, fill, kernels)
        return loop(i + 1, width, fill, _put(form, False, block, kernels, left, left, i, i))

    pair = jax.eval_shape(
        lambda th, one: _block(form, *2 * [_derive(apply, form, None, th, one)]), params, examples.first(x, 1)
    )
    empty = jax.tree.map(lambda s: jnp.zeros((height * block, width * block, *s.shape[2:]), s.dtype), pair)
    return loop(0, height, fill_row, empty)


def _derive(apply: Apply, form: Form, unit: Float[Array, ""] | None, params: PyTree, x: Batch) -> list[Derivative]:
    # Two programs: in one, XLA fuses the backward pass into what it transposes for the products, which is slow on CPUs.
    return _cheaper(form, _derivatives(apply, form.by_leaf, params, x), unit)


@partial(jax.jit, static_argnums=(0, 1))
def _derivatives(apply: Apply, by_leaf: bool, params: PyTree, x: Batch) -> list[Derivative]:
    return derivatives(apply, params, x, by_leaf=by_leaf)


@partial(jax.jit, static_argnums=0)
def _cheaper(form: Form, found: list[Derivative], unit: Float[Array, ""] | None) -> list[Derivative]:
    return cheaper(in_units(found, unit), form.outputs)


@partial(jax.jit, static_argnums=0)
def _block(form: Form, left: list[Derivative], right: list[Derivative]) -> PyTree:
    kernels = contract(left, right, form.outputs)
    return kernels if form.by_leaf else sum(kernels)


@partial(jax.jit, static_argnums=0)
def _pieces(form: Form, found: list[Derivative]) -> list[list[Derivative]]:
    """`_cheaper` of the examples in pieces, each of arrays of its own: cut afterwards, large ones would be copied."""
    n, k = jax.tree.leaves(found)[-1].shape[:2]
    count = min(_MOST_PIECES, max(n * k // _LEAST_ROWS, 1), n)
    edges = [n * piece // count for piece in range(count + 1)]
    return [_cheaper(form, examples.take(found, slice(*pair)), None) for pair in itertools.pairwise(edges)]


@partial(jax.jit, static_argnums=0)
def _square(form: Form, pieces: list[list[Derivative]]) -> PyTree:
    """`_block` of a batch with itself: that of each piece with itself and with later ones, and what mirrors these."""
    blocks = {
        (i, j): _block(form, left, right) for i, left in enumerate(pieces) for j, right in enumerate(pieces) if i <= j
    }

    def row(i: int) -> PyTree:
        beside = [blocks[i, j] if i <= j else jax.tree.map(_mirrored, blocks[j, i]) for j in range(len(pieces))]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *beside)

    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *(row(i) for i in range(len(pieces))))


@partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=3)
def _put(
    form: Form,
    mirror: bool,
    block: int,
    kernels: PyTree,
    left: list[Derivative],
    right: list[Derivative],
    i: Array,
    j: Array,
) -> PyTree:
    """The kernels with the block of rows i and columns j in place, and with `mirror` its transpose, too."""

    def put(kernel: Array, piece: Array) -> Array:
        at = (i * block, j * block, *[0] * (piece.ndim - 2))
        kernel = jax.lax.dynamic_update_slice(kernel, piece, at)
        return jax.lax.dynamic_update_slice(kernel, _mirrored(piece), (at[1], at[0], *at[2:])) if mirror else kernel

    return jax.tree.map(put, kernels, _block(form, left, right))


def _mirrored(piece: Array) -> Array:
    # K[j, i, d, c] = K[i, j, c, d]; a trace or diagonal over outputs has no pair of output axes to swap.
    return piece.transpose((1, 0, 3, 2) if piece.ndim == 4 else (1, 0, *range(2, piece.ndim)))
