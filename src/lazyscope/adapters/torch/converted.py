"""A converted module as a function of parameters and a batch."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from lazyscope import examples
from lazyscope.adapters.torch.batches import Taken
from lazyscope.adapters.torch.graph import Program, canonical, run


class Converted:
    """`apply(params, x)` of a module. `described` says which output of what it is, and what was left out."""

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
        self._program, self._shape, self._block = program, shape, block
        self._sources = [program.sources[i] for i in kept]
        self._inputs = [(canonical(rows[i].dtype), rows[i].shape[1:]) for i in kept]
        self._types = {key: leaf.dtype for key, leaf in params0.items()}
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
            return outputs.reshape(-1, *self._shape)[: examples.count(leaves)]

    @property
    def buffers(self) -> dict[str, np.ndarray | Array]:
        """The module's buffers that the output depends on, at their values at conversion, by PyTorch's names."""
        return {name: self._program.constants[key] for key, name in self._program.buffers.items()}

    def with_buffers(self, values: Mapping[str, Any]) -> "Converted":
        """The same with other values of some of `buffers`."""
        changed = {key: values[name] for key, name in self._program.buffers.items() if name in values}
        other = copy(self)
        other._program = replace(self._program, constants={**self._program.constants, **changed})
        return other

    def _run(self, params: Mapping[str, Array], block: Sequence[Array]) -> Array:
        values = {key: params[leaf] for key, leaf in self._program.leaves.items()}
        values |= {source: leaf for source, leaf in zip(self._sources, block, strict=True) if source is not None}
        return run(self._program, values).reshape(self._block, *self._shape)

    def _checked(self, name: str, leaf: Any, expected: tuple[np.dtype, tuple[int, ...]]) -> Array:
        dtype, shape = expected
        same_kind = leaf.dtype == dtype or (dtype.kind == "i" and jnp.issubdtype(leaf.dtype, jnp.integer))
        if leaf.shape[1:] != shape or not leaf.shape or not same_kind:
            raise ValueError(
                f"{name} must be {dtype} of shape (n, {', '.join(map(str, shape))}) as in the batch of from_torch, "
                f"got {leaf.dtype} of shape {tuple(leaf.shape)}: convert them, or the module again"
            )
        return jnp.asarray(leaf, dtype)


def _array(x: Any) -> Any:
    """An array of NumPy's or JAX's as it is; a tensor as an array of NumPy's."""
    if not hasattr(x, "detach"):
        return x
    if str(x.dtype) == "torch.bfloat16":
        raise ValueError("inputs must be of a type that NumPy has, got a torch.bfloat16 tensor: use x.float()")
    return x.numpy(force=True)
