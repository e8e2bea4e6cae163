"""Reading the command line: what was typed becomes a command, or one line about what is wrong with it."""

import io
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import tyro

NUMBERS = {
    "a whole number": r"invalid literal for int\(\) with base 10",
    "a number": "could not convert string to float",
}
SEVERAL = ("--set", "--ignore", "--units")  # options of several values
DASHES = set("─-╰╯+")


class InputError(Exception):
    """The user's mistake, in one line."""


def parse(commands: Mapping[str, Callable[..., Any]], arguments: Sequence[str] | None, *, description: str) -> Any:
    """The command that `arguments` ask for. Raises InputError; SystemExit(0) after --help."""
    said = io.StringIO()
    words = None if arguments is None else _together(arguments)
    try:
        with redirect_stderr(said):
            return tyro.extras.subcommand_cli_from_dict(
                dict(commands), prog="lazyscope", description=description, args=words
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise InputError(_line(said.getvalue())) from None


def _together(words: Sequence[str]) -> list[str]:
    """`--set a --set b` as `--set a b`: of an option given twice tyro takes the last."""
    parts: list[list[str]] = [[]]
    for word in words:
        option, equals, value = word.partition("=")
        start = word.startswith("--")
        parts += [[option, value] if equals and option in SEVERAL else [word]] if start else []
        parts[-1] += [] if start else [word]
    first = {part[0]: part for part in reversed(parts) if part}
    for part in parts:
        if part and part[0] in SEVERAL and part is not first[part[0]]:
            first[part[0]] += part[1:]
            part.clear()
    return [word for part in parts for word in part]


def _line(box: str) -> str:
    # tyro draws a box, in ASCII where the terminal has no more: title, the rule that was broken, a line, help.
    rows = [re.sub(r"\x1b\[[0-9;]*m", "", row).strip("│| ") for row in box.splitlines()]
    body = [row for row in rows[1:] if row]
    first = next((i for i, row in enumerate(body) if not set(row) <= DASHES), 0)
    rule = next((i for i, row in enumerate(body) if i > first and set(row) <= DASHES), len(body))
    words = " ".join(" ".join(body[first:rule]).split()).rstrip(".")
    for kind, sign in NUMBERS.items():
        if (found := re.match(rf"Error parsing (\S+):.*{sign}: (.*?)(?: - .*)?$", words)) is not None:
            words = f"{found[1]} must be {kind}, got {found[2]}"
    return f"{words or 'a command must be one that --help shows'}: `lazyscope COMMAND --help` says what is expected"


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, as batch systems send it ahead of SIGKILL, ends a run the way Ctrl-C does: what is finished is kept."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
