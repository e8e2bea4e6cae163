"""The same training at other output scales, kept on disk as it goes: what `lazyscope diagnose --scales` adds."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from lazyscope.cli.process import say
from lazyscope.diagnose import Diagnosis
from lazyscope.store import write_atomic

FACTORS = tuple(2.0**k for k in range(-4, 5))  # from a sixteenth of the case's own scale to sixteen times it


def at_scales(base: Diagnosis, diagnosed: Callable[[float], Diagnosis], folder: Path) -> list[Diagnosis]:
    """`base` and what `diagnosed(alpha)` gives at the other scales, by alpha.

    What `folder` has is not computed again, where it was computed beside the same `base`: another model, other data or
    settings give another one. A scale at which training fails is said and left out.
    """
    # Words and numbers of the base, to the last digit: equal for the same case on the same machine only.
    digest = hashlib.sha256(repr(base).encode()).hexdigest()[:16]
    found = []
    for factor in FACTORS:
        alpha = base.alpha * factor
        one = base if factor == 1 else _kept(folder / f"{digest}-{alpha!r}.json", lambda a=alpha: diagnosed(a))
        if one is not None:
            say(f"alpha = {alpha:g}: g = {one.gap}, j = {one.differential}, {one.regime}")
            found.append(one)
    return found


def _kept(file: Path, make: Callable[[], Diagnosis]) -> Diagnosis | None:
    if file.is_file():
        try:
            return Diagnosis.from_json(file.read_bytes())
        except ValueError:
            say(f"{file} cannot be read and is computed again")
    try:
        found = make()
    except ValueError as error:
        say(f"left out, {str(error).splitlines()[0]}")
        return None
    write_atomic(file, found.to_json().encode())
    return found
