"""A converted module as a function of parameters and a batch."""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lazyscope import examples
from lazyscope.adapters.torch.batches import Taken
from lazyscope.adapters.torch.graph import Program, canonical, run


class Converted:
    """`apply(params, x)` of a module. `described` says which output of what it is, and what was left out.

    `shape` is that of the output for one example.
    """

    def __init__(
        self,
        program: Program,
        inputs: Taken,
        params0: Mapping[str, Any],
        rows: Sequence[np.ndarray],
        shape: tuple[int, ...],
        said: str,
        block: int,
    ) -> None:
        """A program of `block` examples; `rows` are examples of its inputs, `shape` is that of one output."""
        unused = {i for i, source in enumerate(program.sources) if source is None}
        self.taken, kept = inputs.without(unused)
        self.shape, self._program, self._block = shape, program, block
        self._sources = [program.sources[i] for i in kept]
        self._inputs = [(canonical(rows[i].dtype), rows[i].shape[1:]) for i in kept]
        self._types = {key: leaf.dtype for key, leaf in params0.items()}
        self._given: dict[str, tuple[str, np.dtype]] = {}  # buffers that are among the parameters, by their graph names
        left_out = f"; left out: {', '.join(self.taken.left_out)}" if self.taken.left_out else ""
        self.described = f"{said} on {', '.join(self.taken.names)}{left_out}"

    def __call__(self, params: PyTree, x: PyTree) -> Array:
        """Outputs, one row per example. ValueError for other parameters or inputs than those of the conversion."""
        found = {k: getattr(v, "dtype", None) for k, v in params.items()} if isinstance(params, Mapping) else None
        if found != self._types:
            raise ValueError("the parameters must keep the names and types that from_torch gave them: convert again")
        leaves = [_array(leaf) for leaf in self.taken.leaves(x)]
        leaves = [self._checked(*each) for each in zip(self.taken.names, leaves, self._inputs, strict=True)]
        # The rules of PyTorch, whatever the caller's; results are cast to the types of the graph.
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            if self._block == 1:
                return jax.vmap(lambda example: self._run(params, examples.alone(example))[0])(leaves)
            blocks, _ = examples.blocks(leaves, self._block)
            outputs = jax.vmap(lambda block: self._run(params, block))(blocks)
            return outputs.reshape(-1, *self.shape)[: examples.count(leaves)]

    @property
    def buffers(self) -> dict[str, np.ndarray]:
        """The buffers of the module that the outputs depend on, by name, as they are held fixed."""
        constants = self._program.constants
        return {_of_module(name): constants[place] for place, name in self._program.buffers.items()}

    def given(self, names: Iterable[str]) -> "Converted":
        """The same function with these buffers taken from the parameters, by their names, as `travelling` makes them.

        They travel along and are not differentiated, so that a start and an end can each have its own.
        """
        made, names = copy(self), set(names)
        places = {place: _of_module(name) for place, name in self._program.buffers.items() if _of_module(name) in names}
        types = {place: canonical(self._program.constants[place].dtype) for place in places}
        made._given = {place: (name, types[place]) for place, name in places.items()}
        made._types = self._types | {name: travelling(np.zeros(0, dtype)).dtype for name, dtype in made._given.values()}
        return made

    def _run(self, params: Mapping[str, Array], block: Sequence[Array]) -> Array:
        values = {key: params[leaf] for key, leaf in self._program.leaves.items()}
        values |= {source: leaf for source, leaf in zip(self._sources, block, strict=True) if source is not None}
        values |= {place: _back(params[name], dtype) for place, (name, dtype) in self._given.items()}
        return run(self._program, values).reshape(self._block, *self.shape)

    def _checked(self, name: str, leaf: Any, expected: tuple[np.dtype, tuple[int, ...]]) -> Array:
        dtype, shape = expected
        same_kind = leaf.dtype == dtype or (dtype.kind == "i" and jnp.issubdtype(leaf.dtype, jnp.integer))
        if leaf.shape[1:] != shape or not leaf.shape or not same_kind:
            raise ValueError(
                f"{name} must be {dtype} of shape (n, {', '.join(map(str, shape))}) as in the batch of from_torch, "
                f"got {leaf.dtype} of shape {tuple(leaf.shape)}: convert them, or the module again"
            )
        return jnp.asarray(leaf, dtype)


def travelling(buffer: np.ndarray) -> Array:
    """An array that is no parameter: real numbers as the integers that have their bits."""
    array = jnp.asarray(buffer)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    return jax.lax.bitcast_convert_type(array, f"uint{8 * array.dtype.itemsize}")


def _back(array: Array, dtype: np.dtype) -> Array:
    return array if array.dtype == dtype else jax.lax.bitcast_convert_type(array, dtype)


def _of_module(name: str) -> str:
    return name.removeprefix("module.")  # of `flat`


def _array(x: Any) -> Any:
    """An array of NumPy's or JAX's as it is; a tensor as an array of NumPy's."""
    if not hasattr(x, "detach"):
        return x
    if str(x.dtype) == "torch.bfloat16":
        raise ValueError("inputs must be of a type that NumPy has, got a torch.bfloat16 tensor: use x.float()")
    return x.numpy(force=True)
