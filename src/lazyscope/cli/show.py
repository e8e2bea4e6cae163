"""`lazyscope list` and `lazyscope report`: what there is to reproduce, and the page of what was."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from lazyscope.cli.arguments import InputError
from lazyscope.cli.process import check_folder
from lazyscope.papers.registry import FIGURES, SIZES

KEPT = "diagnosis.json"  # beside the page of a diagnosis


@dataclass
class List:
    """Name, title and wall time of every figure.

    Example: lazyscope list --json
    """

    json: bool = False
    """Print a JSON list instead of the table."""

    def run(self) -> int:
        """Print the table of figures."""
        from lazyscope.cli.listing import described, duration

        if self.json:
            import json

            print(json.dumps(described(FIGURES)))
            return 0
        from lazyscope.cli.tables import print_table

        print_table(
            ("figure", "title", *SIZES),
            [(name, entry.title, *map(duration, entry.seconds)) for name, entry in FIGURES.items()],
            title="Wall time on two cores",
            wraps=("title",),
            numbers=SIZES,
        )
        return 0


@dataclass
class Report:
    """Make the page again from the results in a folder, or one page of several diagnoses side by side.

    Example: lazyscope report lazyscope-out
    Example: lazyscope report before/diagnosis.json after/diagnosis.json --out both
    """

    results: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR | DIAGNOSIS.json ...")]
    """A folder that `lazyscope reproduce` or `diagnose --out` wrote; or diagnoses, kept by `diagnose --out` or
    `Diagnosis.to_json`, or the folders with them."""
    out: Path | None = None
    """Folder for the page of several diagnoses."""

    def run(self) -> int:
        """Write index.html and print its path."""
        from lazyscope.report import write_page

        if self.out is not None:
            check_folder(self.out)
        try:
            if self.out is None and len(self.results) == 1 and not self.results[0].is_file():
                print(write_page(self.results[0]))
            elif self.out is None or not self.results:
                raise InputError(
                    "a report takes one folder, or diagnoses and --out, got "
                    f"{' '.join(map(str, self.results)) or 'neither'}: add --out DIR for a page of diagnoses"
                )
            else:
                print(self._side_by_side(self.out))
        except ValueError as error:
            raise InputError(str(error)) from None
        return 0

    def _side_by_side(self, out: Path) -> Path:
        from lazyscope.diagnose import Diagnosis
        from lazyscope.views import write_page

        files = [path / KEPT if path.is_dir() else path for path in self.results]
        found = {}
        for file, name in zip(files, _names(files), strict=True):
            if not file.is_file():
                raise InputError(f"a diagnosis must be a file, got {str(file)!r}: `diagnose --out DIR` writes {KEPT}")
            try:
                found[name] = Diagnosis.from_json(file.read_bytes())
            except ValueError as error:
                raise InputError(f"{file}: {error}") from None
        words = ["lazyscope", "report", *map(str, self.results), "--out", str(out)]
        return write_page(found, out, command=shlex.join(words))


def _names(files: Sequence[Path]) -> list[str]:
    """What each is called on the page: the file's name, its folder's where that is `diagnosis.json`; all different."""
    names = [file.resolve().parent.name if file.name == KEPT else file.stem for file in files]
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]
