"""A diagnosis to be looked at and kept: JSON to the last bit, the regime map, HTML in notebooks, the page."""

import base64
import csv
import importlib
import io
import json
import math
import re
from dataclasses import fields, replace
from html import unescape

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

import lazyscope as ls
from lazyscope import figures, views
from lazyscope.cli import logs, main
from lazyscope.cli.arguments import InputError
from lazyscope.cli.scales import at_scales
from lazyscope.criterion.bounds import UpperBound
from lazyscope.criterion.estimate import Estimate, Search
from lazyscope.diagnose import Diagnosis, Thresholds
from lazyscope.diagnose.advice import Recommendation
from lazyscope.diagnose.diagnosis import Seed
from lazyscope.diagnose.kept import Learnable, Outputs, Trajectory, learnable, some_outputs
from lazyscope.diagnose.layers import GroupRow
from lazyscope.diagnose.references import nearest
from lazyscope.intervals import Interval
from lazyscope.views.items import items_of
from lazyscope.views.regime_map import Point, draw_map, frame_of
from lazyscope.views.scales import at_scales as at_scales_drawn
from lazyscope.views.scales import crossing

NASTY = '<script>alert("$x_1$")</script>'
THIRD = 1 / 3  # has no short decimal form


def made(**changes) -> Diagnosis:
    """A diagnosis with every kind of value that one can have."""
    rows = tuple(GroupRow(name, 8, THIRD, share, THIRD, 0.5, zero, gap, True)
                 for name, share, zero, gap in ((NASTY, 0.8, False, None), ("readout", 0.2, True, 2.5e-7)))  # fmt: skip
    crit = ls.Criterion(
        kappa=THIRD,
        kappa_interval=(THIRD, math.inf),
        upper_bound=UpperBound(math.inf, math.nan, "none", 0),
        residual_norm=1.0,
        jacobian_norm=Estimate(1.0, 1e-9, 12, True),
        hessian_norm=Search(2.0, 0.1, 40, False, 4, 2, 0.1),
        kappa_exact=0.5,
        kappa_inf=None,
        kappa_least=None,
        alpha_least=math.inf,
        alpha=2.0,
        products=52,
    )
    found = Diagnosis(
        regime="not lazy",
        regimes=("mixed", "not lazy"),
        gap=Interval(0.2, 0.1, 0.4),
        differential=Interval(THIRD, 0.3, 0.35),
        probe_error=0.0,
        thresholds=Thresholds(),
        how="300 steps of descent",
        inputs="4 held-out inputs",
        num_inputs=4,
        differential_examples=4,
        alpha=2.0,
        groups=rows,
        kernel_change=-math.inf,
        kernel_changes={"['a']": THIRD},
        kernel_examples=4,
        indicators={"movement in all": math.nan},
        losses={"loss at start": 1e-300, "loss, trained": 0.1, "loss, linearised": 0.2},
        classification={},
        criterion=crit,
        recommendation=Recommendation(True, 30.0, THIRD, 0.1),
        placed="",
        reasons=(f"because {NASTY}",),
        advice=("do this",),
        seeds=(Seed(Interval(0.2, 0.0, math.inf), Interval(0.3, 0.2, 0.4), "mixed"),),
        model=NASTY,
        learnable=Learnable(4, 4, 3, 1e3, 1.5, 0.875, (1.0, THIRD, 1e-3), (0.5, 0.25, 0.125)),
        trajectory=Trajectory(
            (0, 1, 5), (3.0, 2.0, 1.0), (3.0, 2.0, 1.5), (), (), (0, 5), (0.0, 0.2), (1,), (THIRD,), 4
        ),
        outputs=Outputs(4, (0, 1, 2, 3), (0,) * 4, (0.0,) * 4, (1.0, 2.0, THIRD, 4.0), (1.0, 2.5, 3.0, 4.0), ()),
    )
    return replace(found, **changes)


def drawn(*points, thresholds=Thresholds()) -> Axes:  # noqa: B008
    figure, (ax,) = figures.new_figure()
    draw_map(ax, points, thresholds)
    FigureCanvasAgg(figure).draw()
    return ax


def marks(ax, gid):
    return [line for line in ax.lines if line.get_gid() == gid]


