"""The figure of the papers: the RWC of each part of a network from epoch to epoch, data sets side by side.

Letters: R runs (seeds), E epochs, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..analysis.curves import FloatArray
from ..figures.curves import drawable
from ..figures.style import GRID_COLOUR, INK, MUTED, axes_for, cluster_look, step_axis, styled
from ..text import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
MOST_PANELS = 9
PANEL_INCHES = (4.6, 3.5)


class BlockRuns(NamedTuple):
    """The runs of one network on one data set."""

    rwc: FloatArray  # [R, E, L], of every layer in every epoch of every run
    blocks: Mapping[str, NDArray[np.int64]]  # the indices of the layers of each part, first part first


@styled
def block_curves(panels: Mapping[str, BlockRuns], *, ylabel: str) -> Figure:
    """Draw the mean RWC of the layers of each part over the epochs, one panel for each data set.

    The y axis is logarithmic, and all panels share it. A line is the mean over the runs, and the band around it goes
    from the lowest run to the highest. Means leave out zeros and values that are not finite.

    Args:
        panels: the runs, by the title of their panel; at most 9.
        ylabel: the label of the y axis, from `rwc_unit`.

    Raises:
        ValueError: there is no panel, or more than 9.

    Example:
        `block_curves({"CIFAR-10": BlockRuns(rwc, {"block 1": [1, 2], "block 2": [3, 4]})}, ylabel="RWC").savefig(file)`
    """
    from matplotlib.figure import Figure

    if not 0 < len(panels) <= MOST_PANELS:
        raise ValueError(f"panels must be 1 to {MOST_PANELS} for one page, got {len(panels)}")
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows + 0.3), layout="constrained")
    first: Axes | None = None
    for number, (title, runs) in enumerate(panels.items(), start=1):
        ax = figure.add_subplot(rows, columns, number, sharey=first)
        first = first or ax
        _panel(ax, title.replace("$", r"\$"), runs)
        if number % columns == 1 or columns == 1:
            ax.set_ylabel(ylabel)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=min(len(labels), 7), fontsize=8.5, frameon=False)
    return figure


def _panel(ax: Axes, title: str, runs: BlockRuns) -> None:
    R, E, _ = runs.rwc.shape
    axes_for(ax, title, f"{count(E, 'epoch')}, {'one run' if R == 1 else f'mean and span of {R} seeds'}", (1, 1))
    epochs = np.arange(1, E + 1)
    for number, (block, rows) in enumerate(runs.blocks.items()):
        values = _means(runs.rwc[:, :, rows])  # [R, E]
        look = cluster_look(number)
        ax.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=look.colour, alpha=0.15, linewidth=0)
        ax.plot(
            epochs,
            values.mean(axis=0),
            color=look.colour,
            linestyle=look.line,
            marker=look.marker,
            markersize=3.5,
            markevery=max(1, E // 12),
            linewidth=1.8,
            label=block,
        )
    step_axis(ax, 1 - 0.02 * E, E + 0.02 * E, "epoch")
    ax.set_yscale("log")
    ax.grid(axis="y", color=GRID_COLOUR)
    ax.set_axisbelow(True)
    ax.tick_params(colors=MUTED, labelcolor=INK, which="both")


def _means(rwc: FloatArray) -> FloatArray:
    """[R, E] the mean over the layers of [R, E, L], without the values that a log axis cannot show."""
    means: FloatArray = np.ma.masked_invalid(drawable(rwc)).mean(axis=2).filled(np.nan)
    return means
