"""Note, Figure 5: test loss over the plane of initialisation scale tau and output scale alpha.

    lazyscope reproduce note-fig5 --size quick

Every cell is run raw, at the weights tau·v0 themselves, with the step η = c·n/λmax(K(w0)): for a q-homogeneous net that
is the covariant rule η_v/tau^(2q−2), and for every net it makes the number of steps the same kernel_time. Level lines
of the test loss are then alpha ∝ tau^−q. On the main grid no two cells are equal by the scale law, so that the slope
is measured and not built in; other grids have equal cells on purpose, Δlog alpha = 2 Δlog tau. Level, crossed for the
first time as alpha falls, by monotone cubic interpolation: for symmetrised nets half of their loss on the lazy plateau
(a level on the plateau would be crossed by noise), for the others the median of the plane, as in note-s3.4.

The note's code instead steps on F_alpha with min(10, 0.1/(tau² alpha²))/alpha: kernel_time per step falls as alpha^−3,
so that from alpha = 100 on nothing is trained in 2000 steps, and what it draws is the loss of the initial output, ln(m
alpha² tau⁴/4) in the mean. It draws new data for every cell and stops on the test loss; here a trial shares its data,
the stop is theirs.
"""

from dataclasses import dataclass, replace

import matplotlib.figure
import numpy as np
import xarray as xr
from matplotlib.ticker import NullFormatter

from lazyscope import figures
from lazyscope.claims import Claim, Scale
from lazyscope.papers import crossings
from lazyscope.papers.figure import Figure, Size, Trials, prefixed
from lazyscope.papers.initialisation.plane_training import AT_EQUAL_TIME, WITH_NOTE_STEPS, Net
from lazyscope.papers.quantities import Quantity
from lazyscope.papers.stated_settings import FULL_BATCH, NOTE_RULE, Setting, unused
from lazyscope.papers.student import Protocol, decades
from lazyscope.scaling import distinct_runs

PLATEAU_SHARE = 0.5  # level of symmetrised nets: this share of their loss on the lazy plateau
QUANTILE = 0.5  # level of the others, which have no lazy plateau: this quantile of their plane


@dataclass(frozen=True)
class Grid:
    """Values of tau and alpha."""

    taus: tuple[float, ...]
    alphas: tuple[float, ...]


@dataclass(frozen=True)
class Planes:
    """The papers' student over three grids, and other nets at a smaller size over a grid of their own."""

    protocol: Protocol
    grid: Grid
    plain: Grid
    equal: Grid
    note: Grid
    note_steps: int
    others: Protocol
    deep: Grid