def ends(line) -> tuple[list[float], list[float]]:
    return np.asarray(line.get_xdata(), float).tolist(), np.asarray(line.get_ydata(), float).tolist()


def rectangle(ax, regime):
    (found,) = (patch for patch in ax.patches if patch.get_gid() == regime)
    return found.get_x(), found.get_y(), found.get_x() + found.get_width(), found.get_y() + found.get_height()


# Kept as JSON.


def test_a_kept_diagnosis_is_the_same_to_the_last_bit_infinities_and_nan_too():
    found = made()
    text = found.to_json()
    again = Diagnosis.from_json(text)
    assert again.to_json() == text
    for one in fields(Diagnosis):
        if one.name != "provenance":
            assert repr(getattr(again, one.name)) == repr(getattr(found, one.name)), one.name
    assert (again.gap.low, again.gap.high) == (0.1, 0.4)
    assert isinstance(again.seeds[0].gap, Interval)
    assert math.isnan(again.indicators["movement in all"])
    assert again.provenance["lazyscope"] == found.provenance.get("lazyscope", again.provenance["lazyscope"])
    assert json.loads(text, parse_constant=pytest.fail)  # no NaN and no Infinity, which JSON has not
    assert str(again) == str(found)


def test_equal_diagnoses_are_equal_wherever_they_were_made():
    found = made(indicators={}, criterion=None)
    assert Diagnosis.from_json(found.to_json()) == found
    assert Diagnosis.from_json(found.to_json()).provenance != found.provenance


@pytest.mark.parametrize(
    "change",
    [
        lambda kept: kept.pop("gap"),
        lambda kept: kept.update(more=1),
        lambda kept: kept.update(gap=[1, 2]),
        lambda kept: kept.update(gap=["1", 2, 3]),
        lambda kept: kept.update(num_inputs=1.5),
        lambda kept: kept.update(num_inputs=True),
        lambda kept: kept.update(regimes="lazy"),
        lambda kept: kept.update(thresholds=[1, 2, 3, 4]),
        lambda kept: kept["groups"][0].pop("name"),
    ],
)
def test_a_text_that_is_no_diagnosis_is_refused_in_one_line(change):
    kept = json.loads(made().to_json())
    change(kept["lazyscope diagnosis"])
    with pytest.raises(ValueError, match=r"a kept diagnosis must be what Diagnosis\.to_json") as caught:
        Diagnosis.from_json(json.dumps(kept))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"lazyscope diagnosis": null}'])
def test_any_other_text_is_refused_too(text):
    with pytest.raises(ValueError, match="a kept diagnosis must be"):
        Diagnosis.from_json(text)


def test_as_dict_leaves_out_the_outputs_and_where_it_was_made():
    found = made().as_dict()
    assert {one.name for one in fields(Diagnosis)} - set(found) == {"outputs", "provenance"}
    assert found["learnable"]["shares"] == [0.5, 0.25, 0.125]


# What a diagnosis keeps.


def test_what_a_diagonal_kernel_can_learn_is_read_off():
    values, residual = np.array([2.0, 8.0, 0.0, 4.0]), np.array([1.0, 2.0, 3.0, 4.0])
    found = learnable(jnp.diag(jnp.asarray(values)), ls.square_loss, jnp.zeros((4, 1)), jnp.asarray(residual[:, None]))
    assert found is not None
    assert found.eigenvalues == (1.0, 0.5, 0.25)
    assert found.reachable == pytest.approx(21 / 30, rel=1e-12)
    np.testing.assert_allclose(found.shares, np.array([4, 16, 1]) / 30, rtol=1e-12)
    assert (found.rank, found.size, found.examples) == (3, 4, 4)
    np.testing.assert_allclose([found.condition, found.effective_rank], [4, 14**2 / 84], rtol=1e-12)


def test_shares_of_what_is_to_be_learnt_do_not_depend_on_units():
    random = np.random.default_rng(0)
    rows, y, f0 = random.normal(size=(6, 4)), random.normal(size=(6, 1)), jnp.zeros((6, 1))
    one, other = (
        learnable(jnp.asarray(rows @ rows.T * unit**2), ls.square_loss, f0, jnp.asarray(y * unit))
        for unit in (1.0, 1e-120)
    )
    assert one is not None
    assert other is not None
    np.testing.assert_allclose(one.shares, other.shares, atol=1e-9)
    assert one.rank == other.rank == 4


