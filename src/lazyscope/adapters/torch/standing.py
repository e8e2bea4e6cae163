"""An exported graph as it stands: with operations that PyTorch would decompose, and some that write in place."""

from collections.abc import Callable, Iterator
from operator import getitem
from typing import Any

from lazyscope.adapters.torch.graph import Reference, Step
from lazyscope.adapters.torch.operations.composites import OPERATIONS, VIEWS

Read = Callable[[Any, Any, str, str, Callable[[Any], Any]], Step]

_BLOCKS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}  # where their graph is among the arguments


class NotAsItStandsError(Exception):
    """PyTorch has to rewrite this graph first."""


class Reader:
    """Reads a graph into steps, blocks of a switch into those around them.

    `decomposed` has the names of the operations that PyTorch decomposes; `read` makes the step of a node, given the
    graph, the name, the operation, and what other nodes are known as.
    """

    def __init__(self, decomposed: frozenset[str], read: Read) -> None:
        self._decomposed, self._read = decomposed, read
        self._known: dict[Any, Any] = {}  # what nodes are known as: references, or lists of them
        self._root: dict[Any, Any] = {}  # of what is written in place, the node that holds the array
        self._own: set[Any] = set()  # nodes with an array of which there is no view

    def steps(self, part: Any, prefix: str = "") -> Iterator[Step]:
        """The steps of a graph. Raises NotAsItStandsError where it writes into what may be seen elsewhere."""
        for node in part.graph.nodes:
            if node.op == "placeholder":
                self._known.setdefault(node, Reference(node.name))
            elif node.op == "call_function":
                yield from self._called(node, part, prefix)

    def known(self, node: Any) -> Any:
        """What a node is known as, after the steps so far."""
        return self._known[self._root.get(node, node)]

    def _called(self, node: Any, part: Any, prefix: str) -> Iterator[Step]:
        name, operation = prefix + node.name, named(node.target)
        if operation in _BLOCKS:
            yield from self._block(node, part, name, _BLOCKS[operation])
        elif node.target is getitem and isinstance(parts := self.known(node.args[0]), list):
            self._known[node] = parts[node.args[1]]
        else:
            schema = getattr(node.target, "_schema", None)
            written = schema is not None and schema.is_mutable
            operation = _elsewhere(operation, schema) if written else operation
            step = self._read(node, part, name, operation, self.known)
            if written:
                root = self._root[node] = self._root.get(node.args[0], node.args[0])
                if root not in self._own:
                    raise NotAsItStandsError
                self._known[root] = Reference(name)
            else:
                self._known[node] = Reference(name)
                if schema is not None and self._makes(operation, schema):
                    self._own.add(node)
                elif schema is None or schema.returns:  # what it takes may be seen through it from now on
                    self._own -= {self._root.get(other, other) for other in node.all_input_nodes}
            yield step

    def _block(self, node: Any, part: Any, name: str, place: int) -> Iterator[Step]:
        """The steps of a block under `no_grad`, which was marked by `detach`, or without autocast."""
        if place == _BLOCKS["wrap_with_autocast"] and node.args[2]:
            raise NotAsItStandsError
        inner = getattr(part, node.args[place].target)
        sources = [n for n in inner.graph.nodes if n.op == "placeholder"]
        given = node.args[place + 1 :]
        self._own -= {self._root.get(other, other) for other in node.all_input_nodes}
        self._known |= {source: self.known(value) for source, value in zip(sources, given, strict=True)}
        yield from self.steps(inner, f"{name}_")
        self._known[node] = [self.known(result) for result in inner.graph.output_node().args[0]]

    def _makes(self, operation: str, schema: Any) -> bool:
        """Whether the result is an array of its own; of what PyTorch decomposes its signature does not tell."""
        if operation in VIEWS or (operation in self._decomposed and operation not in OPERATIONS):
            return False
        return not any(result.alias_info for result in schema.returns)


def named(target: Any) -> str:
    """The name of an operation of PyTorch, or of Python's for one part of a result."""
    return "getitem" if target is getitem else str(target).removeprefix("aten.")


def _elsewhere(operation: str, schema: Any) -> str:
    """`add.Tensor` for `add_.Tensor`, which writes into its first argument and into no other."""
    kind, overload = operation.split(".")
    first, *others = schema.arguments
    if not kind.endswith("_") or not first.alias_info or any(other.alias_info for other in others):
        raise NotAsItStandsError
    return f"{kind.removesuffix('_')}.{overload}"
