"""`lazyscope zoo`: which models of PyTorch's libraries are known to convert."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from lazyscope.cli.arguments import InputError

KNOWN = Path(__file__).with_name("zoo.json")  # written by `benchmarks/zoo.py --table`


@dataclass
class Zoo:
    """Name the models of other libraries that `from_torch` is known to convert, and those that it refuses.

    Each was converted from random weights, and its outputs, a transposed product and a second-order product were
    compared with PyTorch's in float64.

    Example: lazyscope zoo lstm
    """

    words: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[WORD ...]")] = ()
    """Show models with one of these words in their names; none means all."""
    json: bool = False
    """Print a JSON object instead of the table."""

    def run(self) -> int:
        """Print the table."""
        import json

        known = json.loads(KNOWN.read_text())
        found = {family: self._asked(models) for family, models in known["families"].items()}
        if not any(found.values()):
            raise InputError(
                f"a word must be in the name of a known model, got {', '.join(self.words)}: `lazyscope zoo` shows all; "
                "a model that is not there may well convert, try it"
            )
        print(json.dumps({**known, "families": found}) if self.json else _as_text({**known, "families": found}))
        return 0

    def _asked(self, models: dict[str, str]) -> dict[str, str]:
        words = [word.lower() for word in self.words]
        return {name: why for name, why in models.items() if not words or any(word in name.lower() for word in words)}


def _as_text(known: dict[str, Any]) -> str:
    """Families with the models that convert, and a paragraph for each that does not."""
    from lazyscope.cli.tables import wrapped

    parts = []
    for family, models in known["families"].items():
        right = [name for name, why in models.items() if not why]
        if models:
            parts.append(f"{family}: {len(right)} of {len(models)} convert")
        if right:
            parts.append(wrapped("; ".join(right)))
        parts += [wrapped(f"not {name}: {why}") for name, why in models.items() if why]
    return "\n".join([*parts, wrapped(f"with {known['versions']}", "")])