FULL = Protocol(num_steps=1000)
SMALL = replace(FULL, n=200, n_test=200, d=20, width=20, num_steps=600)
OTHERS = replace(FULL, n=60, n_test=100, d=8, width=8, num_steps=400)
# No equal cells: 2·0.25 i = 0.13 j, 2·0.25 i = 0.19 j and 3·0.2 i = 0.19 j need j >= 50.
MAIN = Grid(decades(-0.75, 0.5, 0.25), decades(-3.7, 0.46, 0.13))
PLAIN = Grid(decades(-0.75, 0.5, 0.25), decades(-2.43, 1.37, 0.19))
DEEP = Grid(decades(-0.4, 0.4, 0.2), decades(-2.43, 1.56, 0.19))
EQUAL = Grid((0.1, 0.3, 0.9, 2.7), (10.0, 90.0, 810.0))
NOTE = Grid(decades(-2.2, 3, 5.2 / 9), decades(0, 3, 1 / 3))
SIZES = {
    "tiny": Size(
        Planes(
            replace(OTHERS, num_steps=300),
            Grid(decades(-0.5, 0.5, 0.25), decades(-3.44, 0.46, 0.13)),
            Grid(decades(-0.5, 0.5, 0.25), decades(-2.2, 1.22, 0.19)),
            EQUAL,
            Grid(decades(-0.8, 0.8, 0.4), decades(0, 3, 0.5)),
            200,
            replace(OTHERS, num_steps=200),
            DEEP,
        ),
        seeds=3,
    ),
    "quick": Size(Planes(SMALL, MAIN, PLAIN, EQUAL, NOTE, 500, OTHERS, DEEP), seeds=3),
    "paper": Size(Planes(FULL, MAIN, PLAIN, EQUAL, NOTE, 2000, OTHERS, DEEP), seeds=3),
}
CODE = {"n": "1000", "n_test": "1000", "d": "100", "width": "50"}
STATED = (
    FULL_BATCH,
    Setting(
        "early stopping", NOTE_RULE, "at equal kernel_time no cell may stop early", run="none; that rule on `note`"
    ),
    Setting(
        "step",
        "min(10, 0.1/(tau² alpha²))/alpha in the note's code",
        "equal kernel_time for every cell",
        run="0.3·n/λmax(K(w0)); that of the note's code on `note`",
    ),
    *(Setting(f"protocol.{name}", f"{value} in the note's code", "time") for name, value in CODE.items()),
    Setting(
        "protocol.doubled", "no in the note's code", "both", run="yes on `grid` and `equal`, no on `plain` and `note`"
    ),
    Setting("grid.taus", "the note's grid is `note`", "a level must be crossed in every column"),
    Setting("note_steps", "2000 in the note's code", "time"),
    Setting("seeds", "3 (note §4.4)"),
    *unused("protocol", "step_rule", "test_every", "stop"),
    *unused("others", "step_rule", "test_every", "stop"),
)
CAPTION = (
    "Left: test loss of symmetrised nets over tau and alpha at equal kernel_time, level lines, and dashed the law "
    "alpha ∝ tau^−2; white cells diverged. Middle: where the loss crosses a level, one line a trial, for two-layer and "
    "three-layer ReLU nets (slopes −2 and −3, by homogeneity: under this step an identity). Right: the protocol of the "
    "note's code, where the levels have other slopes. "
    "Its values at large alpha are losses of the initial output: above the line nothing was trained."
)


NETS = {
    "": (Net(), "grid"),
    "plain_": (Net(), "plain"),
    "equal_": (Net(), "equal"),
    "deep_": (Net(depth=3), "deep"),
    "tanh_": (Net(smooth=True), "equal"),
    "bias_": (Net(bias=True), "equal"),
}


def compute(settings: Planes, trials: Trials) -> xr.Dataset:
    """Every plane, with its own axes `PREFIXtau`, `PREFIXalpha` and variables of the same prefix; no prefix: main."""
    parts: list[xr.Dataset] = []
    for prefix, (net, name) in NETS.items():
        protocol = replace(settings.protocol if net == Net() else settings.others, doubled=prefix != "plain_")
        grid: Grid = getattr(settings, name)
        ds = trials.over(AT_EQUAL_TIME, {"tau": grid.taus, "alpha": grid.alphas}, net=net, protocol=protocol)
        parts.append(prefixed(ds, prefix, "tau", "alpha"))
    ds = trials.over(
        WITH_NOTE_STEPS,
        {"tau": settings.note.taus, "alpha": settings.note.alphas},
        num_steps=settings.note_steps,
        protocol=settings.protocol,
    )
    return xr.merge([*parts, prefixed(ds, "note_", "tau", "alpha")], join="exact")


