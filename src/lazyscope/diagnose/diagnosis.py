"""What a diagnosis is: the regime with its deciders, layers, indicators, reasons and advice; prints as a table."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from textwrap import fill
from typing import Any, NamedTuple

from lazyscope.criterion import Criterion
from lazyscope.diagnose.advice import Recommendation
from lazyscope.diagnose.costs import Costs
from lazyscope.diagnose.keeping import from_plain, to_plain
from lazyscope.diagnose.kept import Learnable, Outputs, Trajectory
from lazyscope.diagnose.layers import GroupRow, that_matter
from lazyscope.diagnose.regime import REGIMES, Thresholds
from lazyscope.diagnose.reported import reported
from lazyscope.intervals import Interval

Row = tuple[str, str]
KEPT_AS = "lazyscope diagnosis"  # under which name a file holds one
NARROWEST = 24  # columns beside the names; with fewer, a text goes below its name


class Seed(NamedTuple):
    """What one of several starts gave."""

    gap: Interval
    differential: Interval
    regime: str


@dataclass(frozen=True)
class Diagnosis:
    """Regime with its deciders and thresholds, layers, indicators, reasons and advice; prints as a table.

    `regime` is that of the measured g and j, `regimes` all that their 95 % intervals over examples allow, the laziest
    first. `gap` is g and `differential` is j, numbers with `low` and `high`; j was measured on `differential_examples`
    of the inputs, with standard error `probe_error` over random directions (0: exact). `groups` has a row for each
    group of parameters. `kernel_change` is the relative change of the tangent kernel on `kernel_examples` inputs, and
    `kernel_changes` that of each leaf, None and empty where derivatives were too many to afford. `how` says what was
    trained, `inputs` on what it was judged. Indicators never decide. `criterion` is None where `with_kappa=False`,
    `recommendation` where nothing tells which scale would be lazy, or training is lazy as it is. `seeds` has what each
    start gave, where several were asked for; `model` says what an adapter took for the outputs and the inputs, and
    `costs` what each part took, where that was asked for.
    """

    regime: str
    regimes: tuple[str, ...]
    gap: Interval
    differential: Interval
    probe_error: float
    thresholds: Thresholds
    how: str
    inputs: str
    num_inputs: int
    differential_examples: int
    alpha: float
    groups: tuple[GroupRow, ...]
    kernel_change: float | None
    kernel_changes: dict[str, float]
    kernel_examples: int
    indicators: dict[str, float]
    losses: dict[str, float]
    classification: dict[str, float]
    criterion: Criterion | None
    recommendation: Recommendation | None
    placed: str
    reasons: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    seeds: tuple[Seed, ...] = ()
    model: str = ""
    learnable: Learnable | None = None
    trajectory: Trajectory | None = None
    outputs: Outputs | None = None
    costs: Costs | None = field(default=None, compare=False, repr=False)
    provenance: dict[str, str] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return as_table(self.rows())

    def rows(self) -> list[Row]:
        """What is printed, as (name, text); a row without a name goes on with the one before."""
        return [
            ("regime", f"{self.verdict}   ({self.thresholds})"),
            ("gap g", f"{self.gap}   on {self.inputs}"),
            ("differential j", f"{self.differential}{self._probed()}   on {self._of(self.differential_examples)}"),
            *self._spread(),
            *_listed("model", (self.model,)),
            ("trained by", self.how),
            ("output scale", f"alpha = {self.alpha:g}"),
            *([("kappa", _kappa(self.criterion))] if self.criterion is not None else []),
            *self._layers(),
            *((name, f"{value:.3g}") for name, value in self.losses.items()),
            *((name, f"{value:.3g}") for name, value in self.classification.items()),
            ("kernel change", self._kernel()),
            *((name, f"{value:.3g}") for name, value in self.indicators.items()),
            *_listed("like", (self.placed,)),
            *_listed("because", self.reasons),
            *_listed("advice", self.advice),
            *_listed("cost", () if self.costs is None else self.costs.lines()),
        ]

    @property
    def verdict(self) -> str:
        """The regimes that are possible, in words."""
        if len(self.regimes) == 1:
            return self.regime
        kind = "training" if "training" in self.inputs else "held-out"
        few = f"{self.num_inputs} {kind} example{'s' if self.num_inputs > 1 else ''}"
        if self.differential_examples < self.num_inputs:
            few = f"{self.differential_examples} of {few} for j"
        return f"{' or '.join(self.regimes)} ({few}: more would tell)"

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, for JSON; infinite and undefined numbers become None.

        The intervals of `gap` and `differential` are `gap_interval` and `differential_interval`. Without `outputs`,
        which are long, and `provenance`: `to_json` has them.
        """
        names = [one.name for one in fields(self) if one.name not in ("outputs", "provenance")]
        found = {name: getattr(self, name) for name in names}
        found |= {f"{name}_interval": [found[name].low, found[name].high] for name in ("gap", "differential")}
        return _plain(found)

    def to_json(self) -> str:
        """All of it as JSON, to the last bit, with where it was made: `from_json` reads it.

        Infinite and undefined numbers are the words "inf", "-inf" and "nan".
        """
        from lazyscope.views import origin

        return json.dumps({KEPT_AS: to_plain(replace(self, provenance=origin(self)))}, ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Diagnosis":
        """The diagnosis that `to_json` wrote. Raises ValueError for any other text."""
        try:
            return from_plain(cls, json.loads(text)[KEPT_AS])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                "a kept diagnosis must be what Diagnosis.to_json of this version writes, got another text "
                f"({type(error).__name__}: {str(error)[:100]}): diagnose again"
            ) from None

    def along(self, rows: Iterable[Mapping[str, Any]], *, linearised: Iterable[Mapping[str, Any]] = ()) -> "Diagnosis":
        """The same diagnosis with what your own run logged, for the page: losses, g and j along training.

        A row has its "step" and any of "loss", "eval_loss" and what `lazyscope.monitor` or `lazyscope.torch.Monitor`
        measures: `{"step": step, "loss": loss, **measure(params)}`. The `log_history` of a `transformers.Trainer` has
        such rows. `linearised` are those of the run of the linearisation, their losses. Their g is that at the same
        weights. Raises ValueError for rows without a step, or without any of these.
        """
        return replace(self, trajectory=reported(rows, linearised))

    def plot(self) -> Any:
        """The regime map with this diagnosis on it, and its layers, as a matplotlib Figure of no pyplot state."""
        from lazyscope.views import picture

        return picture(self)

    def write_page(self, folder: Any, *, name: str = "", command: str = "", scales: Sequence["Diagnosis"] = ()) -> Any:
        """One HTML file that opens offline, with pictures and data beside it, in `folder`; returns its path.

        `name` is what the diagnosis is called on it, `command` the line that makes it again, `scales` are diagnoses of
        the same case at other output scales, whose g, j and losses are drawn against alpha.
        """
        from lazyscope.views import write_page

        return write_page({name: self}, folder, command=command, scales=scales)

    def _repr_html_(self) -> str:
        from lazyscope.views import as_html

        return as_html(self)

    def _spread(self) -> list[Row]:
        if not self.seeds:
            return []
        gaps, changes = ([float(getattr(seed, name)) for seed in self.seeds] for name in ("gap", "differential"))
        told = [seed.regime for seed in self.seeds]
        counts = ", ".join(f"{told.count(name)} {name}" for name in REGIMES if name in told)
        ranges = f"g {min(gaps):.2g} to {max(gaps):.2g}, j {min(changes):.2g} to {max(changes):.2g}"
        return [(f"{len(told)} seeds", f"{ranges}; {counts}; shown is the median g")]

    def _probed(self) -> str:
        return f", ± {self.probe_error:.2g} over random directions" if self.probe_error > 0 else ""

    def _of(self, examples: int) -> str:
        return self.inputs if examples == self.num_inputs else f"{examples} of the {self.inputs}"

    def _kernel(self) -> str:
        if self.kernel_change is None:
            return "not measured: too many outputs an example for a kernel"
        return f"{self.kernel_change:.3g}   relative, on {self._of(self.kernel_examples)}"

    def _layers(self) -> list[Row]:
        shown = that_matter(self.groups)
        rows = [("layers" if i == 0 else "", f"{row.name}: {row}") for i, row in enumerate(shown)]
        rest = self.groups[len(shown) :]
        if rest:
            share = sum(row.change_share for row in rest)
            rows.append(("", f"and {len(rest)} more, {share:.1%} of the change"))
        return rows


