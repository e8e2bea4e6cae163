"""What a diagnosis costs: its parts add up, and measuring them changes no number; where compiled programs are kept."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from fresh import python

import lazyscope as ls
from lazyscope.cli import programs
from lazyscope.cli.arguments import InputError
from lazyscope.diagnose.costs import Meter

KEY = jax.random.key(0)
PROBLEM = ls.teacher_student(KEY, n=12, d=3, n_test=6)


@pytest.mark.parametrize(("device", "of"), [("cpu", "time.process_time"), ("gpu", "time.perf_counter")])
def test_parts_begin_at_0_or_by_their_names_and_compiling_is_told_apart(monkeypatch, device, of):
    """Processor time where the processor computes; a card's work is none."""
    clock = iter([0.0, 1.0, 1.5, 3.5, 4.0, 4.5, 7.0])
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    monkeypatch.setattr(of, lambda: next(clock))
    heard = []
    meter = Meter(lambda *call: heard.append(call), ("second",))
    meter(0, 10, "first")
    meter(5, 10, "first")
    meter.hear("/jax/core/compile/jaxpr_trace_duration", 9.0)  # at 1.5
    meter.hear("/jax/core/compile/backend_compile_duration", 9.0)  # at 3.5
    meter(3, 10, "blocks of the first")
    meter(1, 4, "second")  # at 4
    meter(4, 4, "second")
    meter.close()  # at 4.5
    found = meter.costs(0.5, 2.0)
    assert [(cost.part, cost.seconds, cost.gradients, cost.compiling, cost.programs) for cost in found.parts] == [
        ("preparing", 1.0, 2.0, 0.0, 0),
        ("first", 1.0, 2.0, 2.0, 1),
        ("second", 0.5, 1.0, 0.0, 0),
    ]
    assert (found.gradients, found.compiling) == (5.0, 1.0)
    assert len(heard) == 5


def test_measuring_costs_changes_no_number_and_names_every_part():
    model = ls.two_layer(6, 3, jax.numpy.tanh)
    params0 = model.init(jax.random.key(1))
    options = {"key": KEY, "num_steps": 20, "budget": ls.Budget(16, 3, 1, 2, 0, 0, 0, 2)}
    plain = ls.diagnose(model.apply, params0, PROBLEM, **options)
    found = ls.diagnose(model.apply, params0, PROBLEM, costs=True, **options)
    assert plain.costs is None
    assert repr(found) == repr(plain)
    assert found.costs is not None
    parts = [cost.part for cost in found.costs.parts]
    assert parts[0] == "preparing"
    assert parts[-4:] == ["measuring the gap", "measuring j", "measuring layers", "measuring kernels"]
    assert found.costs.gradient > 0
    assert ls.Diagnosis.from_json(found.to_json()).costs == found.costs
    assert len(found.as_dict()["costs"]["parts"]) == len(parts)
    assert sum(name == "cost" for name, _ in found.rows()) == 1


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("linux", {}, "/home/a/.cache/lazyscope"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/lazyscope"),
        ("darwin", {}, "/home/a/Library/Caches/lazyscope"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/lazyscope/Cache"),
    ],
)
def test_programs_lie_where_caches_of_the_system_do(platform, environ, expected):
    assert programs.default_folder(environ, platform, Path("/home/a")) == Path(expected)


def test_the_folder_may_be_named_from_home_and_off_in_any_case(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    code = (
        "from lazyscope.cli import programs; programs.keep(); import jax; print(jax.config.jax_compilation_cache_dir)"
    )
    for said, expected in (("OFF", None), ("~/programs", tmp_path / "home" / "programs")):
        monkeypatch.setenv(programs.VARIABLE, said)
        done = python("-c", code, cwd=tmp_path)
        assert done.stdout.strip() == str(expected), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_folder_that_others_can_write_to_or_that_is_a_file_is_refused(tmp_path, monkeypatch):
    tmp_path.chmod(0o777)
    monkeypatch.setenv(programs.VARIABLE, str(tmp_path))
    with pytest.raises(InputError, match="compiled programs must lie in a folder of yours alone, got"):
        programs.keep()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(programs.VARIABLE, str(tmp_path / "file"))
    with pytest.raises(InputError, match="LAZYSCOPE_CACHE must name a folder of yours, got"):
        programs.keep()


def test_the_programs_written_first_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "MOST", 25)
    for age, name in enumerate(("new", "middle", "old")):
        file = tmp_path / f"{name}-cache"
        file.write_bytes(b"x" * 10)
        os.utime(file, (1000 - age, 1000 - age))
    (tmp_path / "mine.txt").write_bytes(b"x" * 100)
    programs._make_room(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"new-cache", "middle-cache", "mine.txt"}


@pytest.mark.slow
def test_a_second_process_compiles_nothing_and_says_where_programs_are(tmp_path, monkeypatch):
    monkeypatch.setenv(programs.VARIABLE, str(tmp_path / "cache"))
    (tmp_path / "own.py").write_text(
        "import jax, lazyscope as ls\n"
        "model = ls.two_layer(4, 3)\n"
        "problem = ls.teacher_student(jax.random.key(0), n=10, d=3, n_test=5)\n"
        "case = ls.Case(model.apply, model.init(jax.random.key(1)), problem)\n"
    )
    command = ["-c", "from lazyscope.cli import entry; entry()", "diagnose", "own.py:case", "--steps", "20", "--json"]
    runs = [python(*command, cwd=tmp_path) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0], runs[-1].stderr
    first, second = (json.loads(run.stdout) for run in runs)
    assert first["programs"]["compiled"] > 0
    assert second["programs"]["compiled"] == 0
    assert second["programs"]["folder"] == str(tmp_path / "cache")
    assert second["programs"]["bytes"] > 0
    assert {key: first[key] for key in first if key not in ("programs", "costs")} == {
        key: second[key] for key in second if key not in ("programs", "costs")
    }
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
    assert np.isfinite(first["costs"]["gradient"])