def level_lines(ds: xr.Dataset, prefix: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per seed (log10 tau, log10 alpha) where the test loss crosses its level, on the columns where it does."""
    losses = ds[f"{prefix}loss"].transpose("seed", f"{prefix}tau", f"{prefix}alpha").values
    log_tau, log_alpha = np.log10(ds[f"{prefix}tau"].values), np.log10(ds[f"{prefix}alpha"].values)
    return [crossings.crossings(np.log(plane), log_tau, log_alpha, _level(plane, prefix)) for plane in losses]


def _level(losses: np.ndarray, prefix: str) -> float:
    # A level on the plateau is crossed by noise; the corner of largest tau and alpha is the laziest cell.
    if prefix == "":
        return float(np.log(PLATEAU_SHARE * losses[-1, -1]))
    return float(np.log(np.quantile(losses[np.isfinite(losses)], QUANTILE)))


def slope(prefix: str) -> Quantity:
    """Slope of log alpha against log tau along the level of the test loss."""
    return lambda ds: np.array([crossings.slope(line) for line in level_lines(ds, prefix)])


def note_slope(ds: xr.Dataset) -> np.ndarray:
    """The same in the note's protocol: of the best test loss, along its median over the plane."""
    return slope("note_")(ds.rename(note_best="note_loss"))


def straightness(ds: xr.Dataset) -> np.ndarray:
    """R² of the straight line through the level of the main plane, per seed."""
    return np.array([np.corrcoef(t, a)[0, 1] ** 2 for t, a in level_lines(ds, "")])


def equal_cells(prefix: str) -> Quantity:
    """log10 of the largest relative difference of test losses between cells of equal alpha·tau² and kernel_time."""

    def difference(ds: xr.Dataset) -> np.ndarray:
        tau, alpha = np.meshgrid(ds[f"{prefix}tau"].values, ds[f"{prefix}alpha"].values, indexing="ij")
        runs = distinct_runs(tau, alpha, 1 / tau**2, degree=2)
        losses = ds[f"{prefix}loss"].transpose("seed", f"{prefix}tau", f"{prefix}alpha").values
        losses = losses.reshape(ds.sizes["seed"], -1)
        apart = np.abs(losses / losses[:, runs.cells[runs.run_of]] - 1).max(axis=1)
        return np.log10(np.maximum(apart, 1e-16))

    return difference


def untrained(ds: xr.Dataset) -> np.ndarray:
    """Largest |ln of best over initial test loss| on alpha >= 100 in the note's protocol."""
    far = ds.sel(note_alpha=ds.note_alpha >= 99)
    return np.abs(np.log(far.note_best / far.note_start)).max(["note_tau", "note_alpha"]).values


def formula(ds: xr.Dataset) -> np.ndarray:
    """The ln of the value in the note's corner minus ln(m alpha² tau⁴/4)."""
    corner = ds.isel(note_tau=-1, note_alpha=-1)
    predicted = corner.note_width * ds.note_alpha[-1] ** 2 * ds.note_tau[-1] ** 4 / 4
    return np.log(corner.note_best / predicted).values


IDENTITY = (
    "An identity here: the step follows the scale law, and cells on such a line are one run up to the scale of "
    "weights. Only level and interpolation are measured."
)


def _slope_claim(prefix: str, sentence: str, target: float, width: float, moved: str = "") -> Claim:
    return Claim(
        sentence=sentence,
        source="note §3.4, §4.4, Figure 5",
        measure="slope of log alpha against log tau along a level of the test loss, equal kernel_time",
        quantity=slope(prefix),
        accepted=(target - width, target + width),
        note=IDENTITY,
        moved=moved,
    )


UNLAWFUL = "The law needs homogeneity; without it no slope of the level lines is prescribed."


def _equal_claim(prefix: str, sentence: str, note: str) -> Claim:
    return Claim(
        sentence=sentence,
        source="ours: the scale law, on note §4.4",
        measure="log10 of the largest relative difference of test losses at equal alpha·tau² and kernel_time, run raw",
        quantity=equal_cells(prefix),
        accepted=(-np.inf, -6.0),
        every_seed=True,
        note=note,
    )


CLAIMS = (
    Claim(
        sentence="To maintain the test loss alpha decays as 1/tau^q, q = 2 (in the note's own protocol).",
        source="note §4.4, Figure 5",
        measure="slope of log alpha against log tau along the median of the best test loss, the note's grid and steps",
        quantity=note_slope,
        accepted=(-2.1, -1.9),
        note="Each cell there is trained for another time: more at small alpha. The slope is -2 only where nothing is "
        "trained and the loss is the initial one.",
        moved="this claim was added, once the plane was known.",
    ),
    _slope_claim(
        "",
        "To maintain the test loss alpha decays as 1/tau^q, q = 2 (symmetrised).",
        -2,
        0.02,
        "before, the level was the median of the plane, which in one trial lay on the flat plateau.",
    ),
    Claim(
        sentence="That level is a straight line on logarithmic axes.",
        source="note §4.4, Figure 5",
        measure="R² of the line, symmetrised, on a grid without equal cells",
        quantity=straightness,
        accepted=(0.999, np.inf),
        scale=Scale.SHARE,
    ),
    _slope_claim("plain_", "To maintain the test loss alpha decays as 1/tau^q, q = 2 (plain).", -2, 0.02),
    _equal_claim("equal_", "Cells with equal alpha·tau² are one and the same run.", ""),
    _slope_claim("deep_", "For a three-layer ReLU net without biases alpha decays as 1/tau³.", -3, 0.05),
    _equal_claim("tanh_", "For a two-layer tanh net, too, the test loss depends on alpha·tau² alone.", UNLAWFUL),
    _equal_claim("bias_", "For a two-layer ReLU net with biases, too, it depends on alpha·tau² alone.", UNLAWFUL),
    Claim(
        sentence="The test losses at large alpha in Figure 5 are those of models at convergence.",
        source="note §4.4, the step of its code",
        measure="largest |ln of best over initial test loss| on alpha >= 100; trained is at least ln 2",
        quantity=untrained,
        accepted=(np.log(2), np.inf),
        scale=Scale.RATIO,
        note="They are initial losses: kernel_time per step falls as alpha^−3 there, and 2000 steps train nothing.",
    ),
    Claim(
        sentence="The largest value of Figure 5 is that of the initial output, ln(m alpha² tau⁴/4).",
        source="ours, on note Figure 5",
        measure="ln of the corner's value minus ln(m alpha² tau⁴/4); single draws of m units scatter by about 1/2",
        quantity=formula,
        accepted=(-2.0, 2.0),
    ),
)


def draw(ds: xr.Dataset) -> matplotlib.figure.Figure:
    """Left the symmetrised plane, in the middle where levels are crossed, right the note's protocol."""
    figure, (left, middle, right) = figures.new_figure(14.5, 4.4, columns=3, log="xy")
    for ax in (left, middle, right):
        ax.xaxis.set_minor_formatter(NullFormatter())
    mean = np.log10(ds.loss.mean("seed").transpose("alpha", "tau").values)
    mesh = left.pcolormesh(ds.tau.values, ds.alpha.values, mean, shading="nearest", cmap="viridis")
    left.contour(ds.tau.values, ds.alpha.values, mean, levels=6, colors="white", linewidths=0.7)
    figure.colorbar(mesh, ax=left, label="log10 test loss, equal kernel_time")
    centre = _mean_crossing(ds, "")
    left.plot(ds.tau, centre * ds.tau.values**-2.0, "--", color=figures.ORANGE, label="alpha ∝ tau^−2")
    left.set_ylim(ds.alpha.values[0], ds.alpha.values[-1])
    figures.finish(left, x="initialisation scale tau", y="output scale alpha", legend="lower left")

    kinds = (
        ("", "two layers, symmetrised", figures.BLUE),
        ("plain_", "two layers, plain", figures.PURPLE),
        ("deep_", "three layers", figures.GREEN),
    )
    for prefix, label, color in kinds:
        measured = slope(prefix)(ds)
        for i, (t, a) in enumerate(level_lines(ds, prefix)):
            name = f"{label}: slope {np.mean(measured):.2f}" if i == 0 else None
            middle.plot(10.0**t, 10.0**a, "o-", color=color, markersize=3, linewidth=1, label=name)
    figures.finish(middle, x="initialisation scale tau", y="alpha at the level of the test loss")

    mean = np.log(ds.note_best).mean("seed").transpose("note_alpha", "note_tau").values
    mesh = right.pcolormesh(ds.note_tau.values, ds.note_alpha.values, mean, shading="nearest", cmap="viridis")
    figure.colorbar(mesh, ax=right, label="ln best test loss, the note's steps")
    right.axhline(100, color="white", linestyle="--", linewidth=1.2)
    right.annotate("untrained above", (0.012, 112), color="white", fontsize=8, va="bottom")
    right.set_xlabel("initialisation scale tau")
    right.set_ylabel("output scale alpha")
    return figure


def _mean_crossing(ds: xr.Dataset, prefix: str) -> float:
    t, a = level_lines(ds, prefix)[0]
    return float(10 ** np.mean(a + 2 * t))


def numbers(ds: xr.Dataset) -> list[list[str]]:
    """The ln of best and initial test loss in the note's protocol along its largest tau, means over seeds."""
    last = ds.isel(note_tau=-1)
    return figures.table({"ln best": np.log(last.note_best), "ln initial": np.log(last.note_start)}, "note_alpha")


FIG5 = Figure(caption=CAPTION, sizes=SIZES, compute=compute, claims=CLAIMS, draw=draw, numbers=numbers, stated=STATED)
