"""What stands on the page and in the netCDF file as settings of a figure, against its specification."""

import dataclasses
from dataclasses import dataclass

import pytest
import xarray as xr

from lazyscope.dynamics import EarlyStop
from lazyscope.papers.registry import FIGURES, SIZES
from lazyscope.papers.reproduce import load
from lazyscope.papers.stated_settings import Setting, stand_ins, table
from lazyscope.papers.student import Protocol
from lazyscope.report import Item, write_item, write_page
from lazyscope.store import export


@dataclass(frozen=True)
class Two:
    one: Protocol
    other: Protocol
    parts: tuple[tuple[str, Protocol], ...]


TWO = Two(Protocol(), Protocol(n=7, stop=EarlyStop(patience=3)), (("A", Protocol(d=1)), ("B", Protocol(d=2))))


def by_attributes(spec, path):
    """The value that a path names, found by reading attributes (and parts by name) one after the other."""
    for name in path.split("."):
        spec = getattr(spec, name) if hasattr(spec, name) else dict(spec)[name]
    return spec


def every_path(spec, path=""):
    """Paths of all leaves, by another way than the library's: what `dataclasses.asdict` nests."""
    if hasattr(spec, "_asdict"):
        spec = spec._asdict()
    if isinstance(spec, tuple) and spec and isinstance(spec[0], tuple):
        spec = dict(spec)
    if isinstance(spec, dict):
        return [leaf for name, value in spec.items() for leaf in every_path(value, f"{path}.{name}" if path else name)]
    return [path]


def reads_as(text, value):
    """Whether a text of the page, read back, is the value itself."""
    if isinstance(value, tuple):
        parts = text.split(", ")
        return len(parts) == len(value) and all(map(reads_as, parts, value))
    if isinstance(value, bool) or value is None:
        return text == {True: "yes", False: "no", None: "none"}[value]
    if callable(value):
        return text == value.__name__
    return type(value)(text) == value


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", FIGURES)
def test_settings_are_those_of_the_specification_leaf_by_leaf(name, size):
    figure = load(name)
    spec, seeds = figure.sizes[size].settings, figure.sizes[size].seeds
    shown = table(spec, seeds, figure.stated)
    said = {setting.name: setting.run for setting in figure.stated if setting.run}
    leaves = every_path(dataclasses.asdict(spec))
    assert {*leaves, "seeds"} | set(said) == set(shown)
    assert shown["seeds"][0] == str(seeds)
    for path in leaves:
        text, value = shown[path][0], by_attributes(spec, path)
        assert text == said[path] if path in said else reads_as(text, value), (path, text, value)


def test_page_and_netcdf_have_them_all(tmp_path):
    shown = table(TWO, 3, (Setting("other.n", stated="1000", why="<time>"), Setting("batch", run="all")))
    item = Item(
        name="demo",
        title="t",
        caption="c",
        size="tiny",
        command="x",
        findings=[],
        settings={name: run for name, (run, _, _) in shown.items()},
        numbers=[["a"], ["1"]],
        provenance={"lazyscope": "0"},
        stated={name: [stated, why] for name, (_, stated, why) in shown.items() if stated},
    )
    export(xr.Dataset(), tmp_path / "demo.nc", attributes=item.settings)
    kept = xr.load_dataset(tmp_path / "demo.nc", engine="h5netcdf").attrs
    assert kept == {path: text for path, (text, _, _) in table(TWO, 3, ()).items()} | {"batch": "all"}
    assert (kept["one.n"], kept["other.n"], kept["parts.A.d"], kept["parts.B.d"]) == ("1000", "7", "1", "2")
    assert (kept["one.stop"], kept["other.stop.patience"]) == ("none", "3")
    write_item(tmp_path, item, svg=b"<svg/>", png=b"")
    page = write_page(tmp_path).read_text()
    for name, text in item.settings.items():
        assert f'<tr><th scope="row">{name}</th><td>{text}</td>' in page
    assert '<th scope="row">other.n</th><td>7</td><td>1000</td><td>&lt;time&gt;</td>' in page


def test_a_reason_stands_only_where_ours_is_another_value():
    said = (Setting("one.n", "1000 in [2]", "time"), Setting("other.n", "1000 in [2]", "time"))
    shown = table(TWO, 3, said)
    assert shown["one.n"] == ("1000", "1000 in [2]", "")
    assert shown["other.n"] == ("7", "1000 in [2]", "time")


def test_what_stands_in_is_named_where_another_value_was_run_and_trials_where_they_are_fewer():
    def words(*said):
        return stand_ins(table(TWO, 3, said), said)

    digits = Setting("other.n", "1000", stand_in="on digits")
    assert words(digits) == "on digits"
    assert words(digits, Setting("seeds", "10 in [2]")) == "on digits, with 3 of 10 trials"
    assert words(Setting("one.n", "1000 (§4)", stand_in="on digits"), Setting("seeds", "3 (§4)")) == ""
    assert words(Setting("other.n", "1000", "time"), Setting("seeds", "not stated")) == ""


def test_a_setting_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"^a setting must be .* got 'one\.m': name one of one\.n, [^\n]*$"):
        table(TWO, 4, (Setting("one.m", stated="3"),))
