"""The regime maps in the docs: the reference diagnoses, and the nets of the note over their initialisation scale.

    python docs/regime_maps.py              # draws pictures/normal-values.png and pictures/note-nets.png
    python docs/regime_maps.py --measure    # diagnoses the nets of the note anew before, and keeps their g and j

The references are those of `lazyscope.diagnose.references`, which `examples/normal_values.py` measures.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from matplotlib.figure import Figure

import lazyscope as ls
from lazyscope import figures, views
from lazyscope.intervals import Interval
from lazyscope.papers.student import Protocol, setup

PICTURES = Path(__file__).with_name("pictures")
NUMBERS = PICTURES / "note-nets.json"
TAUS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
KINDS = {"symmetrised": True, "plain": False}


def diagnosed(doubled: bool, tau: float) -> ls.Diagnosis:
    """The note's two-layer net at scale tau, as `lazyscope diagnose two-layer-plain` and its kin have it."""
    model, params0, problem = setup(jax.random.key(0), Protocol(doubled=doubled))
    start = jax.tree.map(lambda leaf: tau * leaf, params0)
    return ls.diagnose(model.apply, start, problem, key=jax.random.key(0), with_kappa=False)


def measured(kinds: Sequence[str] = tuple(KINDS), taus: Sequence[float] = TAUS) -> list[dict[str, Any]]:
    """G and j of each net with their intervals."""
    rows = []
    for kind in kinds:
        for tau in taus:
            found = diagnosed(KINDS[kind], tau)
            g, j = ([float(v), v.low, v.high] for v in (found.gap, found.differential))
            rows.append({"net": kind, "tau": tau, "g": g, "j": j, "regime": found.regime})
            print(f"{kind}, tau = {tau:g}: g = {found.gap}, j = {found.differential}, {found.regime}", flush=True)
    return rows


def drawn(rows: Sequence[dict[str, Any]]) -> dict[str, Figure]:
    """The pictures by their files' names."""
    paths = {
        kind: [
            views.Point(f"tau = {row['tau']:g}", Interval(*row["g"]), Interval(*row["j"]))
            for row in rows
            if row["net"] == kind
        ]
        for kind in KINDS
    }
    return {"normal-values.png": views.reference_map(), "note-nets.png": views.paths_map(paths)}


def main(measure: bool) -> None:
    """Draw, and with `measure` diagnose first."""
    jax.config.update("jax_enable_x64", True)
    if measure:
        NUMBERS.write_text("[\n" + ",\n".join(map(json.dumps, measured())) + "\n]\n")
    for name, figure in drawn(json.loads(NUMBERS.read_text())).items():
        (PICTURES / name).write_bytes(figures.to_png(figure))


if __name__ == "__main__":
    main("--measure" in sys.argv[1:])
