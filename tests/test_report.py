import base64
import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from lazyscope import figures, report
from lazyscope.claims import Claim, Outcome, evaluate

NASTY = '<script>alert("x")</script>'


def item(name="demo-fig", sentence="Loss grows."):
    claim = Claim(sentence, "paper §1", "slope", lambda ds: ds.v.values, (0.5, 1.5), {"tiny": Outcome.HOLDS})
    finding = evaluate(claim, xr.Dataset({"v": ("seed", [1.0, 1.01, 0.99])}))
    return report.Item(
        name=name,
        title="A title",
        caption=f"See {NASTY}",
        size="tiny",
        command=f"lazyscope reproduce {name}",
        findings=[report.describe(finding, "tiny")],
        settings={"width": "8"},
        numbers=[["tau", "loss"], ["1", "0.5"]],
        provenance={"lazyscope": "0"},
    )


def picture():
    figure, (ax,) = figures.new_figure()
    values = xr.DataArray(np.array([[1.0, 2.0], [3.0, 5.0]]), dims=("tau", "seed"), coords={"tau": [0.1, 1.0]})
    ax.set_xscale("log")
    figures.curve(ax, values, "tau", label="net", color=figures.BLUE)
    low = values.isel(tau=0)
    figures.levels(ax, [figures.Level(low, "zero", figures.GREY), figures.Level(low, "same", figures.INK)])
    status = xr.Dataset({"diverged": values > 4, "still_improving": values > 0})
    figures.mark_cells(ax, status, values, "tau")
    figures.finish(ax, x="tau", y="loss")
    return figure


def test_the_same_drawing_gives_the_same_bytes():
    assert figures.to_svg(picture()) == figures.to_svg(picture())


def test_names_of_equal_levels_do_not_overlap():
    heights = sorted(text.xy[1] for text in picture().axes[0].texts)  # type: ignore[attr-defined]
    assert heights[1] - heights[0] > 0.04


def test_marks_hatch_only_the_columns_that_diverged():
    figure = picture()
    legend = figure.axes[0].get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["net", "hatched: diverged", "still improving at the end of the budget"]
    assert sum(patch.get_hatch() is not None for patch in figure.axes[0].patches) == 1


def test_an_empty_figure_table_holds_means_over_seeds():
    values = xr.DataArray(np.array([[1.0, 2.0], [3.0, 5.0]]), dims=("tau", "seed"), coords={"tau": [0.1, 1.0]})
    assert figures.table({"loss": values}, "tau") == [["tau", "loss"], ["0.1", "1.5"], ["1", "4"]]


def test_the_page_is_one_file_that_loads_nothing(tmp_path):
    report.write_item(tmp_path, item(), svg=figures.to_svg(picture()), png=figures.to_png(picture()))
    page = report.write_page(tmp_path).read_text()
    assert set(re.findall(r'(?:src|href)="(?!data:|#)([^"]*)', page)) == {
        "figures/demo-fig.png",
        "figures/demo-fig.svg",
    }
    assert "http" not in re.sub(r"data:[^\"]+", "", page)
    assert "0.5 to 1.5" in page
    assert "lazyscope reproduce demo-fig" in page


def test_the_same_results_give_the_same_page(tmp_path):
    report.write_item(tmp_path, item(), svg=figures.to_svg(picture()), png=figures.to_png(picture()))
    first = report.write_page(tmp_path).read_bytes()
    assert report.write_page(tmp_path).read_bytes() == first
    # What systems leave beside files of ours.
    for name in ("._demo-fig.json", "._demo-fig.interactive.json", ".DS_Store"):
        (tmp_path / "figures" / name).write_bytes(b"\0\5Mac OS X")
    (tmp_path / "figures" / ".ipynb_checkpoints").mkdir()
    assert report.write_page(tmp_path).read_bytes() == first
    assert figures.to_pdf(picture()) == figures.to_pdf(picture())


def test_numbers_can_be_taken_along_as_csv(tmp_path):
    report.write_item(tmp_path, replace(item(), numbers=[["tau", "a, b"], ["1", NASTY]]), svg=b"<svg/>", png=b"")
    page = report.write_page(tmp_path).read_text()
    (encoded,) = re.findall(r'href="data:text/csv;charset=utf-8;base64,([^"]*)"', page)
    rows = list(csv.reader(io.StringIO(base64.b64decode(encoded).decode())))
    assert rows == [["tau", "a, b"], ["1", NASTY]]


def test_figures_are_grouped_by_paper(tmp_path):
    for name in ("note-fig4", "chizat2019-fig1c", "explorer", "woodworth2020"):
        report.write_item(tmp_path, replace(item(), name=name), svg=b"<svg/>", png=b"")
    page = report.write_page(tmp_path).read_text()
    found = re.findall(r'<h2 class="group">([^<]*)</h2>|<section id="([^"]*)"', page)
    assert [a or b for a, b in found] == [
        *("Explorer", "explorer", "The note: Bahaduri &amp; Goudelin", "note-fig4"),
        *("Chizat, Oyallon &amp; Bach 2019", "chizat2019-fig1c", "Later papers", "woodworth2020"),
    ]


