"""Under which name each figure is printed, and where it is."""

from typing import NamedTuple


class Entry(NamedTuple):
    """Where a figure is, `module:OBJECT` below `lazyscope.papers`, its title, and seconds of wall time on two cores.

    `seconds` are those of tiny, quick and paper size; `cifar10` names the sizes at which it needs CIFAR-10: there
    its trials have `data`, the folder that `--data` names.
    """

    figure: str
    title: str
    seconds: tuple[float, float, float]
    cifar10: tuple[str, ...] = ()


FIGURES: dict[str, Entry] = {
    "note-fig4": Entry(
        "initialisation.symmetrised:FIG4", "Test loss against tau, symmetrised initialisation", (10, 40, 1500)
    ),
    "note-fig3": Entry("initialisation.plain:FIG3", "Test loss against tau, plain initialisation", (15, 45, 1500)),
    "explorer": Entry("initialisation.explorer:EXPLORER", "Explorer: two starts, two plateaus", (10, 30, 600)),
    "note-fig7": Entry("step_size.fixed:FIG7", "Test loss against tau at a fixed step size", (20, 50, 1500)),
    "note-s1.1": Entry("kappa.against_width:S1_1", "The criterion against width and output scale", (10, 40, 300)),
    "note-s1.1-regimes": Entry(
        "kappa.predicts_lazy_training:S1_1_REGIMES", "Does the criterion tell lazy training from other?", (15, 45, 1800)
    ),
    "note-s3.3": Entry("kappa.against_tau:S3_3", "The criterion against initialisation scale", (20, 60, 1600)),
    "note-s3.4": Entry("kappa.level_lines:S3_4", "Level lines of the criterion", (5, 20, 40)),
    "note-s5.3": Entry("practice.regimes:S5_3", "Regimes of standard initialisations", (15, 45, 4800)),
    "note-fig1": Entry("movement.weights:FIG1", "Movement of the weights, lazy and not", (10, 40, 450)),
    "note-fig5": Entry("initialisation.scale_plane:FIG5", "Test loss over tau and alpha", (20, 35, 900)),
    "note-s5.2": Entry("movement.speed:S5_2", "Convergence speed, lazy and not", (10, 35, 600)),
    "note-s5.1": Entry("step_size.stall:S5_1", "Step size, momentum and the stall of lazy nets", (25, 55, 300)),
    "note-ref1": Entry("width.global_minimum:REF1", "1/m nets and the global minimum", (10, 30, 1500)),
    "note-ref3": Entry("width.infinite:REF3", "The infinite-width limit of the tangent kernel", (10, 25, 500)),
    "note-ref6": Entry(
        "initialisation.random_features:REF6", "Random features against the tangent kernel", (12, 35, 250)
    ),
    "note-ref8": Entry("movement.low_rank:REF8", "Rank of the hidden layer of linear nets", (6, 15, 600)),
    "chizat2019-fig1c": Entry(
        "initialisation.symmetrised:FIG1C", "Test loss against initialisation scale", (10, 40, 800)
    ),
    "chizat2019-fig1a": Entry("movement.particles:FIG1A", "Paths of particles, tau = 0.1", (6, 15, 60)),
    "chizat2019-fig1b": Entry("movement.particles:FIG1B", "Paths of particles, tau = 2", (6, 15, 60)),
    "chizat2019-fig2b": Entry(
        "step_size.sgd:FIG2B", "Population loss of SGD against initialisation scale", (15, 25, 1200)
    ),
    "woodworth2020": Entry("initialisation.diagonal_nets:WOODWORTH2020", "Diagonal nets, from l1 to l2", (6, 30, 1000)),
    "lewkowycz2020": Entry("step_size.catapult:LEWKOWYCZ2020", "The catapult window of step sizes", (10, 30, 900)),
    "geiger2020": Entry("width.crossover:GEIGER2020", "Where lazy training ends, against width", (15, 30, 900)),
    "note-fig2": Entry("surfaces.around_solutions:FIG2", "Loss landscapes at several widths", (15, 60, 6300)),
    "note-fig6": Entry("surfaces.projections:FIG6", "Solutions projected onto another landscape", (15, 45, 6200)),
    "note-s4.5": Entry("width.test_loss:S4_5", "Width under two output scales", (10, 45, 5400)),
    "chizat2019-fig2a": Entry("width.test_loss:FIG2A", "Test loss against width for two output scales", (15, 40, 5400)),
    "chizat2019-thm2.2": Entry(
        "theorems.distance_to_linearised:THM2_2",
        "Distance of a flow from its linearisation against alpha",
        (20, 25, 120),
    ),
    "chizat2019-thm2.3": Entry(
        "theorems.gap_after_k_iterations:THM2_3", "The bound on the gap after K iterations", (12, 15, 60)
    ),
    "chizat2019-thm2.4": Entry(
        "theorems.over_parameterised:THM2_4", "Convergence of over-parameterised nets", (8, 10, 60)
    ),
    "chizat2019-thm2.5": Entry(
        "theorems.under_parameterised:THM2_5", "Convergence of under-parameterised nets", (6, 8, 40)
    ),
    "chizat2019-fig3a": Entry(
        "image_nets.accuracy:FIG3A", "Image nets against output scale: accuracy", (15, 120, 360_000), ("paper",)
    ),
    "chizat2019-fig3b": Entry(
        "image_nets.gates:FIG3B", "Image nets against output scale: gates", (15, 120, 360_000), ("paper",)
    ),
    "chizat2019-fig3c": Entry(
        "image_nets.kernel_spectra:FIG3C", "Kernel spectra of real and random images", (15, 50, 30_000), ("paper",)
    ),
    "chizat2019-table1": Entry(
        "image_nets.standard_and_linearised:TABLE1",
        "Image nets, standard and linearised",
        (20, 80, 3_600_000),
        ("paper",),
    ),
    "note-s3.1": Entry(
        "theorems.general_setting:S3_1", "The generalised setting: bound, rates, held-out points", (30, 45, 180)
    ),
    "note-s3.2": Entry("theorems.both_settings:S3_2", "Convergence, over- and under-parameterised", (25, 40, 180)),
    "note-s4.6": Entry("theorems.narrow_nets:S4_6", "The under-parameterised case", (20, 55, 1500)),
}
SIZES = ("tiny", "quick", "paper")
