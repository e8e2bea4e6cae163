"""What a cell is: a hash of everything that decides its numbers.

key = sha256([digest, coordinates, seed]),
digest = sha256({function, version, settings, static, root key, precision}),

each as canonical JSON: sorted names, no spaces, floats by `repr`. Code is known by its qualified name, or by the one
that `stored_as` gives it, and by `version` alone, so a change of code that changes numbers needs a new version; `code`
tells of changes without one.
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import math
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)  # made once: three keys a cell
HOW_TO_NAME = "define it at the top level of a module and pass what it needs as settings (functools.partial)"


Named = TypeVar("Named", bound=Callable[..., Any])


class Program(NamedTuple):
    """A function with everything about it that is the same for all cells of a sweep."""

    description: dict[str, Any]
    digest: str


def program(function: Callable[..., Any], *, version: int, key: Any, static: Sequence[str] = ()) -> Program:
    """Describe `function` as JSON: name, version, settings of every `functools.partial`, root key, precision.

    Raises ValueError for a function or a setting that has no name of its own, such as a lambda or a closure.
    """
    import jax

    if isinstance(version, bool) or not isinstance(version, int):
        raise ValueError(f"the version of a cell function must be an integer, got {version!r}")
    inner, arguments, settings = unwrap(function)
    description = {
        "function": name_of(inner, "the cell function"),
        "version": version,
        "settings": {name: canonical(value, f"setting {name!r}") for name, value in settings.items()},
        "static": sorted(static),
        "root_key": {"kind": str(jax.random.key_impl(key)), "data": np.asarray(jax.random.key_data(key)).tolist()},
        "precision": {
            "float": str(jax.numpy.result_type(float)),
            "matmul": jax.config.jax_default_matmul_precision,  # type: ignore[attr-defined]
        },
    }
    if arguments:
        description["arguments"] = [canonical(value, f"argument {i}") for i, value in enumerate(arguments)]
    return described(description)


def described(description: dict[str, Any]) -> Program:
    """The program with its digest."""
    return Program(description, _sha256(description))


def coordinates(coords: Sequence[tuple[str, Any]]) -> list[list[Any]]:
    """The coordinates of a cell as JSON, sorted by name."""
    return [[name, canonical(value, f"axis {name!r}")] for name, value in sorted(coords)]


def cell_key(digest: str, coords: list[list[Any]], seed: int) -> str:
    """The key of a cell of the program with this digest."""
    return _sha256([digest, coords, int(seed)])


def unwrap(function: Callable[..., Any]) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The function inside any number of `functools.partial`, and what they bind."""
    if not isinstance(function, functools.partial):
        return function, (), {}
    inner, arguments, settings = unwrap(function.func)
    return inner, (*arguments, *function.args), settings | function.keywords


def stored_as(name: str) -> Callable[[Named], Named]:
    """Decorate a function or a class that was moved or renamed: stores know it by `name`, `module.qualname` as it was.

    Its finished cells are found again, and those of whatever has it among its settings.
    """

    def named(thing: Named) -> Named:
        thing.stored_as = name  # type: ignore[attr-defined]
        return thing

    return named


def name_of(thing: Any, what: str) -> str:
    """What it is stored as, else `module.qualname`; ValueError for what cannot be imported under that name.

    Nor for what shares its name with another: a method of one object, or a function that another one wraps. What
    `jax.jit` compiles is the function itself.
    """
    if (name := getattr(thing, "__dict__", {}).get("stored_as")) is not None:  # its own: a subclass is another class
        return name
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        raise ValueError(f"a store needs functions it can name, got {name or thing!r} for {what}: {HOW_TO_NAME}")
    if _compiled(thing) and _found(module, name) is not thing:
        return name_of(thing.__wrapped__, what)
    if _shares_its_name(thing, module, name):
        raise ValueError(
            f"a store needs functions it can name, got {name} for {what}, a method of one object or wrapped, so that "
            f"{module} has another one under that name: {HOW_TO_NAME}"
        )
    if module == "__main__":
        module = _main_module(name, what)
    return f"{module}.{name}"


def _compiled(thing: Any) -> bool:
    import jax

    return isinstance(thing, type(jax.jit(_found)))


def _shares_its_name(thing: Any, module: str, name: str) -> bool:
    found = _found(module, name)
    if found is thing or (inspect.ismethod(thing) and inspect.ismethod(found) and found == thing):
        return False
    return inspect.ismethod(thing) or hasattr(thing, "__wrapped__")


def _found(module: str, name: str) -> Any:
    try:
        return operator.attrgetter(name)(sys.modules[module])
    except (KeyError, AttributeError):
        return None


def canonical(value: Any, what: str) -> Any:
    """`value` as JSON, equal for equal values alone; ValueError names `what` where there is no such JSON."""
    if isinstance(value, Enum):
        return {"enum": f"{name_of(type(value), what)}.{value.name}"}
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, functools.partial):
        inner, arguments, settings = unwrap(value)
        return {"partial": [name_of(inner, what), canonical(arguments, what), canonical(settings, what)]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"class": name_of(type(value), what), "fields": _members(fields, what)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {"class": name_of(type(value), what), "fields": _members(value._asdict(), what)}  # type: ignore[attr-defined]
    if isinstance(value, (tuple, list)):
        return [canonical(item, f"{what}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {"mapping": [[canonical(k, what), canonical(v, f"{what}[{k!r}]")] for k, v in value.items()]}
    if hasattr(value, "__array__"):
        return _array(value, what)
    if callable(value):
        return {"function": name_of(value, what)}
    raise ValueError(
        f"a store needs settings that it can write down (numbers, strings, tuples, dataclasses, arrays, functions), "
        f"got {type(value).__name__} for {what}: use one of these"
    )


def to_json(value: Any) -> bytes:
    """Canonical JSON."""
    return _ENCODER.encode(value).encode()


def _members(fields: Mapping[str, Any], what: str) -> dict[str, Any]:
    return {name: canonical(value, f"{what}.{name}") for name, value in fields.items()}


def _array(value: Any, what: str) -> dict[str, Any]:
    import jax

    if isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        return {"key": str(jax.random.key_impl(value)), "data": np.asarray(jax.random.key_data(value)).tolist()}
    array = np.ascontiguousarray(value)
    if array.dtype.hasobject:
        raise ValueError(f"a store needs arrays of numbers, got dtype object for {what}: convert it first")
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    return {"array": f"{array.dtype.str} {array.dtype.name}", "shape": list(np.shape(value)), "sha256": digest}


def _main_module(name: str, what: str) -> str:
    # "__main__" is another program every time; the file or module that runs is what an import would call it.
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return spec.name
    if file is None:
        raise ValueError(f"a store needs functions it can name, got {name} of a session for {what}: {HOW_TO_NAME}")
    return Path(file).stem


def _sha256(value: Any) -> str:
    return hashlib.sha256(to_json(value)).hexdigest()