def test_where_nothing_is_to_be_learnt_there_are_no_shares():
    found = learnable(jnp.eye(3), ls.square_loss, jnp.ones((3, 1)), jnp.ones((3, 1)))
    assert found is not None
    assert (found.shares, found.reachable) == ((), None)
    assert learnable(jnp.zeros((3, 3)), ls.square_loss, jnp.ones((3, 1)), jnp.ones((3, 1))) is None


@pytest.mark.parametrize("shape", [(3, 1), (50, 7), (5, 30, 11)])
def test_outputs_that_are_kept_are_those_of_their_example_and_entry(shape):
    f = jnp.arange(math.prod(shape), dtype=float).reshape(shape)
    found = some_outputs(f, 2 * f, 3 * f, 4 * f)
    assert len(found.trained) == min(f.size, 200)
    assert (found.example[0], found.example[-1]) == (0, shape[0] - 1)
    rows = np.asarray(f).reshape(shape[0], -1)
    for i, k, *values in zip(*found[1:], strict=True):
        assert values == [c * rows[i, k] for c in (1, 2, 3, 4)]


def test_labels_are_no_targets_of_outputs():
    f = jnp.ones((3, 2))
    assert some_outputs(f, f, f, jnp.zeros(3, int)).target == ()


# The regime map.


def test_regions_follow_the_thresholds_of_the_diagnosis():
    thresholds = Thresholds(0.01, 0.3, 0.02, 0.7)
    ax = drawn(Point("it", Interval(0.2, 0.1, 0.4), Interval(0.3, 0.2, 0.4)), thresholds=thresholds)
    left, right, low, high = (*ax.get_xlim(), *ax.get_ylim())
    np.testing.assert_allclose(rectangle(ax, "lazy"), (left, low, 0.01, 0.02))
    np.testing.assert_allclose(rectangle(ax, "mixed"), (left, low, 0.3, 0.7))
    np.testing.assert_allclose(rectangle(ax, "not lazy"), (left, low, right, high))


def test_the_point_lies_where_g_and_j_say_and_its_cross_is_the_intervals():
    ax = drawn(Point("it", Interval(0.2, 0.1, 0.4), Interval(THIRD, 0.3, 0.35)))
    (mark,) = marks(ax, "it")
    assert ends(mark) == ([0.2], [THIRD])
    assert mark.get_marker() == "o"
    crosses = [found for found in map(ends, ax.lines) if len(found[0]) == 2]
    assert crosses == [([0.1, 0.4], [THIRD, THIRD]), ([0.2, 0.2], [0.3, 0.35])]


@pytest.mark.parametrize(
    ("gap", "change", "marker"),
    [(0.0, 0.2, "<"), (math.inf, 0.2, ">"), (0.2, 0.0, "v"), (0.2, 1e9, "^"), (1e-9, 0.2, "<")],
)
def test_what_is_zero_or_beyond_the_frame_lies_on_its_edge_and_points_outwards(gap, change, marker):
    ax = drawn(Point("it", Interval(gap, 0.0, math.inf), Interval(change, change, change)))
    (mark,) = marks(ax, "it")
    assert mark.get_marker() == marker
    (x,), (y,) = ends(mark)
    assert ax.get_xlim()[0] <= x <= ax.get_xlim()[1]
    assert ax.get_ylim()[0] <= y <= ax.get_ylim()[1]


def test_nothing_is_drawn_for_a_number_that_is_none():
    nothing = Interval(math.nan, math.nan, math.nan)
    assert marks(drawn(Point("it", nothing, Interval(0.2, 0.1, 0.3))), "it") == []


def test_every_reference_is_a_dot_and_the_nearest_are_named():
    g, j = 0.3, 0.4
    ax = drawn(Point("it", Interval(g, 0.2, 0.4), Interval(j, 0.3, 0.5)))
    assert len(marks(ax, "reference")) == 31
    said = [text.get_text() for text in ax.texts]
    assert [name for name, *_ in nearest(g, j)[:4]] == said[4:]
    assert said[3] == "it"


