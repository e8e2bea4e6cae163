"""Which output of a module is taken, and the module as a function from arrays to it."""

from collections.abc import Callable, Mapping
from typing import Any

from lazyscope.adapters.torch.batches import Taken

Output = str | int | Callable[[Any], Any] | None


class OutputError(ValueError):
    """A module returned nothing that is meant."""


class Choice:
    """Takes the output that `output` says of what a module returns; `said` names it once it was called."""

    def __init__(self, output: Output, name: str) -> None:
        self.output, self.name, self.said = output, name, ""

    def __call__(self, result: Any) -> Any:
        """The tensor; OutputError where there is none."""
        import torch  # pyright: ignore[reportMissingImports]

        found, self.said = self._chosen(result)
        if not isinstance(found, torch.Tensor):
            what = "" if self.output is None else f" for output={self.output!r}"
            raise OutputError(
                f"{self.name} must return one tensor with a row per example, got {_in_words(result)}{what}: say which "
                "with output=, a name, an index or a function of what it returns"
            )
        return found

    def _chosen(self, result: Any) -> tuple[Any, str]:
        if callable(self.output):
            return self.output(result), f"{getattr(self.output, '__name__', 'a function')}(outputs)"
        if self.output is None:
            logits = getattr(result, "logits", None) if not isinstance(result, Mapping) else result.get("logits")
            return (result, "output") if logits is None else (logits, "logits")
        try:
            if isinstance(self.output, int) or isinstance(result, Mapping):
                return result[self.output], str(self.output)
            return getattr(result, self.output), self.output
        except (KeyError, IndexError, AttributeError, TypeError):
            return None, ""


def flat(module: Any, taken: Taken, choice: Choice) -> Any:
    """The module as one of the leaves that it takes, returning the output that is chosen."""
    import torch  # pyright: ignore[reportMissingImports]

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *leaves: Any) -> Any:
            args, kwargs = taken.arguments(leaves)
            return choice(self.module(*args, **kwargs))

    return Flat()


def _in_words(result: Any) -> str:
    if isinstance(result, Mapping):
        return f"{type(result).__name__} of {', '.join(map(str, result))}"
    if isinstance(result, list | tuple):
        names = getattr(result, "_fields", None) or [type(part).__name__ for part in result]
        return f"{type(result).__name__} of {', '.join(names)}"
    return type(result).__name__
