"""What workers need to be sent, found out before the first of them starts."""

import importlib.util
import pickle
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from lazyscope.executors import in_words, local
from lazyscope.sweep.cells import Function, name_of

OWN = "lazyscope_case_"  # how the names of modules begin that are imported from a file of the user's
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


@dataclass(frozen=True)
class OfFiles:
    """A function of a file of the user's, which a worker imports under the name that it has here."""

    files: Mapping[str, str]
    code: bytes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it."""
        return _of_files(self.files, self.code)(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _of_files, (self.files, self.code)


def imported(name: str, path: Path) -> ModuleType:
    """The module in a file, under `name`, with its neighbours as they are for `python FILE.py`."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} cannot be imported: name a Python file")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        sys.path.remove(folder)
        raise
    return module


def _of_files(files: Mapping[str, str], code: bytes) -> Any:
    for name, path in files.items():
        if name not in sys.modules:
            imported(name, Path(path))
    return pickle.loads(code)


def sendable(function: Function, values: Sequence[Any], executor: Executor) -> Function:
    """`function` as workers get it; `values` are those of static axes, which go along.

    Workers import functions by name, those of a file that the command line names from there. What they cannot import,
    of a notebook or of standard input, goes by value where cloudpickle is there, as Dask and submitit send it anyway.
    What it holds and a module has under its name, such as `jax.numpy.tanh`, arrives as that and not as a copy: code
    asks with `is` which activation it was given.

    Raises ValueError for a lambda, a function inside another, and what can be sent in neither way.
    """
    _check_name(function)
    here = isinstance(executor, local | ProcessPoolExecutor)
    try:
        by_name = pickle.dumps((function, values))
    except Exception as error:  # pickle says it in many types
        reason = in_words(error)
    else:
        files = {name: str(m.__file__) for name, m in sys.modules.items() if name.startswith(OWN)}
        if files := {name: path for name, path in files.items() if name.encode() in by_name}:
            return OfFiles(files, pickle.dumps(function))
        if not here or b"__main__" not in by_name or _is_file():
            return function
        reason = "no worker can read the session or the input that defines it"
    sent = _by_value(function)
    try:
        pickle.loads(pickle.dumps((sent, values)))
    except Exception:
        sent = None
    if not here:
        return sent or function
    if sent is None or (b"__main__" in pickle.dumps(values) and not _is_file()):
        raise ValueError(f"workers need a function that they can import, got {name_of(function)!r} ({reason}): {HOW}")
    return sent


def _by_value(function: Function) -> ByValue | None:
    try:
        from cloudpickle import Pickler
    except ImportError:
        return None

    class Sender(Pickler):
        def reducer_override(self, obj: Any) -> Any:
            # Functions and classes of modules go by name as they are; compiled ones would go as copies.
            if callable(obj) and not isinstance(obj, type | FunctionType) and _has_its_name(obj):
                return obj.__qualname__
            return super().reducer_override(obj)

    code = BytesIO()
    try:
        Sender(code).dump(function)
    except Exception:
        return None
    return ByValue(code.getvalue())


def _has_its_name(obj: Any) -> bool:
    module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return False
    return _found(module, name) is obj


def _found(module: str, name: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _check_name(function: Function) -> None:
    inner: Any = function
    while isinstance(inner, partial):
        inner = inner.func
    if _found(getattr(inner, "__module__", None) or "", getattr(inner, "__qualname__", "?")) is not inner:
        raise ValueError(f"workers need a function that they can import, got {name_of(function)!r}: {HOW}")


def _is_file() -> bool:
    """Whether workers can import what runs here."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    return getattr(main, "__spec__", None) is not None or (file is not None and Path(file).is_file())
