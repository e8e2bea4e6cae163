"""A store gives back what was put in, computes nothing twice, and says in one line what is wrong with it."""

import errno
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial, wraps
from importlib.machinery import ModuleSpec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

from lazyscope import store as stores
from lazyscope import sweep as sweep_function
from lazyscope.papers.initialisation import training
from lazyscope.store import Store, StoreError, chunks, keys
from lazyscope.store.code import fingerprint
from lazyscope.store.origin import origin
from lazyscope.sweep import Cell, program

sweep = sys.modules["lazyscope.sweep"]
KEY = jax.random.key(7)
DIMS = {"noise": ("i",)}


def rule(t):
    return 2 * t


@dataclass(frozen=True)
class Settings:
    size: int = 3
    scale: float = 1.0
    rule: Any = rule
    steps: tuple[int, ...] = (1, 2)


def cell(key, *, t, settings: Any = Settings()):
    noise = settings.scale * jax.random.normal(key, (settings.size,))
    return {"value": settings.rule(t) * noise[0], "noise": noise, "positive": noise[0] > 0}


def other(key, *, t, settings: Any = Settings()):
    return cell(key, t=t, settings=settings)


def run(store=None, *, seeds: Any = 3, axis=(0.5, 1.0, 2.0), function=cell, **options):
    return sweep_function(function, {"t": axis}, key=KEY, seeds=seeds, dims=DIMS, store=store, **options)


