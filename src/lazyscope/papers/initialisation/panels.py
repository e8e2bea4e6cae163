"""Panels and tables that several two-layer figures share."""

import xarray as xr
from matplotlib.axes import Axes

from lazyscope import figures


def loss_against_tau(ax: Axes, ds: xr.Dataset, *, linear: bool = True) -> None:
    """End and best test loss against tau, the linearised model at the same steps and for ever, and the baselines."""
    figures.curve(ax, ds.end_test_loss, "tau", label="net, end of training", color=figures.BLUE, marker="o")
    best = ds.best_test_loss.isel(step=-1)
    figures.curve(ax, best, "tau", label="net, best of training", color=figures.BLUE, line=":")
    baselines = [
        figures.Level(ds.zero_test_loss, "zero", figures.GREY),
        figures.Level(ds.least_squares_test_loss, "least squares", figures.GREEN),
        figures.Level(ds.random_features_test_loss, "random features", figures.PURPLE),
    ]
    if linear:
        same = ds.linear_test_loss.isel(linear_step=-2)
        figures.curve(ax, same, "tau", label="linearised, same steps", color=figures.ORANGE, line="--")
        forever = ds.linear_test_loss.isel(linear_step=-1, tau=-1)
        baselines.append(figures.Level(forever, "linearised, t = ∞", figures.ORANGE))
    figures.levels(ax, baselines)
    figures.mark_cells(ax, ds, ds.end_test_loss, "tau")


def table(ds: xr.Dataset) -> list[list[str]]:
    """The table behind a figure over tau, means over seeds."""
    return figures.table(
        {
            "end test loss": ds.end_test_loss,
            "best test loss": ds.best_test_loss.isel(step=-1),
            "train loss": ds.train_loss.isel(step=-1),
            "linearised, same steps": ds.linear_test_loss.isel(linear_step=-2),
            "gap g": ds.gap,
            "change j of Dh": ds.differential_change,
            "movement": ds.movement,
            "kernel_time": ds.kernel_time.isel(step=-1),
        },
        "tau",
    )
