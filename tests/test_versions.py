"""A cell function's numbers are known to a store by its version: no change of its code passes unnoticed.

When this fails: raise the VERSION beside the function if its numbers change at all, then (in either case) run

    python tests/test_versions.py

which writes tests/versions.json anew.
"""

import hashlib
import json
from pathlib import Path

import pytest

from lazyscope.papers import (
    convergence_cells,
    draw_cells,
    flow_cells,
    kappa_cells,
    loss_cells,
    narrow_cells,
    plane_cells,
    practice,
    protocol,
    regime_cells,
    solutions,
    start_cells,
    step_cells,
    trajectories,
    widths,
)
from lazyscope.papers.chizat2019 import deep_cells, fig2b, fig3c, particles
from lazyscope.papers.later import lewkowycz2020
from lazyscope.papers.note import ref1, ref3, ref6, ref8, s4_6, s5_1
from lazyscope.store.code import reached

RECORD = Path(__file__).with_name("versions.json")
WATCHED = {"lazyscope.papers"}  # code reached in these packages counts
CELLS = {
    "lazyscope.papers.protocol.train": (protocol.train, protocol.TRAIN_VERSION),
    "lazyscope.papers.practice.practice": (practice.practice, practice.PRACTICE_VERSION),
    "lazyscope.papers.protocol.reference": (protocol.reference, protocol.REFERENCE_VERSION),
    "lazyscope.papers.flow_cells.fixed_horizon": (flow_cells.fixed_horizon, flow_cells.HORIZON_VERSION),
    "lazyscope.papers.flow_cells.finite_bound": (flow_cells.finite_bound, flow_cells.BOUND_VERSION),
    "lazyscope.papers.convergence_cells.overparameterised": (
        convergence_cells.overparameterised,
        convergence_cells.OVER_VERSION,
    ),
    "lazyscope.papers.convergence_cells.underparameterised": (
        convergence_cells.underparameterised,
        convergence_cells.UNDER_VERSION,
    ),
    "lazyscope.papers.note.s4_6.projection": (s4_6.projection, s4_6.PROJECTION_VERSION),
    "lazyscope.papers.note.ref1.over_width": (ref1.over_width, ref1.CELL_VERSION),
    "lazyscope.papers.note.ref3.over_width": (ref3.over_width, ref3.CELL_VERSION),
    "lazyscope.papers.note.ref6.predictors": (ref6.predictors, ref6.CELL_VERSION),
    "lazyscope.papers.note.ref8.train": (ref8.train, ref8.CELL_VERSION),
    "lazyscope.papers.trajectories.trajectory": (trajectories.trajectory, trajectories.CELL_VERSION),
    "lazyscope.papers.plane_cells.plane": (plane_cells.plane, plane_cells.CELL_VERSION),
    "lazyscope.papers.plane_cells.note_plane": (plane_cells.note_plane, plane_cells.CELL_VERSION),
    "lazyscope.papers.note.s5_1.stall": (s5_1.stall, s5_1.CELL_VERSION),
    "lazyscope.papers.note.s5_1.edge": (s5_1.edge, s5_1.CELL_VERSION),
    "lazyscope.papers.chizat2019.particles.train": (particles.train, particles.CELL_VERSION),
    "lazyscope.papers.chizat2019.fig2b.population": (fig2b.population, fig2b.CELL_VERSION),
    "lazyscope.papers.chizat2019.fig2b.distance_to_flow": (fig2b.distance_to_flow, fig2b.RATE_VERSION),
    "lazyscope.papers.chizat2019.deep_cells.trained": (deep_cells.trained, deep_cells.DEEP_VERSION),
    "lazyscope.papers.chizat2019.fig3c.spectra": (fig3c.spectra, fig3c.SPECTRUM_VERSION),
    "lazyscope.papers.later.lewkowycz2020.over_rate": (lewkowycz2020.over_rate, lewkowycz2020.CELL_VERSION),
    "lazyscope.papers.widths.train": (widths.train, widths.TRAIN_VERSION),
    "lazyscope.papers.solutions.solve": (solutions.solve, solutions.SOLVE_VERSION),
    "lazyscope.papers.kappa_cells.over_width": (kappa_cells.over_width, kappa_cells.WIDTH_VERSION),
    "lazyscope.papers.kappa_cells.over_plane": (kappa_cells.over_plane, kappa_cells.PLANE_VERSION),
    "lazyscope.papers.regime_cells.over_scale": (regime_cells.over_scale, regime_cells.CELL_VERSION),
    "lazyscope.papers.loss_cells.fixed_horizon": (loss_cells.fixed_horizon, loss_cells.LOSS_VERSION),
    "lazyscope.papers.loss_cells.decay": (loss_cells.decay, loss_cells.RATE_VERSION),
    "lazyscope.papers.start_cells.independence": (start_cells.independence, start_cells.INDEPENDENCE_VERSION),
    "lazyscope.papers.start_cells.offset": (start_cells.offset, start_cells.OFFSET_VERSION),
    "lazyscope.papers.start_cells.rank_nearby": (start_cells.rank_nearby, start_cells.RANK_VERSION),
    "lazyscope.papers.start_cells.smoothness": (start_cells.smoothness, start_cells.SMOOTHNESS_VERSION),
    "lazyscope.papers.narrow_cells.end": (narrow_cells.end, narrow_cells.END_VERSION),
    "lazyscope.papers.draw_cells.over_draws": (draw_cells.over_draws, draw_cells.DRAW_VERSION),
    "lazyscope.papers.step_cells.sgd_stall": (step_cells.sgd_stall, step_cells.SGD_VERSION),
    "lazyscope.papers.step_cells.sparse_stall": (step_cells.sparse_stall, step_cells.SPARSE_VERSION),
    "lazyscope.papers.step_cells.start_gradient": (step_cells.start_gradient, step_cells.GRADIENT_VERSION),
    "lazyscope.papers.step_cells.speed": (step_cells.speed, step_cells.SPEED_VERSION),
}


def watched(module):
    return any(module.startswith(package) for package in WATCHED)


def entry(function, version):
    text = "\n".join(f"{name}\n{code}" for name, code in sorted(reached(function, watched).items()))
    return {"version": version, "sha256": hashlib.sha256(text.encode()).hexdigest()}


@pytest.mark.parametrize("name", CELLS)
def test_code_changes_come_with_a_version(name):
    recorded, now = json.loads(RECORD.read_text())[name], entry(*CELLS[name])
    assert now["version"] >= recorded["version"], f"the version of {name} went down"
    assert now == recorded, f"{name} or what it calls changed: raise its VERSION if its numbers do, then run {__file__}"


def test_helpers_count():
    names = {name.rpartition(".")[2] for name in reached(protocol.train, watched)}
    assert names >= {"train", "setup", "Protocol", "chizat_step_size"}


if __name__ == "__main__":
    RECORD.write_text(json.dumps({name: entry(*cell) for name, cell in CELLS.items()}, indent=1) + "\n")
