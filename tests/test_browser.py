"""The page of real results in a headless browser: nothing is loaded, everything answers, everyone can read it."""

import shutil
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import lazyscope as ls
from lazyscope import views
from lazyscope.papers.reproduce import reproduce
from lazyscope.report import write_page
from lazyscope.store import Store

pytestmark = pytest.mark.slow

FIGURES = ("note-fig4", "note-fig2", "explorer")
FLAGS = ["--no-sandbox", "--use-gl=swiftshader", "--enable-unsafe-swiftshader"]
DRIVER = "GL Driver Message", "willReadFrequently"  # the software renderer's own remarks


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("page")
    with Store(out / "store") as store:
        for name in FIGURES:
            reproduce(name, size="tiny", seeds=None, out=out, store=store)
    return write_page(out)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="`make test-slow` installs the browser's driver")
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    binary = next((path for path in found if path), None)
    if binary is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=binary, args=FLAGS)
        yield opened
        opened.close()


class Visit:
    """A page with what it said and asked for."""

    def __init__(self, browser, file, width=1280, scheme="light", ready="#explorer-explorer .plots svg"):
        self.said, self.asked = [], []
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.on("console", lambda m: self.said.append(m.text) if not any(d in m.text for d in DRIVER) else None)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        began = time.perf_counter()
        self.page.goto(file.as_uri())
        self.page.wait_for_selector(ready)
        self.seconds = time.perf_counter() - began


@pytest.fixture
def visit(browser, page_file):
    opened = []

    def open_page(**options):
        opened.append(Visit(browser, page_file, **options))
        return opened[-1]

    yield open_page
    for one in opened:
        one.page.close()


def test_the_page_is_silent_loads_nothing_and_is_soon_interactive(visit, page_file):
    found = visit()
    assert found.said == []
    assert [url for url in found.asked if not url.startswith(("data:", "blob:"))] == [page_file.as_uri()]
    assert found.seconds < 3
    assert page_file.stat().st_size < 15e6


@pytest.mark.parametrize("control", [".tau", ".alpha"])
def test_sliders_move_through_the_runs(visit, control):
    page = visit().page
    plots, reading = page.locator("#explorer-explorer .plots"), page.locator("#explorer-explorer .reading")
    before = plots.inner_html(), reading.inner_text()
    page.locator(f"#explorer-explorer {control}").focus()
    page.keyboard.press("ArrowRight")
    after = plots.inner_html(), reading.inner_text()
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_both_sliders_move_along_one_law_and_the_start_matters(visit):
    page = visit().page
    explorer, reading = page.locator("#explorer-explorer"), page.locator("#explorer-explorer .reading")
    explorer.locator(".tau").fill("1")
    by_tau = reading.inner_text()
    explorer.locator(".tau").fill("0")
    explorer.locator(".alpha").fill("1")
    assert reading.inner_text() == by_tau
    explorer.get_by_label("plain").check()
    assert reading.inner_text() != by_tau
    explorer.locator(".alpha").fill("4")
    assert "No run is stored at tau·√alpha = 100" in reading.inner_text()


def test_the_surface_turns_and_shows_values(visit):
    page = visit().page
    place = page.locator("#surface-note-fig2")
    place.scroll_into_view_if_needed()
    page.wait_for_selector("#surface-note-fig2 canvas")
    page.wait_for_timeout(1500)
    box = place.bounding_box()
    camera = "JSON.stringify(document.getElementById('surface-note-fig2')._fullLayout.scene._scene.getCamera().eye)"
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    hovered = "document.getElementById('surface-note-fig2').__hovered"
    page.evaluate(
        "const p = document.getElementById('surface-note-fig2');"
        "p.on('plotly_hover', e => { p.__hovered = e.points[0].z; })"
    )
    for step in range(40):
        page.mouse.move(x + 4 * (step % 10) - 20, y + 8 * (step // 10) - 10)
        page.wait_for_timeout(50)
        if page.evaluate(hovered) is not None:
            break
    assert isinstance(page.evaluate(hovered), int | float)
    before = page.evaluate(camera)
    page.mouse.down()
    page.mouse.move(x + 150, y + 60, steps=8)
    page.mouse.up()
    page.wait_for_timeout(500)
    assert page.evaluate(camera) != before


def test_the_filter_shows_one_outcome_and_links_lead_somewhere(visit):
    page = visit().page
    page.get_by_role("button", name="holds", exact=True).click()
    shown = page.locator("article[data-outcome]:visible")
    assert {shown.nth(i).get_attribute("data-outcome") for i in range(shown.count())} <= {"holds"}
    page.get_by_role("button", name="all", exact=True).click()
    assert page.locator("article[data-outcome]:visible").count() == page.locator("article[data-outcome]").count()
    broken = page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.getAttribute('href').slice(1))"
        ".filter(id => !document.getElementById(id))"
    )
    assert broken == []


