"""What a training run logged, read from a file: rows with a step, for `Diagnosis.along`."""

import csv
import json
from pathlib import Path
from typing import Any

from lazyscope.cli.arguments import InputError


def rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSON list, of the `log_history` of transformers' trainer_state.json, of JSON lines or of a CSV."""
    if not file.is_file():
        raise InputError(
            f"a log must be a file, got {str(file)!r}: name trainer_state.json, metrics.csv, a .json or .jsonl"
        )
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".csv":
            read = csv.DictReader(text.splitlines())
            return [{name: value for name, value in row.items() if name and value} for row in read]
        if file.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        found = json.loads(text)
        return list(found["log_history"] if isinstance(found, dict) else found)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"a log must be a JSON list of rows, a trainer_state.json, JSON lines or a CSV, got {file} "
            f"({type(error).__name__}): write json.dumps(rows)"
        ) from None
