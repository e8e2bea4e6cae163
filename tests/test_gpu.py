"""`benchmarks/gpu.py` runs from one end to the other where there is no card."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def run(*options):
    plain = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    return subprocess.run(
        [sys.executable, SCRIPT, *options], env=os.environ | plain, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_every_part_runs_at_the_dry_size_and_keeps_nothing():
    kept = SCRIPT.parent / "results" / "gpu.json"
    before = kept.read_bytes() if kept.exists() else None
    done = run("--dry")
    assert done.returncode == 0, done.stderr
    found = {
        name: json.loads(numbers) for name, _, numbers in (line.partition(": ") for line in done.stdout.splitlines())
    }
    figures, diagnoses = ["chizat2019-fig1c", "note-fig3"], ["GPT-2 small, diagnosis", "ViT-B/16, diagnosis"]
    assert list(found) == ["float32 product", "float64 product", "digits", *figures, "VGG-11", *diagnoses]
    assert 1e-8 < found["digits"]["float32 from float64"] < 1e-5
    assert all(found[name]["other than on the CPU"] == [] for name in figures)
    # Two blocks of 12 w² + 13 w weights, two embeddings and the last norm, at w = 16.
    assert found["GPT-2 small, diagnosis"]["weights"] == 2 * (12 * 16**2 + 13 * 16) + (64 + 8) * 16 + 2 * 16
    assert found["VGG-11"]["steps a second"] > 0
    assert (kept.read_bytes() if kept.exists() else None) == before


@pytest.mark.slow
def test_without_a_card_nothing_is_measured_for_one():
    done = run()
    assert done.returncode == 2
    assert "must have a card, got a CPU: install JAX for the card, or pass --dry" in done.stderr
