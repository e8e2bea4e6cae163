"""Some models of the zoo, chosen for their operations: `benchmarks/zoo.py` has all, `docs/zoo.md` what came of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lazyscope.cli import main
from lazyscope.cli.zoo import KNOWN

PROGRAMS = (
    "LSTM, bidirectional",
    "attention, padding mask",
    "attention, a query without a key",
    "rotary positions, complex",
    "convolution, transposed",
    "pixel shuffle and resizing",
    "fold and unfold",
    "pooling to a size",
    "weight_norm",
    "orthogonal",
    "tied embedding",
    "in-place operations",
    "einsum",
    "Fourier operator",
    "mixture of experts, by hand",
    "two branches (cond)",
    "normalisations",
)
OTHERS = ("GPT-2, classifier", "LLaMA", "DeBERTa", "T5", "Swin", "Mixtral", "BERT with LoRA")


def outcomes(tmp_path, family, models):
    script = Path(__file__).parents[1] / "benchmarks" / "zoo.py"
    rows = tmp_path / "rows.jsonl"
    command = [sys.executable, str(script), "--families", family, "--rows", str(rows), "--models", *models]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {row["model"]: row.get("why", row["outcome"]) for row in map(json.loads, rows.read_text().splitlines())}


@pytest.mark.slow
def test_small_programs_convert_with_right_derivatives(tmp_path):
    pytest.importorskip("torch")
    assert outcomes(tmp_path, "torch.nn", PROGRAMS) == dict.fromkeys(PROGRAMS, "right")


@pytest.mark.slow
def test_models_of_hugging_face_convert_with_right_derivatives(tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    assert outcomes(tmp_path, "Hugging Face", OTHERS) == dict.fromkeys(OTHERS, "right")


def test_the_command_tells_of_each_family_what_converts_and_why_something_does_not(capsys):
    known = json.loads(KNOWN.read_text())
    assert main(["zoo"]) == 0
    told = capsys.readouterr().out
    for family, models in known["families"].items():
        right = sum(not why for why in models.values())
        assert (f"{family}: {right} of {len(models)} convert" in told) == bool(models)
        assert all(f"not {name}: {why}" in told for name, why in models.items() if why)
    assert main(["zoo", "lstm", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["families"]["torch.nn"]
    assert found
    assert all("LSTM" in name for name in found)
    assert main(["zoo", "no such model"]) == 2
    assert "`lazyscope zoo` shows all" in capsys.readouterr().err