def test_names_do_not_cover_each_other_and_no_mathematics_is_read_into_them():
    points = [Point(f"${i}_{{", Interval(0.3 + i / 50, 0.2, 0.5), Interval(0.4, 0.3, 0.5)) for i in range(4)]
    ax = drawn(*points)
    boxes = [Text.get_window_extent(text) for text in ax.texts if text.get_text().startswith("$")]
    assert len(boxes) == 4
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_the_frame_holds_all_points():
    points = [
        Point("a", *(Interval(v, v, v) for v in (1e-4, 40.0))),
        Point("b", *(Interval(v, v, v) for v in (1.0, 0))),
    ]
    frame = frame_of(points, Thresholds())
    assert frame.left < 1e-4
    assert frame.high > 40
    assert frame.low > 0


def test_the_picture_has_the_map_and_the_layers_that_matter():
    figure = made().plot()
    ax, shares, alone = figure.axes
    assert len(marks(ax, "this model")) == 1
    assert [bar.get_width() for bar in shares.patches] == [THIRD, THIRD, 0.8, 0.2]
    assert [text.get_text() for text in alone.texts] == ["not computed", "2.5e-07"]


def test_the_map_of_references_names_all_and_shows_the_shaded_regimes():
    ax, names = views.reference_map().axes
    assert len(marks(ax, "reference")) == len(names.texts) == 31
    assert rectangle(ax, "lazy")[2:] == pytest.approx((0.05, 0.1))


def test_diagnoses_that_belong_together_are_a_path():
    path = [Point(f"{i}", Interval(g, g / 2, 2 * g), Interval(g, g / 2, 2 * g)) for i, g in enumerate((0.01, 0.1, 1.0))]
    (ax,) = views.paths_map({"one": path, "other": [path[1]]}).axes
    lines = [line for line in ax.lines if line.get_label() in ("one", "other")]
    assert [ends(line)[0] for line in lines] == [[0.01, 0.1, 1.0], [0.1]]
    assert len(marks(ax, "1")) == 2


def test_in_a_notebook_there_are_table_and_map_and_nothing_is_executed():
    html = made()._repr_html_()
    assert NASTY not in html
    assert "&lt;script&gt;" in html
    assert html.count("<svg") == 1
    assert "<script" not in html
    for row, text in made().rows():
        if row and "<" not in text:
            assert text in html


# The page.


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("page")
    scales = [scaled(alpha) for alpha in (1.0, 2.0)]
    made().write_page(out, name="a <b>", command="lazyscope diagnose it --out page", scales=scales)
    return out


def table(text: str, name: str) -> list[list[str]]:
    (encoded,) = re.findall(rf'href="data:text/csv;charset=utf-8;base64,([^"]*)" download="{name}.csv"', text)
    return list(csv.reader(io.StringIO(base64.b64decode(encoded).decode())))


@pytest.mark.slow
def test_every_number_on_the_page_is_that_of_as_dict(page):
    text = (page / "index.html").read_text()
    listed = dict(table(text, "diagnosis-1")[1:])
    (rows,) = re.findall(r'<table class="facts numbers">(.*?)</table>', text, re.DOTALL)
    shown = dict(re.findall(r'<tr><th scope="row">([^<]*)</th><td>([^<]*)</td></tr>', rows))
    numbers = {}

    def walk(path, value):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            here = [*path, str(name)]
            if isinstance(inner, dict | list):
                walk(here, inner)
            elif not isinstance(inner, str | bool):
                numbers[".".join(here)] = inner

    walk([], made().as_dict())
    assert set(listed) == set(numbers)
    assert {unescape(name): text for name, text in shown.items()} == listed
    for name, value in numbers.items():
        assert listed[name] == ("none" if value is None else repr(value))
    (row,) = (row for row in table(text, "diagnosis-regimes") if row[0] == "a <b>")
    assert [float(cell) for cell in row[1:]] == [0.2, 0.1, 0.4, 0.333333, 0.3, 0.35]
    assert float(table(text, "diagnosis-kernel")[2][3]) == 0.75
    assert [float(row[1]) for row in table(text, "diagnosis-scales")[1:]] == [0.2, 0.1]


