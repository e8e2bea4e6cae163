"""Settings as they stand on the page and in netCDF attributes: every leaf of a figure's settings under its whole path.

A figure says in `stated` what a reader could not see from the values: where its paper states another value or none,
and what was run where the figure varies a field of its protocol itself or makes no use of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

NOT_STATED = "not stated"


@dataclass(frozen=True)
class Setting:
    """What the page says of one setting beside its value.

    `name` is its path in the settings, fields joined by dots; where `run` is given, that is what was run, and
    `name` may be one that they lack. `stated` is the value in the paper, with words behind it if need be;
    `why` is the reason for another value, and `stand_in` the words beside every finding where another value puts
    something else in the place of what the paper speaks of, such as "on digits".
    """

    name: str
    stated: str = ""
    why: str = ""
    run: str = ""
    stand_in: str = ""


def ours(
    run: str, why: str = "a theorem; settings are ours", name: str = "net and data", stand_in: str = ""
) -> Setting:
    """What was run where the paper states nothing."""
    return Setting(name, run=run, stated=NOT_STATED, why=why, stand_in=stand_in)


def unused(prefix: str, *names: str) -> tuple[Setting, ...]:
    """Fields of the protocol at `prefix` that a figure makes no use of."""
    return tuple(Setting(f"{prefix}.{name}", run="not used") for name in names)


# The note trains by "stochastic gradient descent" and stops early (§4.1); the code that it extends does neither.
FULL_BATCH = Setting(
    "training",
    run="full-batch gradient descent on the train loss",
    stated="SGD, applied to the test loss (note §4.1)",
    why="the code of both papers is full-batch and descends the train loss",
)
NOTE_RULE = "improvement by 1e-4 in 100 iterations (note §4.1, §4.4)"
NO_STOP = Setting(
    "early stopping",
    run="none",
    stated=NOTE_RULE,
    why="that rule watches the test loss and ends runs before they converge (note-fig7)",
)
# What only training uses; figures of the criterion at initialisation take their data from the same protocol.
TRAINING = ("num_steps", "step_rule", "test_every", "stop")


def table(settings: Any, seeds: int, said: Sequence[Setting]) -> dict[str, tuple[str, str, str]]:
    """By path: what was run, what the paper states of it, and why it is another value.

    Raises ValueError where a figure speaks of a setting that it lacks.
    """
    rows = {path: (in_words(value), "", "") for path, value in leaves(settings).items()}
    rows["seeds"] = (str(seeds), "", "")
    for setting in said:
        run = setting.run or rows.get(setting.name, ("",))[0]
        if not run:
            raise ValueError(
                f"a setting must be one of the figure's or say what was run, got {setting.name!r}: "
                f"name one of {', '.join(rows)}, or give run="
            )
        rows[setting.name] = (run, setting.stated, "" if _same(run, setting.stated) else setting.why)
    return rows


def stand_ins(shown: Mapping[str, tuple[str, str, str]], said: Sequence[Setting]) -> str:
    """What findings were decided on in place of what the paper states, in words: settings that stand in, fewer trials.

    `shown` is the `table` of what was run; nothing where all is as in the paper.
    """
    words = [s.stand_in for s in said if s.stand_in and not _same(shown[s.name][0], s.stated)]
    trials, stated, _ = shown.get("seeds", ("", "", ""))
    of = stated.split(" ")[0]
    if of.isdecimal() and int(trials) < int(of):
        words.append(f"with {trials} of {of} trials")
    return ", ".join(words)


def _same(run: str, stated: str) -> bool:
    return stated == run or stated.startswith(f"{run} ")


def leaves(settings: Any) -> dict[str, Any]:
    """Every leaf under its path: fields joined by dots, of dataclasses, named tuples and parts that have names."""
    return _leaves(settings, "")


def _leaves(value: Any, path: str) -> dict[str, Any]:
    if not (parts := named_parts(value)):
        return {path: value}
    return {
        leaf: of
        for name, part in parts.items()
        for leaf, of in _leaves(part, f"{path}.{name}" if path else name).items()
    }


def named_parts(value: Any) -> dict[str, Any]:
    """What a value of settings is made of, by name; nothing for a leaf."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, tuple) and (names := getattr(value, "_fields", ())):
        return dict(zip(names, value, strict=True))
    if isinstance(value, tuple) and value and all(isinstance(v, tuple) and is_dataclass(v[-1]) for v in value):
        return dict(value)  # as the nets of a table
    return {}


def in_words(value: Any) -> str:
    """A value as it stands on the page."""
    if isinstance(value, tuple):
        return ", ".join(map(in_words, value))
    if callable(value):
        return value.__name__
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:.15g}" if isinstance(value, float) else str(value)