def files(folder):
    return sorted((folder / "chunks").glob("*.npz"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A store with nine cells, made once, and the Dataset that belongs to it."""
    folder = tmp_path_factory.mktemp("finished") / "s"
    with Store(folder) as store:
        return folder, run(store)


@pytest.fixture
def filled(finished, tmp_path):
    """A copy of it."""
    shutil.copytree(finished[0], tmp_path / "s")
    return tmp_path / "s"


class Counting:
    """A store that counts the cells written to it."""

    def __init__(self, store):
        self.store, self.written = store, 0

    def view(self, function, **options):
        view = self.store.view(function, **options)
        write = view.write

        def counted(cells, results):
            self.written += len(cells)
            write(cells, results)

        view.write = counted
        return view


def test_a_sweep_with_a_store_equals_one_without(finished):
    folder, first = finished
    expected = run()
    with Store(folder) as store:
        assert len(store) == 9
        again = run(counting := Counting(store))
    assert counting.written == 0
    xr.testing.assert_identical(first, expected)
    xr.testing.assert_identical(again, expected)
    assert {name: v.dtype for name, v in first.items()} == {name: v.dtype for name, v in expected.items()}


def test_cells_survive_the_process_and_the_order_of_axes(tmp_path):
    def two(axes, store):
        return sweep_function(pair, axes, key=KEY, seeds=2, store=store)

    with Store(tmp_path / "s") as store:
        first = two({"a": [1.0, 2.0], "b": [3.0]}, store)
    with Store(tmp_path / "s") as store:
        again = two({"b": [3.0], "a": np.array([2.0, 1.0])}, counting := Counting(store))
    assert counting.written == 0
    xr.testing.assert_identical(first.transpose("b", "a", "seed").sortby("a"), again.sortby("a"))


def pair(key, *, a, b):
    return {"value": a - b * jax.random.normal(key)}


def test_more_seeds_and_longer_axes_compute_only_what_is_new(tmp_path):
    with Store(tmp_path / "s") as store:
        counting = Counting(store)
        run(counting, seeds=3)
        assert counting.written == 9
        ten = run(counting, seeds=10)
        assert counting.written == 9 + 3 * 7
        longer = run(counting, seeds=10, axis=(0.5, 1.0, 2.0, 3.0))
        assert counting.written == 9 + 3 * 7 + 10
        run(counting, seeds=[4, 2])
        assert counting.written == 9 + 3 * 7 + 10
    xr.testing.assert_identical(ten, run(seeds=10))
    xr.testing.assert_identical(longer.isel(t=slice(3)), ten)


@pytest.mark.parametrize(("seconds", "buffer"), [(10.0, 1), (0.0, 128), (10.0, 2), (1e-4, 3)])
def test_any_chunk_size_gives_the_same_bits(tmp_path, monkeypatch, seconds, buffer):
    expected = run(seeds=4)
    monkeypatch.setattr(sweep, "CHUNK_SECONDS", seconds)
    monkeypatch.setattr(program, "BUFFER_CELLS", buffer)
    with Store(tmp_path / "s") as store:
        xr.testing.assert_identical(run(store, seeds=4), expected)


def test_static_axes_and_whole_numbers(tmp_path):
    def sizes(store):
        axes = {"n": [1, 2], "t": [0, 0.5]}
        return sweep_function(power, axes, key=KEY, seeds=2, static=("n",), store=store)

    with Store(tmp_path / "s") as store:
        xr.testing.assert_identical(sizes(store), sizes(None))
        counting = Counting(store)
        sweep_function(power, {"n": [1], "t": [0.0]}, key=KEY, seeds=2, static=("n",), store=counting)
        assert counting.written == 0, "0 beside 0.5 is the float 0.0"


def power(key, *, n, t):
    return {"value": t**n + jax.random.normal(key)}


# --- keys -----------------------------------------------------------------------------------------------------------

PARTS = {
    "function": cell,
    "version": 1,
    "settings": Settings(),
    "coords": (("t", 0.5), ("u", 2)),
    "seed": 3,
    "key": KEY,
    "static": (),
    "x64": True,
}


def key_of(**changes):
    parts = PARTS | changes
    with jax.enable_x64(parts["x64"]):
        program = keys.program(
            partial(parts["function"], settings=parts["settings"]),
            version=parts["version"],
            key=parts["key"],
            static=parts["static"],
        )
    return keys.cell_key(program.digest, keys.coordinates(parts["coords"]), parts["seed"])


CHANGES = [
    {"function": other},
    {"version": 2},
    {"settings": replace(Settings(), size=4)},
    {"settings": replace(Settings(), scale=1)},
    {"settings": replace(Settings(), scale=float("inf"))},
    {"settings": replace(Settings(), scale=float(np.nextafter(1, 2)))},
    {"settings": replace(Settings(), rule=pair)},
    {"settings": replace(Settings(), rule=partial(rule, t=1))},
    {"settings": replace(Settings(), steps=(1, 2, 3))},
    {"settings": {"size": 3}},
    {"settings": np.arange(3)},
    {"settings": np.arange(3.0)},
    {"settings": jnp.arange(3.0) + 1},
    {"settings": jax.random.key(0)},
    {"coords": (("t", 0.5), ("u", 2.0))},
    {"coords": (("t", float(np.nextafter(0.5, 1))), ("u", 2))},
    {"coords": (("t", 0.5), ("v", 2))},
    {"coords": (("t", 0.5),)},
    {"seed": 4},
    {"key": jax.random.key(8)},
    {"key": jax.random.key(7, impl="rbg")},
    {"static": ("u",)},
    {"x64": False},
]


def test_a_key_stays_what_it_is():
    # A change here makes every store in the world forget what it has: it needs a new chunks.FORMAT.
    assert key_of() == "be4ed350c9dd4f671ce1d4263d49dab62a8181f29aaf8df04f3546415e2083a6"
    assert key_of(coords=(("u", 2), ("t", 0.5))) == key_of()
    assert key_of(settings=Settings(steps=(1, 2))) == key_of()


def test_every_part_of_a_key_counts():
    found = [key_of(), *(key_of(**change) for change in CHANGES)]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("function", "rule"),
    [
        (lambda key, t: {"value": t}, "needs functions it can name, got '<lambda>' for the cell function: define it"),
        (partial(cell, settings=Settings(rule=lambda t: t)), "'<lambda>' for setting 'settings'.rule: define it"),
        (partial(cell, settings=object()), "settings that it can write down .* got object for setting 'settings': use"),
        (partial(cell, settings=np.array([object()])), "arrays of numbers, got dtype object for setting 'settings'"),
    ],
)
def test_what_has_no_name_is_refused(tmp_path, function, rule):
    with Store(tmp_path / "s") as store, pytest.raises(ValueError, match=rule):
        run(store, function=function)


class Scaled:
    """Cells that are methods."""

    def __init__(self, scale=1.0):
        self.scale = scale

    def cell(self, key, t):
        return {"value": self.scale * t * jax.random.normal(key)}

    @classmethod
    def of_class(cls, key, t):
        return {"value": t * jax.random.normal(key)}


class Heir(Scaled):
    pass


def doubled(function):
    @wraps(function)
    def twice(*args, **settings):
        return {name: 2 * value for name, value in function(*args, **settings).items()}

    return twice


@pytest.mark.parametrize(
    "function",
    [
        Scaled(2.0).cell,
        Heir.of_class,
        doubled(cell),
        jax.vmap(cell),
        partial(cell, settings=Settings(rule=Scaled().cell)),
    ],
    ids=["of an object", "of a subclass", "wrapped", "mapped", "setting"],
)
def test_what_shares_its_name_with_another_is_refused(tmp_path, function):
    with Store(tmp_path / "s") as store, pytest.raises(ValueError, match="a method of one object or wrapped, so that"):
        run(store, function=function)
    assert not list((tmp_path / "s").rglob("*.npz"))


def test_compiled_functions_and_methods_of_their_own_class_have_the_name_of_what_they_are():
    assert keys.name_of(jax.jit(cell), "it") == keys.name_of(cell, "it")
    assert keys.name_of(Scaled.of_class, "it").endswith("Scaled.of_class")
    assert keys.name_of(jax.nn.relu, "it").endswith(".relu")
    assert keys.name_of(jnp.tanh, "it").endswith("tanh")
    assert keys.name_of(Scaled.cell, "it").endswith("Scaled.cell")


def test_a_store_that_lost_its_marker_is_found_whole(tmp_path):
    with Store(tmp_path / "s") as store, store.used_for("a figure"):
        run(store)
        kept = len(store)
    (tmp_path / "s" / "checkpoints").mkdir()
    (tmp_path / "s" / "store.json").unlink()
    with Store(tmp_path / "s") as store:
        assert len(store) == kept > 0


def test_a_version_is_a_whole_number(tmp_path):
    with Store(tmp_path / "s") as store, pytest.raises((TypeError, ValueError), match=r"version|1\.5"):
        run(store, version=1.5)


@pytest.mark.parametrize("seeds", [[1, 1], [-1], [2**32]])
def test_seeds_differ_and_fit(seeds):
    with pytest.raises(ValueError, match=r"seeds must differ and lie in \[0, 2\^32\)"):
        run(seeds=seeds)


# --- damage ---------------------------------------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def alter(path):
    # One bit of a number, with the zip's own checksum made right again: only ours can notice.
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    changed = bytearray(members["noise.npy"])
    changed[-1] ^= 1
    members["noise.npy"] = bytes(changed)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def garbage(path):
    path.write_bytes(b"PK\x03\x04" + bytes(range(256)) * 4)


@pytest.mark.parametrize("damage", [truncate, empty, alter, flip, garbage])
def test_a_damaged_chunk_is_set_aside_and_computed_again(filled, finished, damage):
    folder, expected = filled, finished[1]
    damage(files(folder)[0])
    lines = []
    cells, problems = stores.check(folder)
    assert cells < 9
    assert [problem.path for problem in problems] == files(folder)[:1]
    with Store(folder, notify=lines.append) as store:
        again = run(counting := Counting(store))
    xr.testing.assert_identical(again, expected)
    assert 0 < counting.written < 9
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert "truncated" in lines[0] or "altered" in lines[0]
    assert "computed again" in lines[0]
    assert len(list((folder / "chunks").glob("*.npz.bad"))) == 1, "nothing is thrown away"
    assert stores.check(folder) == (9, [])


def test_a_damaged_chunk_warns_unless_somebody_listens(filled):
    truncate(files(filled)[0])
    with pytest.warns(UserWarning, match="computed again"):
        Store(filled).close()


def test_a_chunk_that_changes_while_in_use(filled):
    with Store(filled, notify=lambda line: None) as store:
        view = store.view(cell, version=1, key=KEY)
        cells = [Cell((("t", 0.5),), 0), Cell((("t", 2.0),), 2)]
        assert view.done(cells) == [True, True]
        alter(view_path(store, view, cells[0]))
        with pytest.raises(StoreError, match=r"must not change while in use, got .*: run the same command again"):
            view.read(cells)
        assert view.done(cells)[0] is False


def view_path(store, view, wanted):
    for path in files(store.folder):
        if view.key(wanted) in {row.key for row in chunks.read_header(path).rows}:
            return path
    raise AssertionError("no chunk has this cell")


def test_a_chunk_of_another_format_stays_as_it_is(filled, monkeypatch):
    folder, before = filled, {path: path.read_bytes() for path in files(filled)}
    monkeypatch.setattr(chunks, "FORMAT", 2)
    with pytest.raises(StoreError, match=r"reads stores of format 2, got a chunk of format 1 in .*: use the lazyscope"):
        Store(folder)
    assert {path: path.read_bytes() for path in files(folder)} == before


def test_a_store_of_another_format(tmp_path):
    Store(tmp_path / "s").close()
    (tmp_path / "s" / "store.json").write_text('{"format": 2}')
    for look in (Store, stores.locate):
        with pytest.raises(StoreError, match=r"reads stores of format 1, got format 2 in .*: use the lazyscope that"):
            look(tmp_path / "s")


@pytest.mark.parametrize("text", ["", "[]", "{", "{}"])
def test_a_marker_that_says_nothing(tmp_path, text):
    Store(tmp_path / "s").close()
    (tmp_path / "s" / "store.json").write_text(text)
    with pytest.raises(StoreError, match="must say the format of the store, got something else: remove that file"):
        Store(tmp_path / "s")
    (tmp_path / "s" / "store.json").unlink()
    Store(tmp_path / "s").close()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(StoreError, match=r"a folder of its own, got .* with 'thesis.tex' in it: name another"):
        Store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(StoreError, match="needs a folder, got the file"):
        Store(tmp_path / "thesis.tex")


def test_no_pickle_goes_in_or_comes_out(filled, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    with Store(filled) as store:
        view = store.view(cell, version=1, key=KEY)
        with pytest.raises(ValueError, match="got object of shape"):
            view.write([Cell((("t", 0.5),), 0)], {"value": np.array([Bomb()])})
    path = files(filled)[0]
    with zipfile.ZipFile(path) as archive:
        members = [[info.filename, archive.read(info)] for info in archive.infolist()]
    np.save(tmp_path / "bomb.npy", np.array([Bomb()] * 2), allow_pickle=True)
    members[1][1] = (tmp_path / "bomb.npy").read_bytes()
    members[-1][1] = chunks._checksum([data for _, data in members[:-1]]).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    with pytest.raises(chunks.DamagedError, match="allow_pickle"):
        chunks.read(path)
    assert not (tmp_path / "exploded").exists()


def test_a_chunk_opens_without_this_library(tmp_path):
    with Store(tmp_path / "s") as store:
        ds = run(store, axis=(2.0,), seeds=2)
    with np.load(files(tmp_path / "s")[0], allow_pickle=False) as archive:
        header = json.loads(archive["header.json"])
        np.testing.assert_array_equal(archive["noise"], ds.noise.values[0])
    assert header["program"]["function"] == "test_store.cell"
    assert [entry[1:] for entry in header["cells"]] == [[[["t", 2.0]], 0], [[["t", 2.0]], 1]]
    assert header["origin"]["xla_threads"] == os.environ["NPROC"]


def test_small_types_come_back(tmp_path):
    with Store(tmp_path / "s") as store:
        ds = sweep_function(small, {}, key=KEY, seeds=2, store=store)
    expected = sweep_function(small, {}, key=KEY, seeds=2)
    assert {n: v.values.tobytes() for n, v in ds.items()} == {n: v.values.tobytes() for n, v in expected.items()}
    assert {str(v.dtype) for v in ds.values()} == {"bfloat16", "int8", "bool", "complex128"}


def small(key):
    x = jax.random.normal(key)
    return {"a": x.astype(jnp.bfloat16), "b": jnp.int8(3), "c": x > 0, "d/../..": jax.lax.complex(x, x)}


# --- one writer -----------------------------------------------------------------------------------------------------


def python(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        timeout=300,
    )


def test_a_second_process_gets_one_line(tmp_path):
    code = "import sys; from lazyscope.store import Store; Store(sys.argv[1])"
    with Store(tmp_path / "s"):
        second = python(code, tmp_path / "s")
        with pytest.raises(StoreError, match="one process at a time may write to a store"):
            Store(tmp_path / "s")
    assert second.returncode == 1
    assert f"in use by process {os.getpid()} on " in second.stderr.splitlines()[-1]
    assert "wait for it, or name another" in second.stderr.splitlines()[-1]
    Store(tmp_path / "s").close()


def test_a_closed_store_says_so(tmp_path):
    store = Store(tmp_path / "s")
    store.close()
    store.close()
    with pytest.raises(StoreError, match=r"must be open to be used, got .* after close: open it again"):
        run(store)


# --- a full disk ----------------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "s"
    with Store(folder) as store:
        run(store, axis=(0.5,))
        before = files(folder)
        with monkeypatch.context() as full:
            full.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
            with pytest.raises(StoreError, match=r"the disk is full: .*run the same command again \(3 cells are in"):
                run(store)
        assert sorted((folder / "chunks").iterdir()) == before, "no temporary file"
        xr.testing.assert_identical(run(store), run())


def test_a_quota_is_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.EDQUOT, "quota")))
    with pytest.raises(StoreError, match="the disk is full: x does not fit"):
        stores.write_atomic(tmp_path / "x", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_real_full_disk(tmp_path):
    small_disk = tmp_path / "disk"
    small_disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(small_disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"mounting a small tmpfs needs root: {error}")
    try:
        big = partial(cell, settings=Settings(size=400))
        with Store(small_disk / "s") as store:
            with pytest.raises(StoreError, match="the disk is full"):
                run(store, function=big, seeds=10)
            assert {path.suffix for path in (small_disk / "s" / "chunks").iterdir()} == {".npz"}
            kept = len(store)
            run(store, function=big, seeds=1, axis=(0.5,))
        assert 0 < kept < 30
        assert stores.check(small_disk / "s") == (kept, [])
        with pytest.raises(StoreError, match=r"the disk is full: x\.nc does not fit"):
            stores.export(xr.Dataset({"x": ("i", np.zeros(10_000))}), small_disk / "x.nc", attributes={})
        assert [path.name for path in small_disk.iterdir()] == ["s"]
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)


def test_what_a_killed_writer_left_is_swept_away_and_nothing_else(tmp_path):
    Store(tmp_path / "s").close()
    folder = tmp_path / "s" / "chunks"
    (folder / f".{'0' * 64}.npz.ab_c123x").write_bytes(b"half")
    foreign = [
        ".gitkeep",
        "._x.npz",
        ".DS_Store",
        ".nfs000a1",
        "Thumbs.db",
        "desktop.ini",
        f"._{'0' * 64}.npz",
        "x.npz",
    ]
    for name in foreign:
        (folder / name).write_bytes(b"\0\5\x16\7")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / f"{'1' * 64}.npz").mkdir()
    Store(tmp_path / "s").close()
    kept = sorted(path.name for path in folder.iterdir())
    assert kept == sorted([*foreign, ".ipynb_checkpoints", f"{'1' * 64}.npz"])
    assert stores.check(tmp_path / "s") == (0, [])
    assert stores.status(tmp_path / "s") == ([], [], [])


def test_a_folder_that_only_a_system_has_been_in_becomes_a_store(tmp_path):
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "lost+found"):
        (tmp_path / name).write_text("")
    Store(tmp_path).close()
    assert (tmp_path / "Thumbs.db").exists()


@pytest.mark.parametrize("code", ["EINVAL", "ENOSYS", "EOPNOTSUPP"])
def test_a_file_system_without_sync_or_modes_has_a_store(tmp_path, monkeypatch, code):
    def refuse(*_arguments, **_options):
        raise OSError(getattr(errno, code), "refused")

    monkeypatch.setattr(os, "fsync", refuse)
    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr("pathlib.Path.chmod", refuse)
    with Store(tmp_path / "s") as store:
        xr.testing.assert_identical(run(store), run())
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    with pytest.raises(OSError, match="broken"):
        stores.write_atomic(tmp_path / "x", b"x")


@pytest.mark.parametrize("code", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch, code):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_arguments):
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse)
        with pytest.raises(StoreError, match=rf"a file system with locks, got .* for {tmp_path}/s/lock: name a folder"):
            Store(tmp_path / "s")
    Store(tmp_path / "s").close()


def test_a_lock_of_another_user_is_said(tmp_path, monkeypatch):
    opened = os.open

    def denied(path, *arguments, **options):
        if str(path).endswith("/lock"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    Store(tmp_path / "s").close()
    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(StoreError, match=r"a lock that this user may write, got Permission denied for .*/s/lock"):
        Store(tmp_path / "s")


def test_a_store_is_closed_by_any_thread(tmp_path):
    store = Store(tmp_path / "s")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(store.close).result()
    Store(tmp_path / "s").close()


def test_workers_threads_are_compared_with_those_of_workers(filled, monkeypatch):
    monkeypatch.setenv("NPROC", "3")
    lines = []
    with Store(filled, notify=lines.append) as store:
        view = store.view(cell, version=1, key=KEY)
        cells = [Cell((("t", 0.5),), 0)]
        assert view.done(cells, origin={"xla_threads": "1"}) == [True]
        assert lines == []
        view.done(cells)
    assert len(lines) == 1
    assert "computed with xla_threads 1, this is 3" in lines[0]


def test_results_of_another_version_are_announced(filled, monkeypatch):
    lines = []
    monkeypatch.setattr("lazyscope.store.folder.origin", lambda: origin() | {"jax": "99"})
    with Store(filled, notify=lines.append) as store:
        run(store)
        run(store)
    assert len(lines) == 1
    assert f"computed with jax {jax.__version__}, this is 99" in lines[0]


# --- code -----------------------------------------------------------------------------------------------------------

MODULE = """
from dataclasses import dataclass
import functools
import jax
import helpers

SCALE = 1.0
CACHE = object()  # of no kind that decides numbers


@dataclass(frozen=True)
class Kind:
    power: int = 1

    def of(self, value):
        return value**self.power


def inner(t, bound=2.0):
    # a comment
    return bound * t if f"below {bound}" else bound


def made(factor):
    def product(t):
        return factor * t

    return product


double = made(2)


@jax.jit
def compiled(t):
    return t + 1


def cell(key, *, t, rule=inner):
    \"\"\"What it does.\"\"\"
    return {"value": SCALE * rule(t) + Kind().of(double(t)) + compiled(t) + helpers.shift(t) * jax.random.normal(key)}


def rule(t):
    return t
"""
HELPERS = "OFFSET = 3.0\ndef shift(t):\n    return t + OFFSET\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """`package(changes)` is a fresh import of a user's package, with some of its text changed."""
    monkeypatch.syspath_prepend(str(tmp_path))
    numbers = iter(range(100))

    def imported(*changes):
        text = MODULE, HELPERS
        for old, new in changes:
            assert any(old in part for part in text)
            text = tuple(part.replace(old, new) for part in text)
        folder = tmp_path / f"user{next(numbers)}"
        folder.mkdir()
        # The same names every time, from files of their own: Python keeps what it has compiled of a file.
        for name in [name for name in sys.modules if name.partition(".")[0] == "user"]:
            del sys.modules[name]
        files = {
            "__init__": "",
            "helpers": text[1],
            "cells": text[0].replace("import helpers", "from user import helpers"),
        }
        for name, part in files.items():
            (folder / f"{name}.py").write_text(part)
        package = types.ModuleType("user")
        package.__path__ = [str(folder)]
        sys.modules["user"] = package
        return importlib.import_module("user.cells")

    yield imported
    for name in [name for name in sys.modules if name.partition(".")[0] == "user"]:
        del sys.modules[name]


SAME = [("# a comment", "# another"), ("What it does.", "What it does not."), ("    return t\n", "    return (t)\n")]
OTHER = [
    ("SCALE = 1.0", "SCALE = 2.0"),
    ("power: int = 1", "power: int = 2"),
    ("value**self.power", "value*self.power"),
    ("bound=2.0", "bound=3.0"),
    ("bound * t", "bound / t"),
    ("below {bound}", "above {bound}"),
    ("factor * t", "factor / t"),
    ("made(2)", "made(3)"),
    ("t + 1", "t + 2"),
    ("OFFSET = 3.0", "OFFSET = 4.0"),
    ("t + OFFSET", "t - OFFSET"),
    ("SCALE * rule(t)", "SCALE + rule(t)"),
]


def test_a_fingerprint_covers_all_code_that_a_function_reaches_and_nothing_else(package):
    before = fingerprint(package().cell)
    assert before == fingerprint(package(*SAME[:2]).cell)
    found = [fingerprint(package(change).cell) for change in OTHER]
    assert len({before, *found}) == 1 + len(OTHER)


def test_a_fingerprint_covers_functions_among_the_settings(package):
    def of(module):
        return fingerprint(partial(module.cell, rule=module.rule))

    assert of(package()) == of(package(*SAME))
    assert of(package()) != of(package(("def rule(t):\n    return t", "def rule(t):\n    return 2 * t")))


def test_a_fingerprint_stays_what_it_is():
    # Equal on every version of Python; a change tells every user of a store that their code has changed.
    assert fingerprint(rule) == "0b5df17b75490847e090fb8644f071ae4128ec12df376f9f74be033d2decc7a2"


def test_code_without_source_and_our_own_has_no_fingerprint():
    space: dict[str, Any] = {"__name__": "somewhere"}
    exec("def cell(key): return {'value': 1.0}", space)
    assert fingerprint(space["cell"]) is None
    assert fingerprint(training.train) is None


def test_a_change_of_code_without_one_of_the_version_is_told_and_computes_nothing(package, tmp_path):
    def sweep(module, store, **options):
        return sweep_function(module.cell, {"t": [1.0, 2.0]}, key=KEY, seeds=2, store=store, **options)

    lines = []
    with Store(tmp_path / "s", notify=lines.append) as store:
        first = sweep(package(), store)
        sweep(package(), store)
        assert lines == []
        changed = package(("SCALE = 1.0", "SCALE = 2.0"))
        counting = Counting(store)
        xr.testing.assert_identical(sweep(changed, counting), first)
        sweep(changed, counting)
        assert counting.written == 0
        (line,) = lines
        assert line.startswith("the code of user.cells.cell has changed since 4 of its cells in ")
        assert line.endswith(
            "were computed, and its version is still 1: they are used as they are; raise it where numbers change"
        )
        assert not sweep(changed, store, version=2).equals(first)
        assert len(lines) == 1


def test_cells_of_a_store_from_before_fingerprints_are_used_in_silence(package, tmp_path, monkeypatch):
    module = package()
    options: dict[str, Any] = {"key": KEY, "seeds": 2}
    with monkeypatch.context() as older, Store(tmp_path / "s") as store:
        older.setattr("lazyscope.store.folder.fingerprint", lambda function: None)
        first = sweep_function(module.cell, {"t": [1.0]}, store=store, **options)
    assert "code" not in chunks.read_header(files(tmp_path / "s")[0]).origin
    with Store(tmp_path / "s", notify=pytest.fail) as store:
        xr.testing.assert_identical(sweep_function(module.cell, {"t": [1.0]}, store=store, **options), first)
        assert sweep_function(module.cell, {"t": [1.0, 2.0]}, store=store, **options).sizes["t"] == 2


# --- provenance and tables ------------------------------------------------------------------------------------------


def test_provenance_says_where_a_result_comes_from():
    facts = stores.provenance(wall_seconds=1.25)
    assert facts["wall_seconds"] == "1.2"
    assert facts["precision"] == "float64"
    assert facts["xla_threads"] == os.environ["NPROC"]
    assert facts["git_dirty"] in ("yes", "no", "none")
    assert all(isinstance(value, str) for value in facts.values())


def test_export_has_every_cell_with_its_coordinates(filled, finished, tmp_path):
    with Store(filled) as store:
        run(store, seeds=1, axis=(0.5,), function=partial(cell, settings=Settings(size=2)))
    ds = finished[1]
    written, problems = stores.export_cells(filled, tmp_path / "out", write=stores.write_netcdf)
    assert problems == []
    assert len(written) == 2
    tables = [xr.load_dataset(path, engine="h5netcdf") for path in written]
    table = max(tables, key=lambda table: table.sizes["cell"])
    assert table.attrs["function"] == "test_store.cell"
    assert json.loads(table.attrs["settings"]) == {}
    for i in range(table.sizes["cell"]):
        one = table.isel(cell=i)
        xr.testing.assert_equal(
            ds.noise.sel(t=float(one.t), seed=int(one.seed)).drop_vars(["t", "seed"]),
            one.noise.rename(noise_0="i").drop_vars(["t", "seed"]),
        )
    (csv, _), _ = stores.export_cells(filled, tmp_path / "out", write=stores.write_csv)
    head = csv.read_text().splitlines()[0]
    assert head.startswith("seed,t,value,noise[0],noise[1]") or set(head.split(",")) >= {
        "seed",
        "t",
        "value",
        "noise[0]",
    }


def shifted(key, *, t, u=0.0):
    return {"value": t + u}


def test_export_keeps_sweeps_of_one_function_over_other_axes_apart(tmp_path):
    with Store(tmp_path / "s") as store:
        for axes in ({"t": (0.0, 1.0)}, {"t": (0.0, 1.0, 2.0), "u": (0.5, 1.5)}):
            sweep_function(shifted, axes, key=KEY, seeds=1, store=store)
    written, problems = stores.export_cells(tmp_path / "s", tmp_path / "out", write=stores.write_netcdf)
    assert problems == []
    stems = sorted(path.stem for path in written)
    assert len(stems) == 2
    assert stems[1] == f"{stems[0]}-2"
    tables = [xr.load_dataset(path, engine="h5netcdf") for path in written]
    assert sorted(table.sizes["cell"] for table in tables) == [2, 6]


def test_a_function_of_the_program_that_runs_is_known_by_the_file_or_module(monkeypatch):
    main = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(ValueError, match="a store needs functions it can name, got cell of a session"):
        keys._main_module("cell", "the function")
    main.__file__ = "/somewhere/study.py"
    assert keys._main_module("cell", "the function") == "study"
    main.__spec__ = ModuleSpec("package.study", None)
    assert keys._main_module("cell", "the function") == "package.study"


def named(key, *, rule, t):
    return {"value": t if rule == "chizat" else -t}


def test_export_has_words_as_words(tmp_path):
    axes = {"rule": ["fixed", "chizat"], "t": (0.0, 1.0)}
    with Store(tmp_path / "s") as store:
        sweep_function(named, axes, key=KEY, seeds=1, static=("rule",), store=store)
    ((csv,), _) = stores.export_cells(tmp_path / "s", tmp_path / "out", write=stores.write_csv)
    lines = sorted(csv.read_text().splitlines()[1:])
    assert lines == ["0,chizat,0.0,0.0", "0,chizat,1.0,1.0", "0,fixed,0.0,-0.0", "0,fixed,1.0,-1.0"]


def test_a_store_is_known_by_its_marker_or_by_its_chunks(filled, tmp_path):
    assert stores.locate(filled) == filled
    assert stores.locate(filled.parent / "s") == filled
    (filled / "store.json").unlink()
    assert stores.locate(filled) == filled
    with pytest.raises(StoreError, match="a store needs a folder with"):
        stores.locate(tmp_path)


def test_export_stays_in_its_folder_whatever_a_header_says(tmp_path):
    with Store(tmp_path / "s") as store:
        program = keys.described({"function": "../../evil.../etc/passwd", "version": 1, "settings": {}})
        row = chunks.Row(keys.cell_key(program.digest, [["../t", 1.0]], 0), [["../t", 1.0]], 0)
        store.add(program, [row], {"/root/x": np.ones((1, 2)), "../t": np.ones(1)})
    for write in (stores.write_netcdf, stores.write_csv):
        written, _ = stores.export_cells(tmp_path / "s", tmp_path / "out", write=write)
        assert [path.parent for path in written] == [tmp_path / "out"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "s"]


# --- devices --------------------------------------------------------------------------------------------------------

DEVICES = """
import sys, jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
jax.config.update("jax_enable_x64", True)
from functools import partial, wraps
import lazyscope as ls
from lazyscope.papers.initialisation.training import TRAIN
from lazyscope.papers.student import Protocol
assert len(jax.local_devices()) == int(sys.argv[1])
settings = Protocol(n=30, n_test=20, d=7, width=6, num_steps=60)
with ls.Store(sys.argv[2]) as store:
    ds = ls.sweep(partial(TRAIN.function, protocol=settings), {"tau": [0.1, 1, 10]}, key=jax.random.key(0), seeds=3,
                  dims=TRAIN.dims, store=store)
ds.to_netcdf(sys.argv[3], engine="h5netcdf")
"""


@pytest.mark.slow
@pytest.mark.optimised
def test_one_and_two_devices_give_the_same_bits(tmp_path):
    with ThreadPoolExecutor() as pool:
        done = pool.map(lambda n: python(DEVICES, n, tmp_path / f"s{n}", tmp_path / f"{n}.nc"), (1, 2))
    assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * 2
    xr.testing.assert_identical(*(xr.load_dataset(tmp_path / f"{n}.nc", engine="h5netcdf") for n in (1, 2)))


# --- kill -9 --------------------------------------------------------------------------------------------------------

TOTAL = 1600
KILLED = f"""
import sys, jax
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp, numpy as np
import lazyscope as ls
ls.sweep
sys.modules["lazyscope.sweep.program"].BUFFER_CELLS = 4

def descend(key, *, step):
    matrix = jax.random.normal(key, (40, 40)) / 40
    start = jnp.ones(40)
    return {{"end": jax.lax.fori_loop(0, 15_000, lambda i, w: w - step * (matrix @ w - start), start)}}

with ls.Store(sys.argv[1]) as store:
    ds = ls.sweep(descend, {{"step": np.linspace(0.01, 0.1, {TOTAL // 20})}}, key=jax.random.key(0), seeds=20,
                  dims={{"end": ("i",)}}, store=store, progress=lambda done, total, label: print(done, flush=True))
ds.to_netcdf(sys.argv[2], engine="h5netcdf")
"""


@pytest.mark.slow
def test_kill_nine_at_random_moments(tmp_path, capsys):
    """Twenty times SIGKILL, then the same command: bit for bit the uninterrupted Dataset."""
    (tmp_path / "killed.py").write_text(KILLED)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}

    def command(name):
        return [sys.executable, str(tmp_path / "killed.py"), str(tmp_path / name), str(tmp_path / f"{name}.nc")]

    subprocess.run(command("whole"), check=True, capture_output=True, env=environment)
    random = np.random.default_rng(0)
    held, gained, unannounced = 0, [], 0
    for _ in range(20):
        with subprocess.Popen(command("s"), stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            # Said before compilation and after every chunk: up to eight chunks in, and then anywhere within the next.
            said = [int(process.stdout.readline()) for _ in range(1 + random.integers(9))]
            time.sleep(random.uniform(0, 0.05))
            assert process.poll() is None, "the sweep ended before it was killed: give it more cells"
            process.kill()
            said += [int(line) for line in process.stdout.read().splitlines()]
        assert said[0] == held, "what was kept is not computed again"
        held, problems = stores.check(tmp_path / "s")
        assert problems == []
        assert held >= said[-1], "what was announced is kept"
        unannounced += held > said[-1]
        gained.append(held - said[0])
    last = subprocess.run(command("s"), check=True, capture_output=True, text=True, env=environment)
    assert int(last.stdout.split()[0]) == held < TOTAL
    assert stores.check(tmp_path / "s") == (TOTAL, [])
    assert len(gained) - gained.count(0) >= 10, "most kills hit a sweep at work"
    assert not list((tmp_path / "s" / "chunks").glob(".*"))
    xr.testing.assert_identical(*(xr.load_dataset(tmp_path / f, engine="h5netcdf") for f in ("whole.nc", "s.nc")))
    with capsys.disabled():
        print(
            f"\n20 kills kept {gained} cells, {held} of {TOTAL} in all; {unannounced} between a rename and its report; "
            f"the last run computed {TOTAL - held}, none twice but the chunk in flight"
        )
