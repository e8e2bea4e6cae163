"""Find the Case a user names on the command line: a built-in one, `FILE.py:OBJECT` or `package.module:OBJECT`.

Naming a file runs it, as importing it would: only name files you trust.
"""

import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from lazyscope.adapters import load_checkpoint
from lazyscope.cli import cases, streams
from lazyscope.cli.arguments import InputError
from lazyscope.cli.interrupts import interrupts
from lazyscope.problems import Case
from lazyscope.progress import Progress
from lazyscope.sweep.sending import OWN, imported

T = TypeVar("T")
FIGURE = "the figure"
GIVEN_BACK = (AttributeError, LookupError, TypeError)

BUILT_IN: dict[str, Callable[[], Case]] = {
    "two-layer-symmetrised": cases.symmetrised,
    "two-layer-plain": cases.plain,
    "two-layer-rich": cases.rich,
}


def on_case(name: str, use: Callable[[Any], T]) -> T:
    """`use` of the Case called `name`, or of the one that the named function returns, of lazyscope or lazyscope.torch.

    Raises InputError with one line: an unknown built-in name, a missing file or object, something that is no Case, a
    case that `use` refuses, an error in the user's own file.
    """
    with in_one_line(name, "the case"), streams.aside():  # the user's own prints
        return use(_load(name))


@contextmanager
def in_one_line(name: str, what: str) -> Iterator[None]:
    """InputError with one line for what is refused inside, and for an error in the user's own file."""
    try:
        yield
    except Exception as error:
        if interrupts(error):
            raise KeyboardInterrupt from None
        theirs = _blame(error, name)
        if theirs is not None:
            raise InputError(f"{what} must run, got an error in it: {theirs}") from error
        if isinstance(error, ValueError | FileNotFoundError):
            raise InputError(str(error).splitlines()[0]) from error
        if isinstance(error, GIVEN_BACK) and what == FIGURE:  # by what it returned, not where it ran
            said = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
            raise InputError(
                f"{name} must give what a figure gives, got {said}: look at its claims, draw and numbers"
            ) from error
        raise


def on_figure(name: str) -> Any:
    """The Figure that `FILE.py:OBJECT` names. Raises InputError as `on_case` does."""
    from lazyscope.papers.figure import Figure

    with in_one_line(name, FIGURE), streams.aside():
        found = _object(name, "a figure", "a lazyscope.papers.figure.Figure in it")
    if not isinstance(found, Figure):
        raise InputError(f"{name} must be a lazyscope.papers.figure.Figure, got {type(found).__name__}: name one")
    return found


def in_jax(case: Any, progress: Progress) -> Case:
    """The case itself, or what one of PyTorch is in JAX."""
    return case if isinstance(case, Case) else case.in_jax(progress)


def weights(path: Path, params0: Any, ignore: Sequence[str]) -> Any:
    """The parameters in a file; a refusal names the option of the command line, not the argument of the library."""
    try:
        return load_checkpoint(path, params0, ignore=ignore)
    except ValueError as error:
        raise ValueError(str(error).replace("in ignore=[...]", "with --ignore NAME ...")) from error


def _load(name: str) -> Any:
    if name.endswith(".py"):
        raise ValueError(f"a case in a file is FILE.py:OBJECT, got {name!r}: add :OBJECT, a lazyscope.Case in it")
    if ":" not in name:
        if name not in BUILT_IN:
            close = get_close_matches(name, BUILT_IN, n=1)
            hint = f"did you mean {close[0]}?" if close else "or FILE.py:OBJECT for your own"
            raise ValueError(f"a case must be one of {', '.join(BUILT_IN)}, got {name!r}: {hint}")
        return BUILT_IN[name]()
    return _as_case(_object(name, "a case", "a lazyscope.Case in it, or a function that returns one"), name)


def _object(name: str, what: str, wanted: str) -> Any:
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise ValueError(f"{what} of your own is FILE.py:OBJECT or package.module:OBJECT, got {name!r}: name both")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_module(place)
    if not hasattr(module, attribute):
        known = [n for n in vars(module) if not n.startswith("_")]
        close = get_close_matches(attribute, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"name {wanted}"
        raise ValueError(f"the object must be there, got {attribute!r} that is not in {place}: {hint}")
    return getattr(module, attribute)


def _blame(error: BaseException, name: str) -> str | None:
    """`FILE:LINE raised TYPE: MESSAGE` for an error in the code of the case `name`, None for one of lazyscope's own.

    The error is the user's where the innermost frame, among those of lazyscope and of the case's folder, is in the
    folder.
    """
    place = name.rpartition(":")[0]
    file = place if place.endswith(".py") else getattr(sys.modules.get(place), "__file__", None)
    if not file:
        return None
    folder, own = Path(file).resolve().parent, Path(__file__).parents[1]
    where = None
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename).resolve()
        if path.is_relative_to(own):
            where = None
        elif path.is_relative_to(folder) and "site-packages" not in path.parts:
            where = f"{path.name}:{frame.lineno}"
    if isinstance(error, SyntaxError) and error.filename:
        where = f"{Path(error.filename).name}:{error.lineno}"
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return where and f"{where} raised {type(error).__name__}: {message}"


def _as_case(found: Any, name: str) -> Any:
    module = hasattr(found, "forward")  # of PyTorch: a signature that takes anything
    made = found() if callable(found) and not module and _takes_nothing(found) else found
    # Whoever made a case of PyTorch has imported it.
    of_torch = getattr(sys.modules.get("lazyscope.torch"), "Case", ())
    if not isinstance(made, Case) and not isinstance(made, of_torch):
        raise ValueError(
            f"{name} must be a lazyscope.Case or a function without arguments that returns one, got "
            f"{type(made).__name__}: return Case(apply, params0, problem), for a PyTorch module "
            "lazyscope.torch.Case(model, batches)"
        )
    return made


def _takes_nothing(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return True


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"the file must exist, got {str(path)!r}: name it as FILE.py:OBJECT")
    # Dataclasses and pickle look a class's module up, under a name that no installed package has. A store keeps cells
    # under it, so that two files of one name must not share it.
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    return imported(f"{OWN}{path.stem}_{place}", path.resolve())


def _from_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ValueError(
                f"the module must be importable, got {name!r}: install it or name FILE.py:OBJECT"
            ) from None
        raise
