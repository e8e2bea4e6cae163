"""Ctrl-C: one line on what is finished and how to go on, whatever the process is doing."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from lazyscope.cli.process import message, say

INTERRUPTED = 130
GRACE = 1.0  # seconds after Ctrl-C in which Python may hear of it by itself


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with one line on what is finished and how to go on."""


def interrupts(error: BaseException) -> bool:
    """Whether an error is Ctrl-C, that a callback of XLA heard and XLA reports in words of its own."""
    return "KeyboardInterrupt" in str(error)


def say_interrupted(stop: BaseException | None = None) -> int:
    """Say it; the exit status."""
    say(_told(stop))
    return INTERRUPTED


def _told(stop: BaseException | None) -> str:
    return f"interrupted; {stop if isinstance(stop, Interrupted) else 'the same command starts anew'}"


@contextmanager
def how_to_go_on(line: Callable[[], str], *, keeps: bool = False) -> Iterator[None]:
    """What Ctrl-C says of what runs inside.

    Python hears of it between two compiled programs. Where nothing inside has to be kept, and a program takes longer
    than `GRACE`, the process ends there and then.
    """
    try:
        if keeps or threading.current_thread() is not threading.main_thread():
            yield
        else:
            with _at_once(line):
                yield
    except KeyboardInterrupt:
        raise Interrupted(line()) from None


@contextmanager
def _at_once(line: Callable[[], str]) -> Iterator[None]:
    ended = threading.Event()
    out, into = os.pipe()
    os.set_blocking(into, False)
    before = signal.set_wakeup_fd(into, warn_on_full_buffer=False)  # written to by the signal itself, not by Python

    def wait() -> None:
        heard = os.read(out, 1)
        if heard in (bytes([signal.SIGINT]), bytes([signal.SIGTERM])) and not ended.wait(GRACE):
            # Past all that other threads may hold: a progress line hides the cursor, and is drawn under a lock.
            with suppress(OSError):
                clear = "\r\x1b[K\x1b[?25h" if os.isatty(2) else ""
                os.write(2, f"{clear}{message(_told(Interrupted(line())))}\n".encode(errors="replace"))
            os._exit(INTERRUPTED)

    watching = threading.Thread(target=wait, daemon=True)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.write(into, b"\0")
        watching.join()
        os.close(out)
        os.close(into)
