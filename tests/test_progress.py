"""Progress: what is heard, that it changes no number, and what Ctrl-C says."""

import importlib
import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from threading import Thread
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyscope as ls
from lazyscope import passes
from lazyscope.cli import main
from lazyscope.cli.terminal import Heard, progress_bar
from lazyscope.criterion import Budget
from lazyscope.dynamics.parts import descent_in_parts
from lazyscope.progress import due, heard, part, silent

KEY = jax.random.key(0)
PROBLEM = ls.teacher_student(KEY, n=12, d=3, n_test=6)
FEW = Budget(
    products=16, jacobian_steps=3, kernel_starts=1, probes=2, coordinates=0, keep=0, random_starts=0, climb_steps=2
)


class Calls(list):
    def __call__(self, *call):
        self.append(call)

    def parts(self):
        return list(dict.fromkeys(what for _, _, what in self))


def net(params, x):
    return jnp.tanh(x @ params["w"]) @ params["v"]


@cache
def start():
    return {"w": jax.random.normal(KEY, (3, 4)), "v": jnp.ones(4)}


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_nobody_listening_costs_nothing_and_a_failure_is_told_once():
    assert heard(None) is silent
    assert heard(silent) is silent
    assert part(silent, "seed 1") is silent
    assert not due(silent)()

    def fails(*call):
        calls.append(call)
        raise OSError("no\nterminal")

    calls = []
    report = heard(fails)
    with pytest.warns(UserWarning, match="progress raised OSError: no terminal: the computation goes on without it"):
        report(0, 2, "a")
    report(1, 2, "a")
    assert calls == [(0, 2, "a")]
    said = Calls()
    part(said, "seed 1")(1, 2, "b")
    assert said == [(1, 2, "seed 1: b")]


def test_a_loop_of_short_steps_reports_ten_times_a_second(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("lazyscope.progress.time.monotonic", lambda: now[0])
    again = due(Calls())
    told = []
    for step in range(100):
        now[0] = 0.01 * step
        told.append(again())
    assert sum(told) == 9
    assert told.index(True) == 10


@pytest.mark.slow
def test_criterion_counts_its_products_and_stays_the_same():
    calls = Calls()
    options = {"key": KEY, "budget": FEW}
    found = ls.criterion(net, start(), PROBLEM, progress=calls, **options)
    assert calls.parts() == ["kappa, products"]
    assert calls[0][:2] == (0, 16)
    assert calls[-1][:2] == (16, 16)
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)
    assert repr(found) == repr(ls.criterion(net, start(), PROBLEM, **options))


@pytest.mark.parametrize("budget", [passes.BUDGET, 1], ids=["compiled loops", "blocks of an example"])
def test_descent_counts_its_steps_and_is_the_same_in_any_parts(budget, monkeypatch):
    monkeypatch.setattr("lazyscope.progress.PAUSE", 0.0)
    options = {"alpha": 1.0, "step_size": 0.1, "num_steps": 40, "memory_budget": budget}
    found = descent_in_parts(net, start(), PROBLEM, **options)
    for seconds, steps in ((0.0, list(range(1, 41))), (1e9, [1, 3, 7, 15, 31, 36, 40])):
        monkeypatch.setattr("lazyscope.dynamics.parts.PART", seconds)
        calls = Calls()
        assert same(found, descent_in_parts(net, start(), PROBLEM, report=calls, **options))
        steps = list(range(1, 41)) if budget == 1 else steps
        assert calls == [(step, 40, "training the model, steps") for step in steps]


