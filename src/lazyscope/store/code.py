"""What the code of a function says: a fingerprint that no version of Python, comment or layout changes.

A cell is known by its function's name and version (`keys`); the fingerprint is kept beside them, so that a change of
code without one of the version can be told. It covers the source of the function and of every function and class that
it names in its own package, however deep, with the constants that they use, their defaults and what they close over.
"""

import ast
import dataclasses
import hashlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FunctionType, ModuleType
from typing import Any

from lazyscope.store.keys import canonical, to_json, unwrap

Watched = Callable[[str], bool]


def fingerprint(function: Callable[..., Any]) -> str | None:
    """The hash of a function's code, with the functions among its settings.

    None where there is no source to read, and for lazyscope's own: their versions are kept by its tests.
    """
    inner = inspect.unwrap(unwrap(function)[0])
    package = str(getattr(inner, "__module__", "")).partition(".")[0]
    if package == "lazyscope":
        return None

    def watched(module: str) -> bool:
        return module.partition(".")[0] == package

    found: dict[str, str] = {}
    constants: dict[str, Any] = {}
    for thing in _code_in(function):
        if watched(thing.__module__):
            found = reached(thing, watched, found, constants)
    if f"{inner.__module__}.{inner.__qualname__}" not in found:
        return None
    return hashlib.sha256(to_json([sorted(found.items()), sorted(constants.items())])).hexdigest()


def reached(
    thing: Any, watched: Watched, found: dict[str, str] | None = None, constants: dict[str, Any] | None = None
) -> dict[str, str]:
    """`thing` and every function and class of watched modules that its source names, however deep, in canonical form.

    `constants` gets the values that they use, as JSON.
    """
    found = {} if found is None else found
    constants = {} if constants is None else constants
    name = f"{thing.__module__}.{thing.__qualname__}"
    if name in found:
        return found
    try:
        tree = _source(thing)
    except (OSError, TypeError, SyntaxError):  # built in, or of a session without a file
        return found
    found[name] = _canonical(tree)
    for used, value in _uses(thing, tree, watched):
        for code in _code_in(value):
            if watched(code.__module__):
                reached(code, watched, found, constants)
        if not callable(value):
            try:
                constants[f"{name} {used}"] = canonical(value, used)
            except ValueError:
                continue  # of no kind that decides numbers: a logger, a path
    return found


def _uses(thing: Any, tree: ast.AST, watched: Watched) -> Iterator[tuple[str, Any]]:
    """Names and values outside of a function that it can use."""
    namespace = vars(sys.modules[thing.__module__])
    for used in sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & set(namespace)):
        if not isinstance(namespace[used], ModuleType):
            yield used, namespace[used]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = namespace.get(node.value.id)
            if isinstance(module, ModuleType) and watched(module.__name__) and hasattr(module, node.attr):
                yield f"{node.value.id}.{node.attr}", getattr(module, node.attr)
    if isinstance(thing, FunctionType):
        yield from ((f"default {i}", value) for i, value in enumerate(thing.__defaults__ or ()))
        yield from ((f"default {name}", value) for name, value in (thing.__kwdefaults__ or {}).items())
        for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True):
            try:
                yield f"closure {name}", cell.cell_contents
            except ValueError:  # not bound yet
                continue


def _code_in(value: Any) -> Iterator[Any]:
    """The functions and classes in a value, inside what wraps them."""
    if isinstance(value, partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            yield from _code_in(part)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _code_in(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _code_in(part)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _code_in(getattr(value, field.name))
    elif callable(value):
        inner = inspect.unwrap(value)
        if inspect.isfunction(inner) or inspect.isclass(inner):
            yield inner


def _source(thing: Any) -> ast.AST:
    """The syntax tree without comments, layout and docstrings."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.ClassDef):
            node.decorator_list = []  # in the source that Python gives of a class from 3.11 on, but not from 3.13 on
        if isinstance(node, ast.JoinedStr):  # Python 3.12 ends a format with an empty string
            node.values = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
    return tree


def _canonical(node: Any) -> str:
    """What a tree says, whatever the version of Python: `ast.unparse` and `ast.dump` differ between them."""
    if isinstance(node, ast.AST):
        said = [f"{name}={_canonical(value)}" for name, value in ast.iter_fields(node) if value not in (None, [])]
        return f"{type(node).__name__}({', '.join(said)})"
    return f"[{', '.join(map(_canonical, node))}]" if isinstance(node, list) else repr(node)
