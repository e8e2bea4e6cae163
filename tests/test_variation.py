"""Figures with other settings than their own, and figures in files of one's own."""

import json
from dataclasses import dataclass, field
from typing import NamedTuple

import fresh
import pytest

from lazyscope.cli import main
from lazyscope.papers.registry import FIGURES, SIZES
from lazyscope.papers.reproduce import load, own_name
from lazyscope.papers.stated_settings import table
from lazyscope.papers.variation import label, varied

OWN = """
import jax
from lazyscope import figures
from lazyscope.claims import HOLDS, Claim
from lazyscope.papers.figure import Cell, Figure, Size
from lazyscope.papers.quantities import power
from dataclasses import dataclass

@dataclass(frozen=True)
class Widths:
    widths: tuple[float, ...]
    exponent: float = 2.0

def cell(key, *, width, exponent):
    return {"size": width**exponent * (1 + 1e-3 * jax.random.normal(key, (), "float64"))}

def draw(ds):
    figure, (ax,) = figures.new_figure(log="xy")
    figures.curve(ax, ds["size"], "width", label="size", color=figures.BLUE)
    figures.finish(ax, x="width", y="size")
    return figure

POWER = Figure(
    caption="A power law.", sizes={"tiny": Size(Widths((2.0, 4.0, 8.0)), seeds=3)},
    compute=lambda settings, trials: trials.over(Cell(cell, 1), {"width": settings.widths}, exponent=settings.exponent),
    claims=(Claim(sentence="It grows as the square.", source="ours", measure="slope", quantity=power("size", "width"),
                  accepted=(1.9, 2.1), expected={"tiny": HOLDS}),),
    draw=draw, numbers=lambda ds: figures.table({"size": ds["size"]}, "width"),
)
"""


@dataclass(frozen=True)
class Net:
    width: int = 8
    doubled: bool = True


class Pair(NamedTuple):
    net: Net
    depth: int


@dataclass(frozen=True)
class Nets:
    net: Net = field(default_factory=Net)
    taus: tuple[float, ...] = (0.1, 1.0)
    rule: str = "square"
    rate: float = 0.5


def test_a_setting_is_varied_by_its_path_or_its_last_part_and_keeps_its_type():
    changes = {"width": "16", "net.doubled": "no", "taus": "1, 10,1e2", "rule": "log", "rate": "1e-3"}
    assert varied(Nets(), changes) == Nets(Net(16, False), (1.0, 10.0, 100.0), "log", 0.001)
    assert varied(Nets(), {}) == Nets()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("widht", "16", "one of net.width, net.doubled, taus, rule, rate, got 'widht'"),
        ("width", "1.5", "net.width must be a whole number, got '1.5': it is 8 in this figure"),
        ("doubled", "1", "net.doubled must be yes or no, got '1'"),
        ("rate", "nan", "rate must be a finite number, got 'nan': it is 0.5 in this figure"),
        ("taus", "1;2", "taus must be a finite number, got '1;2'"),
    ],
)
def test_what_cannot_be_varied_is_refused_in_one_line(name, text, said):
    with pytest.raises(ValueError, match="must be") as refused:
        varied(Nets(), {name: text})
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_setting_is_given_once(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"given once, got net\.width as net\.width and as width: leave one out"):
        varied(Nets(), {"net.width": "4", "width": "8"})
    assert main(["reproduce", "note-fig4", "--out", str(tmp_path), "--set", "width=4", "--set=width=8"]) == 2
    assert "--set must give a setting once, got width=4 and width=8" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_a_setting_that_one_figure_lacks_is_refused_before_anything_is_computed(tmp_path, capsys):
    names = ["note-fig4", "note-ref1"]
    assert main(["reproduce", *names, "--size", "tiny", "--out", str(tmp_path / "out"), "--set", "width=4"]) == 2
    assert "a setting must be one of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("size", SIZES)
def test_settings_are_named_as_on_the_page(name, size):
    settings = load(name).sizes[size].settings
    with pytest.raises(ValueError, match="a setting must be one of") as refused:
        varied(settings, {"no such setting": "1"})
    said = str(refused.value).split("one of ")[1].split(", got")[0].split(", ")
    assert [*said, "seeds"] == list(table(settings, 3, ()))


def test_parts_with_names_and_named_tuples_are_varied_in_place():
    settings = (("x0.5", Net()), ("large", Net(width=64)))
    assert varied(settings, {"large.width": "128"}) == (("x0.5", Net()), ("large", Net(width=128)))
    assert varied(settings, {"x0.5.width": "2"})[0] == ("x0.5", Net(width=2))
    pair = Pair(Net(), 3)
    assert varied(pair, {"net.width": "1", "depth": "2"}) == Pair(Net(width=1), 2)


def test_a_varied_figure_has_a_name_of_its_own():
    assert label("note-fig4", {"protocol.width": "16", "taus": "0.1,1"}) == "note-fig4-protocol.width-16-taus-0.1-1"
    assert label("note-s1.1", {}) == "note-s1.1"
    long, other = (label("note-fig4", {"taus": ",".join(str(n / 3) for n in range(k, 60))}) for k in (0, 1))
    assert len(long.encode()) <= 160
    assert long[:100] != other[:100]
    assert long != label("note-fig4", {"taus": ",".join(str(n / 3) for n in range(59))})
    for one, other in (("1e+3", "1e-3"), ("-1", "1")):
        assert label("note-fig4", {"tau": one}) != label("note-fig4", {"tau": other})