@pytest.mark.slow
def test_the_page_is_one_small_file_that_asks_for_nothing(page):
    text = (page / "index.html").read_text()
    beside = set(re.findall(r'(?:src|href)="(?!data:|#)([^"]*)', text))
    assert all((page / file).is_file() for file in beside)
    assert {file.rpartition(".")[2] for file in beside} == {"png", "pdf", "svg", "nc"}
    assert "http" not in re.sub(r"data:[^\"]+", "", text)
    assert len(text) < 2e6
    assert NASTY not in text
    assert "a &lt;b&gt;" in text


@pytest.mark.slow
def test_the_data_beside_the_page_are_those_of_the_diagnosis(page):
    with xr.open_dataset(page / "figures" / "diagnosis-regimes.nc", engine="h5netcdf") as found:
        assert found.g.values.tolist() == [0.2]
        assert found.j.values.tolist() == [THIRD]
        assert found.sizes["reference"] == 31
        assert found.attrs["lazyscope"] == ls.__version__
    with xr.open_dataset(page / "figures" / "diagnosis-outputs.nc", engine="h5netcdf") as found:
        assert found.trained.values.tolist() == [1.0, 2.0, THIRD, 4.0]
    kept = Diagnosis.from_json((page / "diagnosis.json").read_bytes())
    assert kept.gap == made().gap


