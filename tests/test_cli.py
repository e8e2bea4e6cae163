import errno
import io
import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import tyro
import xarray as xr
from safetensors.numpy import save_file

from lazyscope.cli import main, streams
from lazyscope.cli.arguments import parse
from lazyscope.cli.loading import on_case
from lazyscope.papers.registry import FIGURES

ENTRY = "from lazyscope.cli import entry; entry()"


def lines(text):
    return [line for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce", "note-fgi4"], "did you mean note-fig4?"),
        (["reproduce", "zzz"], "`lazyscope list` shows them"),
        (["reproduce", "note-fig4", "--size", "huge"], "--size must be one of tiny, quick, paper, got 'huge'"),
        (["reproduce", "note-fig4", "--size", "quik"], "did you mean quick?"),
        (["reprodcue"], "did you mean reproduce?"),
        (["nothing-like-it"], "`lazyscope --help` shows them"),
        (["reproduce", "note-fig4", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["reproduce", "note-fig4", "--data", "nowhere"], "--data must be a folder with CIFAR-10, got 'nowhere'"),
        (["reproduce", "--workers", "0"], "--workers must be at least 1, got 0: leave it out"),
        (["reproduce", "--workers", "1", "--dask", "h:1"], "one place, got --workers and --dask: name one"),
        (["reproduce", "--dask", "nowhere"], "a Dask address must be [PROTOCOL://]HOST:PORT, got 'nowhere'"),
        (["reproduce", "--seeds", "x"], "--seeds must be a whole number, got 'x': `lazyscope COMMAND --help`"),
        (["landscape", "two-layer-rich", "--extent", "x"], "--extent must be a number, got 'x'"),
        (["reproduce", "--sede", "3"], "Unrecognized options: --sede"),
        ([], "Expected one of {reproduce,"),
        (["report", "nowhere"], "a report needs a folder with results"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(lines(captured.err)) == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_an_out_that_is_a_file_is_refused(capsys, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("kept")
    for out in (blocker, blocker / "below"):
        assert main(["reproduce", "note-fig4", "--out", str(out)]) == 2
        assert "is a file, name another place" in capsys.readouterr().err
    assert blocker.read_text() == "kept"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder in which nobody can make one is Linux's")
def test_an_out_that_cannot_be_made_is_refused_before_anything_is_computed(capsys):
    for command in (["reproduce", "note-fig4"], ["diagnose", "two-layer-rich"], ["landscape", "two-layer-rich"]):
        assert main([*command, "--out", "/proc/lazyscope/out"]) == 2
        error = capsys.readouterr().err
        assert "--out must be a folder that can be written to, got No such file or directory" in error
        assert len(lines(error)) == 1


def test_an_option_of_several_values_given_twice_has_those_of_both():
    @dataclass
    class Asked:
        changes: Annotated[tuple[str, ...], tyro.conf.arg(name="set")] = ()
        ignore: tuple[str, ...] = ()
        out: str = ""

    words = ["--set", "a=1", "--ignore", "x", "--out", "here", "--set=b=2", "c=-3", "--ignore", "y"]
    found = parse({"ask": Asked, "other": Asked}, ["ask", *words], description="")
    assert (found.changes, found.ignore, found.out) == (("a=1", "b=2", "c=-3"), ("x", "y"), "here")


def test_help_imports_no_jax_and_shows_examples():
    code = (
        "import sys; from lazyscope.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print('jax' in sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.strip().endswith("False")
    assert "lazyscope reproduce note-fig4" in done.stdout
    # Processor time, because the wall also counts what else the machine does.
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 0.5


def test_list_names_every_figure(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in FIGURES)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """`lazyscope reproduce note-fig4 --size tiny`, as a user runs it."""
    out = tmp_path_factory.mktemp("tiny")
    done = subprocess.run(
        [sys.executable, "-c", ENTRY, "reproduce", "note-fig4", "--size", "tiny", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    return out, done


def test_reproduce_prints_the_path_of_the_page_last(tiny):
    out, done = tiny
    assert done.returncode == 0, done.stderr
    assert lines(done.stdout)[-1] == str(out / "index.html")
    assert (out / "index.html").stat().st_size > 20_000


def test_reproduce_leaves_labelled_numbers_with_their_origin(tiny):
    out, _ = tiny
    with xr.open_dataset(out / "figures" / "note-fig4.nc") as ds:
        assert ds.test_loss.dims[:2] == ("tau", "seed")
        assert {"jax", "git_commit", "device", "precision", "protocol.num_steps", "xla_threads"} <= set(ds.attrs)
    item = json.loads((out / "figures" / "note-fig4.json").read_text())
    assert [finding["seeds"] for finding in item["findings"]] == [3, 3, 3]


def test_report_makes_the_same_page_again(tiny, capsys):
    out, _ = tiny
    before = (out / "index.html").read_bytes()
    assert main(["report", str(out)]) == 0
    assert (out / "index.html").read_bytes() == before


def test_the_version_is_that_of_the_package(capsys):
    from lazyscope import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lazyscope {__version__}\n"


def test_the_list_is_there_as_data_and_needs_no_jax(capsys):
    from lazyscope.papers.registry import FIGURES

    assert main(["list", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == list(FIGURES)
    code = "import sys; from lazyscope.cli import main; main(['list']); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert "\x1b" not in done.stdout  # no colour into a pipe


@pytest.mark.slow
def test_results_as_data_and_in_silence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lazyscope.cli.process.prepare_jax", lambda: None)
    arguments = ["reproduce", "note-s3.4", "--size", "tiny", "--out", str(tmp_path)]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["page"] == str(tmp_path / "index.html")
    assert {claim["outcome"] for claim in found["figures"]["note-s3.4"]["claims"]} <= {"holds", "fails", "inconclusive"}
    assert main([*arguments, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'index.html'}\n"
    assert captured.err == ""


def test_figures_that_need_cifar10_are_named_before_anything_is_computed(monkeypatch, tmp_path, capsys):
    from lazyscope.papers.registry import FIGURES

    for name in ("note-fig3", "note-fig7"):
        monkeypatch.setitem(FIGURES, name, FIGURES[name]._replace(cifar10=("paper",)))
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "--size", "paper"]) == 2
    error = capsys.readouterr().err
    assert "note-fig3, note-fig7" in error
    assert "got no --data: name the folder with cifar-10-binary.tar.gz" in error
    assert len(lines(error)) == 1
    assert list(tmp_path.iterdir()) == []


def test_check_exits_with_one_when_an_outcome_is_unexpected(monkeypatch, tmp_path, capsys):
    from lazyscope import report
    from lazyscope.claims import Claim, Outcome, evaluate
    from lazyscope.papers import reproduce

    dataset = xr.Dataset({"v": ("seed", [1.0, 1.1, 0.9])})
    claim = Claim("It holds.", "p", "m", lambda ds: ds.v.values, (0.5, 1.5), {"tiny": Outcome.FAILS})

    def stub(name, *, size, out, **_):
        finding = evaluate(claim, dataset)
        described = [report.describe(finding, size)]
        item = report.Item(name, "t", "c", size, "cmd", described, {}, [["x"], ["1"]], {"lazyscope": "0"})
        report.write_item(out, item, svg=b"<svg/>", png=b"")
        return item, [finding]

    monkeypatch.setattr(reproduce, "reproduce", stub)
    monkeypatch.setattr("lazyscope.cli.process.prepare_jax", lambda: None)
    arguments = ["reproduce", "note-fig4", "--size", "tiny", "--out", str(tmp_path)]
    assert main([*arguments, "--check"]) == 1
    out, err = capsys.readouterr()
    *_, row = err.strip().splitlines()
    assert " ".join(row.split()) == "note-fig4 It holds. fails holds 1 (0.7516 to 1.248) 0.5 to 1.5"
    assert "expected" not in out
    assert main(arguments) == 0
    monkeypatch.setitem(claim.expected, "tiny", Outcome.HOLDS)  # type: ignore[arg-type]
    assert main([*arguments, "--check"]) == 0
    assert capsys.readouterr().err == "", "what agrees is not listed"


@pytest.fixture
def own_model(tmp_path):
    """A file as a user writes it."""
    file = tmp_path / "my_model.py"
    file.write_text(
        "import jax, jax.numpy as jnp, lazyscope as ls\n"
        "problem = ls.teacher_student(jax.random.key(0), n=20, d=4, n_test=10)\n"
        "linear = ls.Case(lambda w, x: x @ w['w'], {'w': jnp.zeros(4)}, problem)\n"
        "def made(): return linear\n"
        "wrong = 3\n"
        "def trained(train): return ls.Case(linear.apply, linear.params0, problem, train=train)\n"
        "def diverges(): return trained(lambda apply, p: {'w': p['w'] / 0})\n"
        "def explodes(): return trained(lambda apply, p: {'w': p['w'] + 1e200})\n"
        "def needs(x): return linear\n"
        "def broken(): return ls.Case(lambda w, x: x @ w['v'], linear.params0, problem)\n"
        "def refused(): return ls.teacher_student(jax.random.key(0), n=0, d=4, n_test=10)\n"
    )
    return file


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "made"])
def test_diagnose_takes_a_case_or_a_function_that_returns_one(name, own_model, capsys, monkeypatch):
    monkeypatch.setattr("lazyscope.cli.process.prepare_jax", lambda: None)
    assert main(["diagnose", f"{own_model}:{name}", "--json", "--steps", "20"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["regime"] == "lazy"
    assert found["criterion"]["kappa"] == 0


def test_diagnose_judges_the_weights_of_a_checkpoint(own_model, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("lazyscope.cli.process.prepare_jax", lambda: None)
    np.savez(tmp_path / "w.npz", w=np.ones(4))
    save_file({"w": np.ones(4)}, tmp_path / "w.safetensors")
    printed = []
    for name in ("w.npz", "w.safetensors"):
        assert main(["diagnose", f"{own_model}:linear", "--after", str(tmp_path / name)]) == 0
        printed.append(capsys.readouterr().out)
    assert "same weights" in printed[0]
    assert printed[0] == printed[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["two-layer-plian"], "did you mean two-layer-plain?"),
        (["nowhere.py:case"], "the file must exist"),
        (["no.such.module:case"], "the module must be importable, got 'no.such.module'"),
        (["{own}:linaer"], "did you mean linear?"),
        (["{own}:wrong"], "must be a lazyscope.Case or a function without arguments that returns one, got int"),
        (["{own}:needs"], "a function without arguments that returns one, got function"),
        (["{own}:diverges"], "train must return finite parameters like params0 for the model, got 4 NaN"),
        (
            ["{own}:explodes"],
            "the trained model must have a finite loss, got inf: training diverged",
        ),
        (["{own}:broken"], "an error in it: my_model.py:10 raised KeyError: 'v'"),
        (["{own}:refused"], "x and y need the same number of examples, at least one"),
        (["{here}/syntax.py:case"], "syntax.py:1 raised SyntaxError"),
        (["{here}/imports.py:case"], "imports.py:1 raised ModuleNotFoundError: No module named 'nosuchmodule'"),
        (["{own}"], "add :OBJECT"),
        (["{own}:"], "name both"),
        (["{own}:zzz"], "that is not in"),
        (["{own}:linear", "--after", "{here}/wide.npz"], "a checkpoint must fit the model"),
        (["{own}:linear", "--after", "{here}/none.npz"], "must be an existing file, got"),
        (["{own}:linear", "--after", "{here}/narrow.npz"], "is float32 where the model has float64: cast"),
        (["{own}:linear", "--after", "{here}/nan.npz"], "trained weights must be finite and like params0, got 4 NaN"),
        (["{own}:linear", "--after", "{here}/other.npz"], "lacks w and has v"),
        (["{own}:linear", "--after", "{here}/syntax.py"], "must be .safetensors or .npz, got syntax.py"),
        (["{own}:linear", "--steps", "0"], "--steps must be at least 1, got 0"),
    ],
)
def test_diagnose_refuses_bad_input_in_one_line(arguments, message, own_model, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("lazyscope.cli.process.prepare_jax", lambda: None)
    np.savez(tmp_path / "wide.npz", w=np.ones(5))
    np.savez(tmp_path / "narrow.npz", w=np.ones(4, np.float32))
    np.savez(tmp_path / "nan.npz", w=np.full(4, np.nan))
    np.savez(tmp_path / "other.npz", v=np.ones(4))
    (tmp_path / "syntax.py").write_text("def case(:")
    (tmp_path / "imports.py").write_text("import nosuchmodule")
    assert main(["diagnose", *(a.format(own=own_model, here=tmp_path) for a in arguments)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(lines(captured.err)) == 1
    assert captured.out == ""


def test_interruption_is_said_and_has_its_own_status(monkeypatch, capsys):
    import lazyscope.cli

    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(lazyscope.cli.List, "run", interrupted)
    assert main(["list"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr("lazyscope.cli.process.prepare_jax", lambda: None)


def test_landscape_writes_picture_and_data_with_true_losses(own_model, in_process, tmp_path, capsys):
    np.savez(tmp_path / "w.npz", w=np.ones(4))
    out = tmp_path / "out"
    arguments = ["landscape", f"{own_model}:linear", "--after", str(tmp_path / "w.npz"), "--directions", "kernel"]
    assert main([*arguments, "--resolution", "5", "--extent", "2", "--out", str(out)]) == 0
    assert lines(capsys.readouterr().out) == [str(out / "landscape.png")]
    assert (out / "landscape.png").stat().st_size > 5000
    with xr.open_dataset(out / "landscape.nc") as ds:
        assert ds.value.shape == (5, 5)
        assert ds.attrs["directions"] == "kernel"
        assert ds.attrs["normalisation"] == "directions of length 1"
        # The centre of the plane is the loss of the weights given; the initial ones, 0, are two away from all ones.
        np.testing.assert_allclose(ds.value.values[2, 2], ds["values"].sel(point="center"))
        distance = np.hypot(np.linalg.norm(ds.coordinates.sel(point="initial")), ds.off_plane.sel(point="initial"))
        np.testing.assert_allclose(distance, 2)


@pytest.mark.slow
def test_a_path_has_its_three_points_on_the_plane(in_process, tmp_path, capsys):
    file = tmp_path / "net.py"
    file.write_text(
        "import jax, jax.numpy as jnp, lazyscope as ls\n"
        "problem = ls.teacher_student(jax.random.key(0), n=12, d=3, n_test=6)\n"
        "start = {'w': jax.random.normal(jax.random.key(1), (3, 4)), 'v': jnp.ones(4)}\n"
        "case = ls.Case(lambda p, x: jnp.tanh(x @ p['w']) @ p['v'], start, problem)\n"
    )
    out = tmp_path / "out"
    arguments = ["landscape", f"{file}:case", "--directions", "path", "--steps", "50", "--resolution", "9"]
    assert main([*arguments, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert lines(said.out) == [str(out / "landscape.png")]
    assert said.err == (
        "lazyscope: path: directions of length 1 at right angles, the first from the start to the trained end\n"
    )
    with xr.open_dataset(out / "landscape.nc") as ds:
        assert ds.point.values.tolist() == ["start", "trained", "linearised"]
        np.testing.assert_allclose(ds.off_plane, 0, atol=1e-12)
        np.testing.assert_allclose(ds["values"], ds.shadows)
        places = ds.coordinates.values
        np.testing.assert_allclose(places[0], 0, atol=1e-12)
        assert abs(places[1, 1]) < 1e-12 < places[1, 0]
        for axis, name in enumerate("xy"):
            assert ds[name].min() < places[:, axis].min()
            assert ds[name].max() > places[:, axis].max()
        assert ds["values"].sel(point="trained") < ds["values"].sel(point="start")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--directions", "best"], "--directions must be one of random, hessian, kernel, path, got 'best'"),
        (["--directions", "path", "--after", "w.npz"], "a path is trained from the start, got --after w.npz"),
        (["--directions", "path", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["--directions", "path", "--steps", "5"], "a path needs a trained and a linearised end apart from each other"),
        (["--units", "w"], "--units must be NAME=AXIS, got 'w'"),
        (["--units", "v=0"], "axes must name parameters, got 'v'"),
        ([], "got direction 0 zero"),  # w has one axis: a bias, as far as we know
        (["--units", "w=0", "--directions", "kernel", "--resolution", "1"], "resolution of at least 2 points"),
        (["--directions", "kernel", "--extent", "0"], "an extent must be a positive half-width"),
    ],
)
def test_landscape_refuses_in_one_line(arguments, message, own_model, in_process, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["landscape", f"{own_model}:linear", "--out", str(out), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(lines(captured.err)) == 1
    assert not out.exists()


# --- other people's files and streams ---------------------------------------------------------------------------------

ANNOTATED = """
from __future__ import annotations
import os, pickle
from dataclasses import dataclass
import jax, jax.numpy as jnp, lazyscope as ls
{model}
print("loaded")
os.system("echo a process of its own")
problem = ls.teacher_student(jax.random.key(0), n=20, d=4, n_test=10)
def apply(w, x):
    print("traced")
    jax.debug.print("ran {{}}", w.sum())
    return x @ w
case = ls.Case(apply, jnp.zeros(4), problem)
"""
MODELS = {
    "dataclass": "@dataclass(frozen=True)\nclass Net:\n    width: int\npickle.loads(pickle.dumps(Net(3)))",
    "flax": "import flax.linen as nn\nclass Net(nn.Module):\n    width: int\nNet(3)",
    "equinox": "import equinox as eqx\nclass Net(eqx.Module):\n    w: jax.Array\nNet(jnp.zeros(4))",
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_file_with_annotations_as_strings_and_prints_of_its_own(kind, tmp_path, capsys):
    file = tmp_path / f"my_{kind}.py"
    file.write_text(ANNOTATED.format(model=MODELS[kind]))
    assert on_case(f"{file}:case", lambda case: case.apply(case.params0, case.problem.x).shape) == (20,)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert {"loaded", "traced", "ran 0.0"} <= set(printed.err.splitlines())


@pytest.mark.slow
def test_what_the_processes_of_a_file_print_is_not_the_result(tmp_path):
    file = tmp_path / "my_model.py"
    file.write_text(ANNOTATED.format(model=""))
    command = [sys.executable, "-c", ENTRY, "diagnose", f"{file}:case", "--json", "--steps", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["regime"] == "lazy"
    assert "a process of its own" in done.stderr.splitlines()


def test_a_file_that_fails_leaves_nothing_behind(in_process, tmp_path, capsys):
    (tmp_path / "half.py").write_text("import numpy\nclass Net: pass\nraise RuntimeError('half')")
    before, places = set(sys.modules), list(sys.path)
    assert main(["diagnose", f"{tmp_path / 'half.py'}:case"]) == 2
    assert "half.py:3 raised RuntimeError: half" in capsys.readouterr().err
    assert sys.path == places
    assert not [name for name in set(sys.modules) - before if "half" in name]


def test_names_in_a_checkpoint_that_are_no_parameters(own_model, in_process, tmp_path, capsys):
    np.savez(tmp_path / "w.npz", w=np.ones(4), running_mean=np.ones(4), running_var=np.ones(4))
    after = ["--after", str(tmp_path / "w.npz")]
    assert main(["diagnose", f"{own_model}:linear", *after]) == 2
    assert "has running_mean, running_var: name those with --ignore NAME ..." in capsys.readouterr().err
    assert main(["diagnose", f"{own_model}:linear", "--json", *after, "--ignore", "running_*"]) == 0
    assert json.loads(capsys.readouterr().out)["regime"] == "lazy"
    drawn = ["--resolution", "3", "--units", "w=0", "--out", str(tmp_path / "out")]
    assert main(["landscape", f"{own_model}:linear", *after, *drawn]) == 2
    assert main(["landscape", f"{own_model}:linear", *after, *drawn, "--ignore", "running_mean", "running_var"]) == 0


def run_with(stream, encoding="utf-8"):
    """What `kept` leaves on standard error and whether it says that output was refused."""
    out, err = io.TextIOWrapper(stream, encoding), io.StringIO()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    try:
        with streams.kept() as refused:
            print("‖Dh‖ é")
            print("the end")
    finally:
        sys.stdout, sys.stderr = before
    assert out.errors == "strict"
    return out, err.getvalue(), refused


class Broken(io.BytesIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, data):
        raise self.error

    def close(self):
        pass


@pytest.mark.parametrize(
    ("encoding", "written"),
    [("utf-8", "‖Dh‖ é\n"), ("latin-1", "\\u2016Dh\\u2016 é\n"), ("ascii", "\\u2016Dh\\u2016 \\xe9\n")],
)
def test_characters_that_an_encoding_lacks_are_escaped(encoding, written):
    out, said, refused = run_with(io.BytesIO(), encoding)
    out.flush()
    assert out.buffer.getvalue().decode(encoding) == f"{written}the end\n"
    assert (said, refused) == ("", [])


def test_a_result_that_output_does_not_take_goes_to_standard_error():
    _, said, refused = run_with(Broken(OSError(errno.ENOSPC, "No space left on device")))
    assert refused == ["No space left on device"]
    first, *rest = said.splitlines()
    assert first == "lazyscope: standard output did not take the result (No space left on device), here it is:"
    assert rest == ["‖Dh‖ é", "the end"]


def test_a_reader_that_has_gone_is_no_error():
    assert run_with(Broken(BrokenPipeError(errno.EPIPE, "Broken pipe")))[1:] == ("", [])
    assert run_with(Broken(ValueError("I/O operation on closed file")))[1:] == ("", [])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")  # noqa: PTH110
def test_a_full_disk_behind_standard_output_costs_no_result():
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run([sys.executable, "-c", ENTRY, "list", "--json"], stdout=full, stderr=subprocess.PIPE)
    said, result = done.stderr.decode().split("\n", 1)
    assert done.returncode == 1
    assert "No space left on device" in said
    assert [entry["name"] for entry in json.loads(result)] == list(FIGURES)


@pytest.mark.parametrize("redirection", ["| head -c 1", ">&-", "2>&-", ">&- 2>&-"])
def test_commands_end_well_whatever_becomes_of_their_streams(redirection):
    shell = f'set -o pipefail; "{sys.executable}" -c "{ENTRY}" list {redirection}'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_page_that_cannot_be_made_costs_no_figure(monkeypatch, tmp_path, capsys):
    from lazyscope import report
    from lazyscope.papers import reproduce

    made = []

    def stub(name, *, size, out, **_):
        made.append(name)
        return report.Item(name, "t", "c", size, "cmd", [], {}, [["x"], ["1"]], {"lazyscope": "0"}), []

    monkeypatch.setattr(reproduce, "reproduce", stub)
    monkeypatch.setattr("lazyscope.cli.process.prepare_jax", lambda: None)
    assert main(["reproduce", "note-fig4", "note-fig3", "--size", "tiny", "--out", str(tmp_path), "--json"]) == 1
    assert made == ["note-fig4", "note-fig3"]
    printed = capsys.readouterr()
    assert set(json.loads(printed.out)["figures"]) == set(made)
    assert json.loads(printed.out)["page"] is None
    assert "the page could not be made, figures and numbers are kept in" in printed.err
