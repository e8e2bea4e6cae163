"""How far a computation is: the one type of callback that everything which may take long calls.

    def progress(done: int, total: int, what: str) -> None: ...

`done` of `total` of what `what` names ("training the model, steps"). Where `what` changes and `done` starts anew,
another part has begun. It is called from Python, between compiled programs, and changes no number.
"""

import time
import warnings
from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""`progress(done, total, what)`."""

PAUSE = 0.1  # seconds between two reports of a loop of many short steps


def silent(done: int, total: int, what: str) -> None:
    """Nobody listens."""


def heard(progress: Progress | None, doing: str = "the computation") -> Progress:
    """`progress` as long as it works, since what it draws is worth no result; `silent` for None."""
    if progress is None or progress is silent:
        return silent
    listening = True

    def report(done: int, total: int, what: str) -> None:
        nonlocal listening
        if not listening:
            return
        try:
            progress(done, total, what)
        except Exception as error:
            listening = False
            told = " ".join(f"{type(error).__name__}: {error}".split())
            warnings.warn(f"progress raised {told}: {doing} goes on without it", stacklevel=2)

    return report


def part(report: Progress, prefix: str) -> Progress:
    """`report` of what goes on inside something larger, which `prefix` names."""
    if report is silent:
        return silent
    return lambda done, total, what: report(done, total, f"{prefix}: {what}")


def due(report: Progress) -> Callable[[], bool]:
    """Whether it is time to report again from a loop of short steps; never where nobody listens."""
    if report is silent:
        return lambda: False
    last = time.monotonic()

    def now() -> bool:
        nonlocal last
        if time.monotonic() - last < PAUSE:
            return False
        last = time.monotonic()
        return True

    return now