@pytest.mark.slow
def test_a_plane_counts_its_points_and_is_the_same_as_point_by_point():
    calls = Calls()

    def loss(params):
        return ls.square_loss(net(params, PROBLEM.x), PROBLEM.y)

    directions = ls.landscape.filter_normalised(KEY, start(), axes={"v": 0})
    surface = ls.landscape.plane(loss, start(), directions, resolution=31, progress=calls)
    assert calls.parts() == ["points"]
    assert len(calls) > 2
    assert calls[0][:2] == (0, 961)
    assert calls[-1][:2] == (961, 961)
    assert same(surface, ls.landscape.plane(loss, start(), directions, resolution=31))
    for i, j in ((0, 0), (15, 15), (30, 30), (7, 22)):
        at = jax.tree.map(lambda w, a, b: w + surface.x[i] * a + surface.y[j] * b, start(), *directions)  # noqa: B023
        np.testing.assert_allclose(surface.values[i, j], loss(at), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", [None, lambda apply, params: jax.tree.map(lambda w: 1.1 * w, params)])
def test_diagnose_tells_its_parts_in_order_and_stays_the_same(trainer):
    calls = Calls()
    options = {"key": KEY, "num_steps": 20, "budget": FEW, "train": trainer}
    found = ls.diagnose(net, start(), PROBLEM, progress=calls, **options)
    ours = ["training the model, steps", "training its linearisation, steps"]
    measured = ["measuring the gap", "measuring j", "measuring layers", "measuring kernels"]
    assert calls.parts() == ["kappa, products", *(ours if trainer is None else ["your trainer, runs"]), *measured]
    assert found.as_dict() == ls.diagnose(net, start(), PROBLEM, **options).as_dict()


# --- on the command line ----------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_is_drawn_on_a_terminal_alone(monkeypatch):
    for stream, quiet, drawn in ((Terminal(), False, True), (Terminal(), True, False), (io.StringIO(), False, False)):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        with progress_bar("name", quiet=quiet) as progress:
            progress(1, 4, "some steps")
            progress(0, 9, "other steps")
        assert bool(stream.getvalue()) == drawn
        assert str(progress) == "at other steps: 0 of 9"


def test_what_was_heard_in_words():
    progress = Heard()
    assert str(progress) == "at the start"
    for done, what in ((0, "a"), (2, "a"), (1, "b")):
        progress(done, 2, what)
    assert str(progress) == "at b: 1 of 2, done: a"


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), RuntimeError("INTERNAL: CpuCallback error: Traceback ...\nKeyboardInterrupt: ")]
)
def test_an_interrupted_diagnosis_says_how_far_it_was_in_one_line(error, monkeypatch, capsys):
    def stopped(*arguments, progress, with_kappa, **options):
        assert not with_kappa
        progress(3, 20, "training the model, steps")
        raise error

    monkeypatch.setattr(importlib.import_module("lazyscope.diagnose"), "diagnose", stopped)
    monkeypatch.setattr("lazyscope.cli.process.prepare_jax", lambda: None)
    monkeypatch.setattr("lazyscope.cli.loading._load", lambda name: case())
    assert main(["diagnose", "two-layer-rich", "--no-kappa"]) == 130
    said = capsys.readouterr().err
    assert said.startswith("lazyscope: interrupted; at training the model, steps: 3 of 20: nothing is kept")
    assert said.count("\n") == 1


def case():
    names = ("train", "alpha", "gates")
    return SimpleNamespace(apply=net, params0=start(), problem=PROBLEM, **dict.fromkeys(names))


LONG = """
import jax, jax.numpy as jnp, lazyscope as ls
problem = ls.teacher_student(jax.random.key(0), n=200, d=20, n_test=10)
case = ls.Case(lambda w, x: jnp.tanh(x @ w["w"]) @ w["v"], {"w": jnp.ones((20, 300)), "v": jnp.ones(300)}, problem)
"""


@pytest.mark.slow
def test_ctrl_c_within_a_long_descent_ends_it_at_once(tmp_path):
    file = tmp_path / "long.py"
    file.write_text(LONG)
    # A shell's background job ignores the signal, and what it starts inherits that.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heard}; from lazyscope.cli import entry; entry()"
    command = [sys.executable, "-c", code, "diagnose", f"{file}:case", "--no-kappa", "--steps", "10000000"]
    master, slave = pty.openpty()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    seen = bytearray()

    def read():
        with suppress(OSError):  # the other end has gone
            while True:
                seen.extend(os.read(master, 4096))

    reader = Thread(target=read, daemon=True)
    reader.start()
    try:
        while not re.search(rb"training the model.*[1-9]\d*/10", seen):  # the progress line: steps are taken
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        out, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert time.monotonic() - began < 10
    reader.join()
    os.close(master)
    assert process.returncode == 130
    assert out == b""
    assert b"10000000 steps of descent each (--steps)" in seen
    told = re.search(rb"interrupted; at training the model, steps: (\d+) of 10000000: nothing is kept", seen)
    assert told is not None
    assert int(told[1]) > 0, "a compiled loop tells how far it is"
    assert b"Traceback" not in seen
