"""What workers need to be sent, found out before the first of them starts."""

import pickle
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lazyscope.executors import in_words, local
from lazyscope.sweep.cells import Function, name_of

HOW = "move it to the top level of a module and pass what it needs as settings (functools.partial)"


@dataclass(frozen=True)
class ByValue:
    """A function that goes to a worker with its code, and arrives as itself: the worker cannot import it."""

    code: bytes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        return pickle.loads(self.code)(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        # Made when it arrives and not when it is called, which may be in a trace: arrays come with it.
        return pickle.loads, (self.code,)


def sendable(function: Function, values: Sequence[Any], executor: Executor) -> Function:
    """`function` as workers get it; `values` are those of static axes, which go along.

    Local processes and the standard pool import functions by name. What they cannot import, of a notebook or of
    standard input, goes by value where cloudpickle is there, as Dask and submitit send it anyway.

    Raises ValueError for a lambda, a function inside another, and what can be sent in neither way.
    """
    _check_name(function)
    if not isinstance(executor, local | ProcessPoolExecutor):
        return function
    try:
        by_name = pickle.dumps((function, values))
    except Exception as error:  # pickle says it in many types
        reason = in_words(error)
    else:
        if b"__main__" not in by_name or _is_file():
            return function
        reason = "no worker can read the session or the input that defines it"
    try:
        from cloudpickle import dumps

        sent = ByValue(dumps(function))
        pickle.loads(pickle.dumps((sent, values)))
    except Exception:
        sent = None
    if sent is None or (b"__main__" in pickle.dumps(values) and not _is_file()):
        raise ValueError(f"workers need a function that they can import, got {name_of(function)!r} ({reason}): {HOW}")
    return sent


def _check_name(function: Function) -> None:
    inner: Any = function
    while isinstance(inner, partial):
        inner = inner.func
    found: Any = sys.modules.get(getattr(inner, "__module__", None) or "")
    for part in getattr(inner, "__qualname__", "?").split("."):
        found = getattr(found, part, None)
    if found is not inner:
        raise ValueError(f"workers need a function that they can import, got {name_of(function)!r}: {HOW}")


def _is_file() -> bool:
    """Whether workers can import what runs here."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    return getattr(main, "__spec__", None) is not None or (file is not None and Path(file).is_file())