@pytest.mark.slow
def test_diagnoses_stand_side_by_side_and_a_page_forgets_the_one_before(page, tmp_path, capsys):
    (tmp_path / "more.json").write_text(made(gap=Interval(0.01, 0.0, 0.02), learnable=None).to_json())
    out = tmp_path / "both"
    assert main(["report", str(page), str(tmp_path / "more.json"), "--out", str(out)]) == 0
    text = (out / "index.html").read_text()
    assert [row[0] for row in table(text, "diagnosis-regimes")[1:3]] == [page.name, "more"]
    assert len(re.findall('<section class="summary"', text)) == 2
    assert 'id="diagnosis-kernel-1"' in text
    assert 'id="diagnosis-kernel-2"' not in text
    assert len(text) < 6e6
    capsys.readouterr()
    assert main(["report", str(out)]) == 0
    assert (out / "index.html").read_text() == text
    made(learnable=None).write_page(out)
    text = (out / "index.html").read_text()
    assert "diagnosis-kernel" not in text
    assert not list((out / "figures").glob("diagnosis-kernel*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report"], "a report takes one folder, or diagnoses and --out, got neither"),
        (["report", "a", "b"], "add --out DIR"),
        (["report", "nowhere.json", "--out", "x"], "a diagnosis must be a file, got 'nowhere.json'"),
        (["report", __file__, "--out", "x"], "a kept diagnosis must be"),
    ],
)
def test_what_is_no_diagnosis_is_refused_by_the_command(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.slow
def test_the_losses_along_our_descent_begin_and_end_as_the_table_says():
    model = ls.two_layer(16, 8, jnp.tanh)
    problem = ls.teacher_student(jax.random.key(0), n=60, d=8, n_test=60)
    params0 = model.init(jax.random.key(1))
    found = ls.diagnose(model.apply, params0, problem, key=jax.random.key(2), num_steps=100, with_kappa=False)
    assert found.trajectory is not None
    for name, along in (("trained", found.trajectory.test), ("linearised", found.trajectory.test_linearised)):
        ends = [found.losses["loss at start"], found.losses[f"loss, {name}"]]
        np.testing.assert_allclose([along[0], along[-1]], ends, rtol=1e-9)
    assert (found.trajectory.step[0], found.trajectory.step[-1]) == (0, 100)
    # All 60 inputs: g and j end at the deciders.
    assert found.trajectory.gap[0] == found.trajectory.differential[0] == 0
    np.testing.assert_allclose(found.trajectory.gap[-1], found.gap, rtol=1e-9)
    np.testing.assert_allclose(found.trajectory.differential[-1], found.differential, rtol=1e-9)
    assert found.trajectory.gap_step == found.trajectory.step
    assert (len(found.trajectory.differential), found.trajectory.differential_step[-1]) == (11, 100)
    assert found.outputs is not None
    apart = np.subtract(found.outputs.trained, found.outputs.linearised)
    learnt = min(np.linalg.norm(np.subtract(found.outputs.trained, found.outputs.start)),
                 np.linalg.norm(np.subtract(found.outputs.target, np.mean(found.outputs.target))))  # fmt: skip
    np.testing.assert_allclose(np.linalg.norm(apart) / learnt, found.gap, rtol=1e-9)  # all 60 outputs are kept
    assert Diagnosis.from_json(found.to_json()) == found


@pytest.mark.slow
def test_what_is_seen_along_descent_is_what_descent_of_so_many_steps_ends_with(monkeypatch):
    training = importlib.import_module("lazyscope.diagnose.training")
    monkeypatch.setattr(training, "CLOSED_FORM_SIDE", 0)  # the linearisation descends, too
    model = ls.two_layer(8, 4, jnp.tanh)
    problem = ls.teacher_student(jax.random.key(0), n=20, d=4, n_test=20)
    given = model.apply, model.init(jax.random.key(1)), problem
    options = {"key": jax.random.key(2), "with_kappa": False, "alpha": 3.0}
    whole = ls.diagnose(*given, num_steps=60, **options).trajectory
    assert whole is not None
    at = whole.differential_step[5]
    part = ls.diagnose(*given, num_steps=at, **options)
    for name, value in (("gap", part.gap), ("differential", part.differential)):
        along = dict(zip(getattr(whole, f"{name}_step"), getattr(whole, name), strict=True))
        np.testing.assert_allclose(along[at], value, rtol=1e-7)
    np.testing.assert_allclose(
        [dict(zip(whole.step, losses, strict=True))[at] for losses in (whole.test, whole.test_linearised)],
        [part.losses["loss, trained"], part.losses["loss, linearised"]],
        rtol=1e-9,
    )


LOGGED = [
    {"step": 0, "loss": 2.0, "gap": 0.0, "differential": 0.0, "movement": 0.0},
    {"step": 10, "loss": 1.0},
    {"step": 10, "lazyscope/gap": np.float32(0.25), "lazyscope/differential": 0.5},
    {"step": 20, "eval_loss": 0.5, "epoch": 1.0},
]


def test_a_run_of_ones_own_is_shown_as_it_was_logged():
    found = made().along(LOGGED, linearised=[{"step": 10, "loss": 1.5}]).trajectory
    assert found is not None
    assert found.step == (0, 10, 20)
    np.testing.assert_array_equal(found.train, [2.0, 1.0, math.nan])
    np.testing.assert_array_equal(found.train_linearised, [math.nan, 1.5, math.nan])
    np.testing.assert_array_equal(found.test, [math.nan, math.nan, 0.5])
    assert found.test_linearised == ()
    assert (found.gap_step, found.gap, found.differential) == ((0, 10), (0.0, 0.25), (0.0, 0.5))
    assert found.same_weights
    kept = made().along(LOGGED)
    assert repr(Diagnosis.from_json(kept.to_json()).trajectory) == repr(kept.trajectory)
    (shown,) = [one for one in items_of(kept) if one.name == "diagnosis-training"]
    assert "at the model's weights" in shown.caption
    assert shown.numbers[2] == ["10", "1", "none", "0.25", "0.5"]
    losses, deciders = shown.draw().axes
    assert [ends(one) for one in losses.lines] == [([1.0, 11.0], [2.0, 1.0]), ([21.0], [0.5])]
    assert ends(deciders.lines[0]) == ([11.0], [0.25])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"loss": 1.0}], "a row of a log must have its step, got loss"),
        ([{"step": 1, "accuracy": 1.0}], "a log must have rows with step and some of loss, gap, differential"),
        ([], "a log must have rows with step and some of loss, gap, differential"),
        ([{"step": 1, "loss": "n/a"}], "a row of a log must have numbers for its step and losses"),
        ([{"step": [1], "loss": 1.0}], "a row of a log must have numbers for its step and losses"),
    ],
)
def test_a_log_without_steps_or_anything_known_is_refused_in_one_line(rows, message):
    with pytest.raises(ValueError, match=message) as caught:
        made().along(rows)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["trainer_state.json", "rows.json", "rows.jsonl", "metrics.csv"])
