"""Whatever is typed, and whatever lies in a folder: one line or the truth, never a traceback, never half a result."""

import io
import json
import shutil
import zipfile
from contextlib import redirect_stderr, redirect_stdout

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_store_cli import FIGURE

from lazyscope import Store, cli
from lazyscope import sweep as sweep_function
from lazyscope.papers import reproduce
from lazyscope.papers.registry import FIGURES, Entry
from lazyscope.store import chunks, export_cells, keys, write_csv, write_netcdf

# What a shell can hand over: no NUL, no half characters.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
WORD = TEXT.filter(lambda text: not text.startswith("-"))
PATHS = st.one_of(WORD, st.sampled_from(["../x", "/dev/null/x", "~", "a" * 300, "\n", "nowhere/../..", "x.npz"]))
NO_NUMBER = WORD.filter(lambda text: not text.strip().replace("_", "").lstrip("+-").isdecimal())
NO_FLOAT = st.one_of(st.sampled_from(["nope", "1,5", "0x1", "--", "1e"]), WORD.filter(lambda text: text[:1].isalpha()))
EVERY_SIZE = ("tiny", "quick", "paper")


def neither(*allowed):
    return WORD.filter(lambda text: text not in allowed)


BELOW_ONE = st.integers(max_value=0).map(str)
HUGE = st.integers(min_value=2**40).map(str)
BAD_LINES = st.one_of(
    neither(*cli.COMMANDS).map(lambda word: [word]),
    st.sampled_from([[], ["store"], ["diagnose"], ["landscape"], ["report"], ["store", "status"], ["--", "x"]]),
    st.tuples(st.sampled_from(sorted(cli.COMMANDS)), WORD).map(lambda two: [two[0], f"--{two[1]}-x", "y"]),
    neither(*FIGURES).map(lambda name: ["reproduce", name]),
    neither(*EVERY_SIZE).map(lambda size: ["reproduce", "small", "--size", size]),
    st.one_of(BELOW_ONE, HUGE, NO_NUMBER).map(lambda n: ["reproduce", "small", "--seeds", n]),
    st.one_of(BELOW_ONE, NO_NUMBER).map(lambda n: ["reproduce", "small", "--workers", n]),
    WORD.filter(lambda a: ":" not in a).map(lambda address: ["reproduce", "small", "--dask", address]),
    PATHS.map(lambda path: ["reproduce", "small", "--data", f"absent/{path}"]),
    PATHS.map(lambda path: ["reproduce", "small", "--out", f"file/{path}"]),
    st.one_of(BELOW_ONE, NO_NUMBER).map(lambda n: ["diagnose", "two-layer-rich", "--steps", n]),
    st.one_of(st.integers(max_value=-1).map(str), HUGE, NO_NUMBER).map(lambda n: ["diagnose", "x", "--seed", n]),
    WORD.filter(lambda case: not case.startswith("two-layer")).map(lambda case: ["diagnose", f"no{case}"]),
    st.tuples(PATHS, WORD).map(lambda two: ["diagnose", f"absent/{two[0]}.py:{two[1]}"]),
    neither("random", "hessian", "kernel", "path").map(lambda d: ["landscape", "two-layer-rich", "--directions", d]),
    NO_FLOAT.map(lambda extent: ["landscape", "two-layer-rich", "--extent", extent]),
    st.one_of(HUGE, NO_NUMBER).map(lambda n: ["landscape", "two-layer-rich", "--resolution", n]),
    WORD.filter(lambda text: "=" not in text).map(lambda unit: ["landscape", "two-layer-rich", "--units", unit]),
    WORD.map(lambda axis: ["landscape", "two-layer-rich", "--units", f"a=x{axis}"]),
    PATHS.map(lambda folder: ["report", f"absent/{folder}"]),
    st.tuples(st.sampled_from(["status", "check", "export"]), PATHS).map(
        lambda two: ["store", two[0], f"absent/{two[1]}"]
    ),
    neither("netcdf", "csv").map(lambda kind: ["store", "export", "whole", "--format", kind]),
    WORD.map(lambda name: ["store", "status", "whole", f"x{name}"]),
)


