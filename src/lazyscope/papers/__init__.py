"""The figures and claims of the two papers, re-derived. Each entry of `FIGURES` is one module."""

from typing import NamedTuple


class Entry(NamedTuple):
    """Where a figure is computed, its title, and seconds of wall time on two cores at tiny, quick and paper size."""

    module: str
    title: str
    seconds: tuple[float, float, float]


FIGURES: dict[str, Entry] = {
    "note-fig4": Entry(
        "lazyscope.papers.note.fig4", "Test loss against tau, symmetrised initialisation", (10, 40, 1500)
    ),
    "note-fig3": Entry("lazyscope.papers.note.fig3", "Test loss against tau, plain initialisation", (15, 45, 1500)),
    "note-fig7": Entry("lazyscope.papers.note.fig7", "Test loss against tau at a fixed step size", (20, 50, 1500)),
    "note-s1.1": Entry("lazyscope.papers.note.s1_1", "The criterion against width and output scale", (10, 40, 300)),
    "note-s3.3": Entry("lazyscope.papers.note.s3_3", "The criterion against initialisation scale", (5, 15, 30)),
    "note-s3.4": Entry("lazyscope.papers.note.s3_4", "Level lines of the criterion", (5, 20, 40)),
    "chizat2019-fig1c": Entry(
        "lazyscope.papers.chizat2019.fig1c", "Test loss against initialisation scale", (10, 40, 800)
    ),
}
SIZES = ("tiny", "quick", "paper")
