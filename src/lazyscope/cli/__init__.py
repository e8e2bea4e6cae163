"""The command line. Nothing heavy is imported before it is needed, so that `--help` answers at once."""

import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from lazyscope.cli import streams
from lazyscope.cli.arguments import InputError, parse, terminated_as_interrupted
from lazyscope.cli.crossover import Crossover
from lazyscope.cli.diagnose import Diagnose
from lazyscope.cli.interrupts import INTERRUPTED, interrupts, say_interrupted
from lazyscope.cli.landscape import Landscape
from lazyscope.cli.line import Line
from lazyscope.cli.process import say
from lazyscope.cli.reproduce import Reproduce
from lazyscope.cli.show import List, Report
from lazyscope.cli.store import StoreCommand
from lazyscope.cli.zoo import Zoo

EXAMPLES = """How lazily does a model train? Reproduce two papers on lazy training, figure by figure and claim by claim.

Examples:
  lazyscope list                                   what can be reproduced, and how long it takes
  lazyscope reproduce                              every figure at quick size, page in ./lazyscope-out
  lazyscope reproduce note-fig4 --size paper       one figure with the paper's full settings
  lazyscope reproduce note-fig4 --seeds 10 --check exit status 1 if an outcome is not the expected one
  lazyscope reproduce --size paper --workers 16    in 16 processes; --dask tcp://HOST:8786 on a cluster
  lazyscope diagnose my_model.py:case              how lazily your own model trains, and what to change
  lazyscope diagnose BEFORE AFTER --batch FILE     the same of two folders that transformers wrote
  lazyscope crossover my_model.py:case             the output scale above which it trains lazily
  lazyscope landscape my_model.py:case             the loss around its weights, as picture and data
  lazyscope line my_model.py:case A B              the loss between two checkpoints, and the barrier
  lazyscope zoo lstm                               which PyTorch models are known to convert
  lazyscope diagnose my_model.py:case --out page   the same as a page to look at
  lazyscope report lazyscope-out                   make the page again from what is there
  lazyscope report a/ b/ --out both                diagnoses side by side
  lazyscope --version                              which version this is
  lazyscope store status lazyscope-out             which cells are kept; `check`, `export` and `prune` them
"""

COMMANDS: dict[
    str, Callable[..., Reproduce | Diagnose | Crossover | Landscape | Line | List | Report | StoreCommand | Zoo]
] = {
    "reproduce": Reproduce,
    "diagnose": Diagnose,
    "crossover": Crossover,
    "landscape": Landscape,
    "line": Line,
    "list": List,
    "report": Report,
    "store": StoreCommand,
    "zoo": Zoo,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0 done; 1 unexpected outcome, cells that could not be computed, or an output or a page that could not be written;
    2 bad input; 130 interrupted.
    """
    with streams.kept() as refused:
        status = _run(sys.argv[1:] if arguments is None else list(arguments))
    return status or int(bool(refused))


def _run(words: list[str]) -> int:
    if words == ["--version"]:
        from importlib.metadata import version

        print(f"lazyscope {version('lazyscope')}")
        return 0
    try:
        _check_command(words)
        command = parse(COMMANDS, words, description=EXAMPLES)
        with terminated_as_interrupted():
            return command.run()
    except (InputError, OSError) as error:
        say(_of_files(error) if isinstance(error, OSError) else str(error))
        return 2
    except RuntimeError as error:
        if interrupts(error):
            return say_interrupted()
        if type(error).__name__ != "FailedCellsError":  # its module needs JAX, which most commands never load
            raise
        say(str(error))
        return 1
    except KeyboardInterrupt as stop:
        return say_interrupted(stop)


def _check_command(words: Sequence[str]) -> None:
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        close = get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else "`lazyscope --help` shows them"
        raise InputError(f"a command must be one of {', '.join(COMMANDS)}, got {words[0]!r}: {hint}")


def _of_files(error: OSError) -> str:
    if error.filename is None or not error.strerror:
        return str(error)  # ours, which says it in a line
    return f"files must be read and written, got {error.strerror} for {str(error.filename)!r}: mend it, or name another"


def entry() -> None:
    """The console script."""
    status = main()
    if status == INTERRUPTED:
        os._exit(status)  # the usual way out waits for the compiled program that still runs
    sys.exit(status)