def cell(key, *, t):
    return {"value": t + jax.random.normal(key)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder to be in, with a file, and a store that is whole."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "file").write_text("kept")
    with Store(folder / "whole" / "store") as store:
        sweep_function(cell, {"t": [1.0, 2.0]}, key=jax.random.key(0), seeds=3, store=store)
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.setitem(FIGURES, "small", Entry("figure", "A small figure", (1, 1, 1)))
    patch.setattr(reproduce, "load", lambda name: FIGURE)
    patch.setattr("lazyscope.cli.process.prepare_jax", lambda: None)
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def made(place, tmp_path_factory):
    """What `reproduce` leaves."""
    folder = tmp_path_factory.mktemp("made")
    assert called(["reproduce", "small", "--size", "tiny", "--out", str(folder)])[0] == 0
    return folder


def called(arguments):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = cli.main(arguments)
    return status, out.getvalue(), err.getvalue()


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@settings(max_examples=220, suppress_health_check=[HealthCheck.too_slow])
@given(arguments=BAD_LINES)
def test_a_bad_command_line_is_one_line_and_exit_2(place, arguments):
    before = contents(place)
    status, out, err = called(arguments)
    assert (status, out) == (2, ""), err
    assert err.startswith("lazyscope: ")
    assert len(err.splitlines()) == 1, err
    assert contents(place) == before


# --- what lies in a folder ------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.just("../../x"), st.just("<script>")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)


def parts(value, path=()):
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield from parts(inner, (*path, name))


def replaced(value, path, new):
    """The value with something else in one place."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


def forged(path, data):
    """A chunk whose header says something else and whose checksum is right."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    header = json.loads(members[chunks.HEADER])
    where = data.draw(st.sampled_from(list(parts(header))))
    members[chunks.HEADER] = keys.to_json(replaced(header, where, data.draw(JSON.filter(finite))))
    content = [value for name, value in members.items() if name != chunks.CHECKSUM]
    members[chunks.CHECKSUM] = chunks._checksum(content).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in members.items():
            archive.writestr(zipfile.ZipInfo(name), value)
    return buffer.getvalue()


def finite(value):
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def damaged(path, data):
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    return data.draw(
        st.sampled_from(
            [whole[:at], whole[:at] + b"\0" + whole[at + 1 :], whole + b"x", b"", whole[at:], b"PK\3\4" + whole[at:]]
        )
    )


def explained(status, err):
    assert status in (0, 1, 2)
    assert all(line.startswith("lazyscope: ") for line in err.splitlines()), err
    if status == 2:
        assert len(err.splitlines()) == 1, err


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_bad_store_is_told_and_left_alone(place, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("bad")
    shutil.copytree(place / "whole", folder, dirs_exist_ok=True)
    chunk = data.draw(st.sampled_from(sorted((folder / "store" / "chunks").glob("*.npz"))))
    marker = folder / "store" / "store.json"
    kind = data.draw(st.sampled_from(["marker", "forged", "damaged"]))
    if kind == "marker":
        marker.write_bytes(data.draw(st.one_of(st.binary(max_size=20), JSON.map(lambda v: json.dumps(v).encode()))))
    elif kind == "forged":
        chunk.write_bytes(forged(chunk, data))
    else:
        chunk.write_bytes(damaged(chunk, data))
    before, outside = contents(folder), contents(place)
    for command in (["status"], ["check"], ["export", "--out", str(folder / "out")]):
        status, _, err = called(["store", command[0], str(folder), *command[1:]])
        explained(status, err)
        if kind == "marker":
            assert status == 2
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in after} <= {"store", "out"}
    assert contents(place) == outside


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_bad_folder_of_results_gives_no_page_or_a_whole_one(place, made, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(made, folder, dirs_exist_ok=True)
    (folder / "index.html").unlink()
    path = folder / "figures" / "small.json"
    item = json.loads(path.read_text())
    where = data.draw(st.sampled_from(list(parts(item))))
    path.write_text(json.dumps(replaced(item, where, data.draw(JSON))))
    status, _, err = called(["report", str(folder)])
    explained(status, err)
    page = folder / "index.html"
    assert page.exists() == (status == 0)
    assert not page.exists() or page.read_text().count("<script>") == 1  # the page has one of its own


@settings(max_examples=40)
@given(names=st.lists(st.one_of(TEXT, st.sampled_from(["../../x", "/etc/x", "a/b", "..", ""])), min_size=3, max_size=3))
def test_names_from_a_specification_stay_in_the_store(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("names")
    axis, static, result = names
    program = keys.described(
        {"function": f"m.{result}", "version": 1, "settings": {static: "../../x"}, "static": [axis]}
    )
    store = Store(folder / "deep" / "store")
    with store:
        coords = keys.coordinates(((axis, static),))
        row = chunks.Row(keys.cell_key(program.digest, coords, 0), coords, 0)
        store.add(program, [row], {result: np.ones((1, 2)), f"../{result}": np.ones(1)})
        assert len(store) == 1
    for write in (write_netcdf, write_csv):
        written, problems = export_cells(folder / "deep" / "store", folder / "deep" / "out", write=write)
        assert problems == []
        assert all(path.parent == folder / "deep" / "out" for path in written)
    assert [p.name for p in folder.iterdir()] == ["deep"]
    assert sorted(p.name for p in (folder / "deep").iterdir()) == ["out", "store"]