def test_a_log_is_read_from_the_file_that_a_trainer_writes(name, tmp_path):
    rows = [{"step": 1, "loss": 2.0, "gap": None}, {"step": 2, "gap": 0.5}]
    texts = {
        "trainer_state.json": json.dumps({"log_history": rows}),
        "rows.json": json.dumps(rows),
        "rows.jsonl": "\n".join(map(json.dumps, rows)) + "\n",
        "metrics.csv": "\ufeffstep,loss,gap\n1.0,2.0,\n2.0,,0.5\n",  # as spreadsheets and data frames write it
    }
    (tmp_path / name).write_text(texts[name], encoding="utf-8")
    found = made().along(logs.rows(tmp_path / name)).trajectory
    assert found is not None
    assert (found.step, found.train, found.gap_step, found.gap) == ((1,), (2.0,), (2,), (0.5,))


@pytest.mark.parametrize(
    ("text", "got"),
    [
        (b"{", "JSONDecodeError"),
        (b"{}", "KeyError"),
        (b"3", "TypeError"),
        (b'{"log_history": null}', "TypeError"),
        (b"\xff\xfe\x00", "UnicodeDecodeError"),
    ],
)
def test_a_file_that_is_no_log_is_refused_in_one_line(text, got, tmp_path):
    (tmp_path / "log.json").write_bytes(text)
    with pytest.raises(InputError, match=f"a log must be a JSON list of rows.*{got}"):
        logs.rows(tmp_path / "log.json")


# Other output scales.


def scaled(alpha: float, regime: str = "lazy") -> Diagnosis:
    return made(alpha=alpha, regime=regime, gap=Interval(0.2 / alpha, 0.1 / alpha, 0.3 / alpha))


@pytest.mark.parametrize(
    ("regimes", "expected"),
    [
        (("not lazy", "mixed", "lazy", "lazy"), (2.0, 4.0)),
        (("lazy", "mixed", "lazy", "lazy"), (2.0, 4.0)),
        (("lazy", "lazy", "lazy", "mixed"), None),
        (("lazy",) * 4, None),
    ],
)
def test_it_gets_lazy_between_the_last_scale_at_which_it_is_not_and_the_next(regimes, expected):
    found = [scaled(2.0**k, regime) for k, regime in enumerate(regimes)]
    assert crossing(found) == expected
    shown = at_scales_drawn(found[::-1])
    left = shown.draw().axes[0]
    assert ends(left.lines[0]) == ([1.0, 2.0, 4.0, 8.0], [0.2, 0.1, 0.05, 0.025])
    spans = [patch.get_label() for patch in left.patches]
    assert spans == (["gets lazy in between"] if expected else [])
    assert ("between alpha = 2 and 4" in shown.caption) == (expected is not None)


def test_scales_that_are_there_are_not_trained_again_unless_the_case_is_another(tmp_path, capsys):
    trained = []

    def diagnosed(alpha):
        trained.append(alpha)
        if alpha == 16:
            raise ValueError("training diverged, lower its step size")
        return scaled(alpha)

    first = at_scales(scaled(1.0), diagnosed, tmp_path)
    assert [one.alpha for one in first] == [2.0**k for k in range(-4, 4)]
    assert "left out, training diverged" in capsys.readouterr().err
    assert len(trained) == 8
    again = at_scales(scaled(1.0), diagnosed, tmp_path)
    assert trained[8:] == [16.0]
    assert [one.gap for one in again] == [one.gap for one in first]
    sorted(tmp_path.iterdir())[0].write_text("{")
    at_scales(scaled(1.0), diagnosed, tmp_path)
    assert len(trained) == 11
    at_scales(made(alpha=1.0, how="301 steps of descent"), diagnosed, tmp_path)
    assert len(trained) == 19


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scales"], "--scales is for the page, got no --out"),
        (["--scales", "--out", "x", "--after", "w.npz"], "--scales trains at each scale, got weights"),
        (["--out", __file__], "--out must be a folder"),
    ],
)
def test_what_scales_and_pages_need_is_said_in_one_line(words, message, capsys):
    assert main(["diagnose", "two-layer-plain", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