def test_files_beside_the_page_are_there(visit, page_file):
    page = visit().page
    links = page.evaluate("[...document.querySelectorAll('a[download]')].map(a => a.getAttribute('href'))")
    beside = [link for link in links if not link.startswith("data:")]
    assert len(beside) == 4 * len(FIGURES)
    assert all((page_file.parent / link).stat().st_size > 500 for link in beside)
    assert sum(link.startswith("data:text/csv") for link in links) == len(FIGURES)


def test_a_phone_needs_no_sideways_scrolling(visit):
    page = visit(width=390).page
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_stands_in_anyones_way(visit, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = visit(scheme=scheme).page
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    found = axe.Axe().run(page).response["violations"]
    serious = [(v["id"], v["nodes"][0]["html"][:120]) for v in found if v["impact"] in ("serious", "critical")]
    assert serious == []


def test_the_toggle_changes_the_scheme(visit):
    page = visit().page
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(colour)
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate(colour) != light


# The page of diagnoses: one of ours, one converted from PyTorch, both side by side.


@pytest.fixture(scope="module")
def diagnoses():
    lst = pytest.importorskip("lazyscope.torch", reason="`make test-slow` installs PyTorch")
    import torch  # pyright: ignore[reportMissingImports]

    model = ls.two_layer(16, 8)
    problem = ls.teacher_student(jax.random.key(0), n=60, d=8, n_test=60)
    params0 = model.init(jax.random.key(1), doubled=True)
    ours = ls.diagnose(model.apply, params0, problem, key=jax.random.key(2), num_steps=100, with_kappa=False)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).double()
    batches = torch.from_numpy(np.array(problem.x)), torch.from_numpy(np.array(problem.y)).reshape(-1, 1)
    return {"ours": ours, "from PyTorch": lst.diagnose(net, batches, num_steps=100, with_kappa=False)}


@pytest.fixture(scope="module", params=["ours", "from PyTorch", "side by side"])
def diagnosis_page(request, diagnoses, tmp_path_factory):
    shown = {name: found for name, found in diagnoses.items() if request.param in (name, "side by side")}
    return views.write_page(shown, tmp_path_factory.mktemp("diagnosis")), shown


@pytest.fixture
def look(browser, diagnosis_page):
    opened = []

    def open_page(**options):
        opened.append(Visit(browser, diagnosis_page[0], ready="#theme:not([hidden])", **options))
        opened[-1].page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        return opened[-1]

    yield open_page
    for one in opened:
        one.page.close()


def test_a_page_of_diagnoses_is_silent_loads_nothing_and_is_soon_there(look, diagnosis_page):
    file, _ = diagnosis_page
    found = look()
    assert found.said == []
    assert [url for url in found.asked if not url.startswith(("data:", "blob:"))] == [file.as_uri()]
    assert found.seconds < 2
    assert file.stat().st_size < 6e6


def test_every_number_that_is_seen_is_that_of_the_diagnosis(look, diagnosis_page):
    page = look().page
    for i, found in enumerate(diagnosis_page[1].values()):
        rows = page.locator("table.numbers").nth(i).locator("tbody tr")
        shown = dict(zip(rows.locator("th").all_inner_texts(), rows.locator("td").all_inner_texts(), strict=True))
        whole = found.as_dict()
        assert float(shown["gap"]) == whole["gap"]
        assert [float(shown[f"differential_interval.{k}"]) for k in (0, 1)] == whole["differential_interval"]
        assert float(shown["groups.0.change_share"]) == whole["groups"][0]["change_share"]
        assert f"g = {found.gap}" in page.locator(".summary").nth(i).locator("article").inner_text()


@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_of_diagnoses_fits_phones_and_desktops(look, width):
    assert look(width=width).page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("width", "narrow"), [(390, True), (1280, False)])
def test_pictures_of_a_diagnosis_are_drawn_for_the_screen_and_need_no_scrolling(look, width, narrow):
    pictures = look(width=width).page.locator("figure picture img")
    assert pictures.count() >= 5
    for i in range(pictures.count()):
        shown, wide = pictures.nth(i).evaluate("i => [i.currentSrc, i.src]")
        assert (shown != wide) == narrow
        assert pictures.nth(i).bounding_box()["width"] <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_stands_in_the_way_of_a_diagnosis(look, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(look(scheme=scheme).page).response["violations"]
    serious = [(v["id"], v["nodes"][0]["html"][:120]) for v in found if v["impact"] in ("serious", "critical")]
    assert serious == []


def test_tables_of_a_diagnosis_open_by_keyboard(look):
    page = look().page
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = false; })")
    first = page.locator(".summary details").first
    first.locator("summary").focus()
    page.keyboard.press("Enter")
    assert first.get_attribute("open") is not None
