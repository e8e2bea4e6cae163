"""What a command writes to: streams of any encoding, closed ones, readers that have gone. None costs a result."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

LOST = "standard output did not take the result ({reason}), here it is:"


class Kept:
    """A stream that never raises: it goes quiet when its reader has gone, and holds what it could not pass on."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._unsure = ""  # not flushed yet
        self.lost, self.reason = "", ""
        self._quiet = False

    def write(self, text: str) -> int:
        """Write, or hold it."""
        if self.lost:
            self.lost += text
        elif not self._quiet:
            self._unsure += text
            self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush what is not held."""
        if not (self.lost or self._quiet) and self._try(self._stream.flush):
            self._unsure = ""

    def _try(self, step: Any) -> bool:
        try:
            step()
        except (BrokenPipeError, ValueError):  # closed at one end or the other: nobody wants more
            self._quiet = True
        except OSError as error:
            self.lost, self.reason = self._unsure, error.strerror or type(error).__name__
        else:
            return True
        # The stream would try again when the process ends, and complain.
        with suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def kept() -> Iterator[list[str]]:
    """Standard output and error that cost no result; afterwards the list says whether output was refused, and why.

    What standard output refused (a full disk, say) goes to standard error. Characters that an encoding lacks are
    written as escapes.
    """
    before = sys.stdout, sys.stderr
    streams = [None if stream is None else Kept(stream) for stream in before]
    refused: list[str] = []
    strict = [
        stream for stream in before if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure")
    ]
    for stream in strict:
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.stdout, sys.stderr = streams  # type: ignore[assignment]
    try:
        yield refused
    finally:
        out, error = streams
        if out is not None:
            out.flush()
            if out.lost:
                refused.append(out.reason)
                if error is not None:
                    error.write(f"lazyscope: {LOST.format(reason=out.reason)}\n{out.lost}")
        if error is not None:
            error.flush()
        sys.stdout, sys.stderr = before
        for stream in strict:
            with suppress(ValueError):  # closed meanwhile
                stream.reconfigure(errors="strict")  # type: ignore[union-attr]


@contextmanager
def aside() -> Iterator[None]:
    """What runs inside prints to standard error: standard output is for the result alone."""
    out, error = sys.stdout, sys.stderr
    descriptor = _of_the_process(out)
    if out is not None:
        out.flush()
    saved = None if descriptor is None else os.dup(descriptor)
    if descriptor is not None and (target := _of_the_process(error)) is not None:
        os.dup2(target, descriptor)  # what is not Python prints here
    sys.stdout = error
    try:
        yield
    finally:
        _wait_for_prints()
        sys.stdout = out
        if descriptor is not None and saved is not None:
            os.dup2(saved, descriptor)
            os.close(saved)


def _of_the_process(stream: Any) -> int | None:
    """The descriptor of a stream that is this process's own; none for one that somebody has put in its place."""
    with suppress(AttributeError, OSError, ValueError):
        found = stream.fileno()
        return found if found in (1, 2) else None
    return None


def _wait_for_prints() -> None:
    if "jax" in sys.modules:
        import jax

        with suppress(Exception):  # what a callback raised has been raised where its result was used
            jax.effects_barrier()