def test_surfaces_share_one_plotly_inside_the_page_and_cannot_leave_their_element(tmp_path):
    for name in ("demo-fig", "other-fig"):
        data = {"data": [{"type": "surface", "z": np.eye(2), "name": NASTY}], "layout": {}}
        report.write_item(tmp_path, replace(item(), name=name), svg=b"<svg/>", png=b"", interactive=data)
    assert [found.name for found in report.read_items(tmp_path)] == ["demo-fig", "other-fig"]
    page = report.write_page(tmp_path).read_text()
    assert NASTY not in page
    assert not re.findall(r'<(?:script|link)[^>]*(?:src|href)="', page)
    assert page.count('id="plotly"') == 1
    assert 4e6 < len(page) < 1e7  # one copy of plotly.js, not two
    (text,) = re.findall(r'id="data-other-fig">(.*?)</script>', page)
    assert json.loads(text)["data"][0]["name"] == NASTY


def test_the_page_escapes_what_came_from_outside(tmp_path):
    report.write_item(tmp_path, item(sentence=NASTY), svg=b"<svg/>", png=b"")
    assert NASTY not in report.write_page(tmp_path).read_text()


def test_same_items_same_page(tmp_path):
    pages = []
    for name in ("a", "b"):
        report.write_item(tmp_path / name, item(), svg=b"<svg/>", png=b"")
        pages.append(report.write_page(tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


def test_the_page_says_what_chance_does_over_all_its_claims(tmp_path):
    def some(name, **changes):
        report.write_item(
            tmp_path, replace(item(name), findings=[item().findings[0] | changes]), svg=b"<svg/>", png=b""
        )

    some("a", p=0.001)
    some("b", p=0.03)  # alone decided, not beside the others
    some("c", p=1.0, outcome="inconclusive")
    some("d", p=None)  # by its worst seed
    page = report.write_page(tmp_path).read_text()
    text = " ".join(re.search(r'<p id="chance">(.*?)</p>', page, re.DOTALL).group(1).split())  # type: ignore[union-attr]
    assert text.startswith("3 claims are judged by an interval, 1 by their worst seed.")
    assert "0.2 of the 3 would be decided by chance" in text  # 0.15
    assert "Of the 2 decided ones 1 stay so" in text
    marked = re.findall(r'<section id="(\w)".*?<span class="tag \w+">([a-z †]*)</span>', page, re.DOTALL)
    assert marked == [("a", "holds"), ("b", "holds †"), ("c", "inconclusive"), ("d", "holds")]


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a report needs a folder with results"):
        report.write_page(tmp_path)


@pytest.mark.parametrize("content", ["{", json.dumps({"name": "x"}), "[1]"])
def test_a_result_that_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "x.json").write_text(content)
    with pytest.raises(ValueError, match=r"x\.json is not a result of this version"):
        report.write_page(tmp_path)


def test_findings_have_their_numbers_in_all_digits_and_null_for_none():
    def described(values):
        claim = Claim("It is.", "p", "m", lambda ds: ds.v.values, (0.0, 1.0))
        return json.loads(json.dumps(report.describe(evaluate(claim, xr.Dataset({"v": ("seed", values)})), "tiny")))

    numbers = described([0.1, 0.2, 0.4])["numbers"]
    assert numbers["mean"] == pytest.approx(0.7 / 3, rel=1e-15)
    assert (numbers["low"] + numbers["high"]) / 2 == pytest.approx(numbers["mean"], rel=1e-12)
    assert described([0.1, 0.2])["numbers"] == {"mean": pytest.approx(0.15), "low": None, "high": None}


def test_a_result_without_its_picture_is_named(tmp_path):
    report.write_item(tmp_path, item("x"), svg=b"<svg/>", png=b"")
    (tmp_path / "figures" / "x.svg").unlink()
    with pytest.raises(ValueError, match=r"a page needs the picture of each result, got none at .*x\.svg"):
        report.write_page(tmp_path)


def test_findings_say_what_stood_in_for_what_the_paper_speaks_of(tmp_path):
    for name, stand_in in (("note-x", ""), ("note-y", "on <digits>")):
        report.write_item(tmp_path, replace(item(name), stand_in=stand_in), svg=b"<svg/>", png=b"")
    page = report.write_page(tmp_path).read_text()
    mark = '<small class="soft">on &lt;digits&gt;</small>'
    assert page.count(mark) == 2  # beside the finding, and in the table of all claims
    assert page.count('<small class="soft">') == 2
    assert f"holds</span> {mark} &middot; <q>Loss grows.</q>" in page
