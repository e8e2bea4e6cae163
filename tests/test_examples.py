"""The walk-throughs run, and what they say is so."""

import logging
import runpy
import subprocess
import sys
import time
from pathlib import Path

import fresh
import jax
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def promotion_as_in_a_users_process():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def run(name):
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]()


@pytest.mark.slow
def test_fine_tuning_is_not_lazy_and_lora_less_so(capsys):
    found = run("fine_tuning")
    (lora, moved), (whole, moved_whole) = found["LoRA"], found["all weights"]
    assert (lora.regime, whole.regime) == ("not lazy", "not lazy")
    assert lora.gap > whole.gap
    assert lora.differential > whole.differential
    # The b of LoRA starts at zero, nothing else does.
    assert {name for name, absolute in moved.absolute.items() if absolute} == {"lora/0/b", "lora/1/b"}
    assert not any(moved_whole.absolute.values())
    assert "(absolute)" in capsys.readouterr().out
    # The two factors of a correction are one layer.
    assert {row.name for row in lora.groups} == {"head", "lora/0", "lora/1"}
    for diagnosis in (lora, whole):
        assert diagnosis.losses["loss, trained"] < 0.6 * diagnosis.losses["loss at start"]


@pytest.mark.slow
def test_monitoring_shows_the_run_with_a_large_scale_staying_near_its_linearisation(caplog):
    with caplog.at_level(logging.INFO, logger="training"):
        runs = run("monitoring")
    assert len(caplog.records) == sum(len(rows) for rows in runs.values())
    for rows in runs.values():
        assert rows[0]["gap"] == rows[0]["differential"] == rows[0]["movement"] == 0
        assert rows[0]["kernel_change"] < 1e-6  # float32, two programs of one kernel: zero to rounding
        assert rows[-1]["loss"] < 0.1
    assert runs["plain"][-1]["gap"] > 0.3
    assert runs["plain"][-1]["differential"] > 0.5
    assert runs["scaled"][-1]["gap"] < 0.05
    assert runs["scaled"][-1]["differential"] < 0.1 * runs["plain"][-1]["differential"]


@pytest.mark.slow
def test_a_flax_model_with_its_own_trainer_is_diagnosed():
    found = run("flax_model")
    assert found.regime == "not lazy"
    assert found.losses["loss, trained"] < found.losses["loss, linearised"] < found.losses["loss at start"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, of its forward mode
def test_a_pytorch_model_is_diagnosed_by_its_own_loop_and_by_its_weights():
    pytest.importorskip("torch")
    by_loop, by_end = run("torch_model")
    assert (by_loop.regime, by_end.regime) == ("not lazy", "not lazy")
    assert by_loop.differential == by_end.differential
    assert by_loop.losses["loss, trained"] == by_end.losses["loss, trained"] < 0.2 * by_end.losses["loss at start"]
    assert by_loop.gap != by_end.gap


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning:torch")
def test_fine_tuning_a_transformer_is_lazy_in_neither_way_and_lora_moves_most(capsys):
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    found = run("fine_tune_transformer")
    for way in found.values():
        assert way["accuracy"] > way["before"] + 0.1
        assert way["linearised"] > way["before"] + 0.1
        assert way["lazyscope/gap"] > 0.2
        assert way["lazyscope/differential"] > 0.5
        assert way["trained gap"] > 0.25
    assert found["LoRA"]["lazyscope/movement"] > 5 * found["all weights"]["lazyscope/movement"]
    assert "changed most: base_model.model.transformer" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated")
def test_a_lightning_run_logs_how_its_nets_leave_their_linearisations():
    pytest.importorskip("lightning")
    for rows in run("lightning_run").values():
        measured = {int(row["step"]): row for row in rows if "lazyscope/gap" in row}
        assert list(measured) == [1, 60, 120, 180]
        assert [row["accuracy"] for row in rows if "accuracy" in row][-1] > 0.9
        assert measured[1]["lazyscope/gap"] < 0.15 < measured[180]["lazyscope/gap"]
        assert measured[180]["lazyscope/differential"] > 0.5
        assert measured[180]["lazyscope/buffers"] < measured[1]["lazyscope/buffers"]


@pytest.mark.slow
def test_the_crossover_lies_above_the_predicted_scale():
    with jax.enable_x64(True):
        predicted, found = run("choose_alpha")
    assert found.low <= found.alpha <= found.high
    assert 1 < found.alpha / predicted < 30


@pytest.mark.slow
def test_the_landscape_has_its_centre_low_and_the_start_off_the_plane(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run("landscape_of_a_net")
    assert found["trained"] < 1e-3 * found["start"]
    assert found["off"] > 0.5
    assert (tmp_path / "landscape.png").stat().st_size > 10_000


def swept(*arguments, cwd):
    done = fresh.python(EXAMPLES / "local_sweep.py", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_sweep_that_is_killed_goes_on_and_is_extended(tmp_path):
    command = [sys.executable, str(EXAMPLES / "local_sweep.py")]
    process = subprocess.Popen(command, cwd=tmp_path, env=fresh.environment())
    try:
        while not list(tmp_path.rglob("*.npz")):  # the first cells are kept
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    first, *rows = swept(cwd=tmp_path)
    kept = int(first.split(" of 12 cells were in the store")[0])
    assert 1 <= kept < 12
    assert swept(cwd=tmp_path) == ["12 of 12 cells were in the store", *rows]
    more = swept("--taus", "0.1", "0.3", "1", "3", "10", "--seeds", "4", cwd=tmp_path)
    assert more[0] == "12 of 20 cells were in the store"
    assert len(more) == 6


@pytest.mark.slow
def test_a_sweep_on_workers_is_kept_for_the_next_one(tmp_path):
    options = ["--taus", "1", "3", "--workers", "1"]
    first, *rows = swept(*options, cwd=tmp_path)
    assert first == "0 of 6 cells were in the store"
    assert swept(*options, cwd=tmp_path) == ["6 of 6 cells were in the store", *rows]


def test_every_example_is_linked_from_the_readme():
    readme = (EXAMPLES.parent / "README.md").read_text()
    assert not [file.name for file in EXAMPLES.glob("*.py") if f"(examples/{file.name})" not in readme]