@pytest.mark.slow
def test_a_figure_in_a_file_of_ones_own_is_reproduced_and_varied(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    ask = ["reproduce", "mine.py:POWER", "--size", "tiny", "--out", "out", "--json"]
    assert main([*ask, "--check"]) == 0
    assert main([*ask, "--check", "--set", "exponent=1"]) == 0  # nothing is expected of a variation
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["figures"].keys() == {"mine-POWER-exponent-1"}
    found = {f.stem: json.loads(f.read_text()) for f in (tmp_path / "out" / "figures").glob("*.json")}
    assert {name: item["findings"][0]["outcome"] for name, item in found.items()} == {
        "mine-POWER": "holds",
        "mine-POWER-exponent-1": "fails",
    }
    assert found["mine-POWER-exponent-1"]["settings"]["exponent"] == "1"
    capsys.readouterr()
    several = ["--set", "exponent=2e+0", "--set=widths=2,4"]  # none of them is dropped, and the page finds the name
    assert main([*ask, *several]) == 0
    name = "mine-POWER-exponent-2e+0-widths-2-4"
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["figures"].keys() == {name}
    assert main(["report", "out"]) == 0
    assert name in (tmp_path / "out" / "index.html").read_text()
    assert found["mine-POWER-exponent-1"]["command"].endswith("mine.py:POWER --size tiny --set exponent=1")


@pytest.mark.slow
def test_figures_of_two_files_of_one_name_have_cells_of_their_own_by_workers_too(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "other").mkdir()
    twice = OWN.replace("width**exponent", "width ** (2 * exponent)") + "TWICE = POWER\n"
    (tmp_path / "other" / "mine.py").write_text(twice)
    found = []
    for figure in ("mine.py:POWER", "other/mine.py:TWICE"):
        assert main(["reproduce", figure, "--size", "tiny", "--out", "out", "--json", "--workers", "1"]) == 0
        figures = json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]
        found += [float(claim["mean"]) for figure in figures.values() for claim in figure["claims"]]
    assert found[1] == pytest.approx(2 * found[0], rel=0.01)


@pytest.mark.slow
def test_results_of_two_files_of_one_name_do_not_overwrite_each_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path / "other"):
        (folder / "mine.py").write_text(OWN)
    ask = ["reproduce", "mine.py:POWER", "other/mine.py:POWER", "--size", "tiny", "--out", "out"]
    assert main(ask) == 2
    line = (
        "figures in one --out must differ in their file's name or their own, got other/mine.py:POWER and mine.py:POWER"
    )
    assert line in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*ask[:2], *ask[3:]]) == 0
    assert main([ask[0], *ask[2:]]) == 2
    assert line in capsys.readouterr().err
    assert main([ask[0], str(tmp_path / "mine.py:POWER"), *ask[3:]]) == 0  # the same file


def test_a_figure_of_a_module_is_called_by_the_whole_module():
    assert own_name("nets.wide:POWER") == "nets.wide-POWER"
    assert own_name("some where/mine.py:POWER") == "mine-POWER"
    assert own_name("note-fig4") == "note-fig4"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('power("size", "width")', "lambda ds: ds['size'].sel(width=7.0).values", "KeyError"),
        (
            'power("size", "width")',
            "lambda ds: ds['size'].values",
            "must be at most one number a seed, got 9 numbers for 3 seeds",
        ),
        ("draw=draw", "draw=lambda ds: None", "AttributeError"),
        ('numbers=lambda ds: figures.table({"size": ds["size"]}, "width")', "numbers=lambda ds: 'abc'", "rows of text"),
        (
            "compute=lambda",
            "compute=lambda settings, trials: None and (lambda",
            "must return an xarray.Dataset, got NoneType",
        ),
        ('{"tiny": Size(', '{"big": Size(', "the sizes of a figure must be any of tiny, quick, paper, got big"),
        ('{"tiny": HOLDS}', '{"tiny": "holds"}', "expected must have outcomes"),
    ],
)
def test_a_mistake_in_ones_own_figure_is_one_line_and_nothing_is_kept(tmp_path, before, after, said):
    text = OWN.replace(before, after)
    if "None and" in after:
        text = text.replace("exponent=settings.exponent),", "exponent=settings.exponent)),")
    assert text != OWN
    (tmp_path / "mine.py").write_text(text)
    command = "from lazyscope.cli import entry; entry()"  # without the types that tests check
    ask = ["reproduce", "mine.py:POWER", "--size", "tiny", "--out", "out", "--quiet"]
    done = fresh.python("-c", command, *ask, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list((tmp_path / "out").glob("figures/*.json"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine.py:POWR"], "did you mean POWER?"),
        (["mine.py:draw"], "must be a lazyscope.papers.figure.Figure, got function"),
        (["mine.py:POWER", "--size", "paper"], "--size must be one of tiny, got 'paper'"),
        (["mine.py:POWER", "--size", "tiny", "--set", "widths"], "--set must be NAME=VALUE, got 'widths'"),
        (["mine.py:POWER", "--size", "tiny", "--set", "width=3"], "a setting must be one of widths, exponent, got"),
    ],
)
def test_a_wrong_call_is_one_line(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    assert main(["reproduce", *arguments, "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