def as_table(rows: list[Row], width: int | None = None) -> str:
    """Two columns of text; with a `width` the right one is wrapped to it, below the names where too little is left."""
    left = max(len(name) for name, _ in rows)
    if width is None:
        return "\n".join(f"{name:{left}}  {text}" for name, text in rows)
    beside = left + 2 + NARROWEST <= width
    rest = " " * (left + 2 if beside else 2)
    firsts = [f"{name:{left}}  " if beside else f"{name}: " if name else rest for name, _ in rows]
    return "\n".join(
        fill(f"{first}{text}", width, subsequent_indent=rest, break_on_hyphens=False, drop_whitespace=True)
        for first, (_, text) in zip(firsts, rows, strict=True)
    )


def _listed(name: str, lines: tuple[str, ...]) -> list[Row]:
    return [(name if i == 0 else "", line) for i, line in enumerate(lines) if line]


def _kappa(crit: Criterion) -> str:
    low, high = crit.kappa_interval
    within = f"between {low:.3g} and {high:.3g}" if math.isfinite(high) else "a lower bound, none from above"
    climbing = "" if crit.hessian_norm.converged else ", the search for ‖D²h‖ was still climbing"
    on = "" if crit.subsampling is None else f"; on {crit.subsampling.examples} of {crit.subsampling.total} inputs"
    return f"{crit.kappa:.3g}   {within}; {crit.products} products{climbing}{on}"


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
