"""Small multiples: one small panel per layer, in network order.

Letters: S recorded steps, L layers, N drawn points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..analysis.curves import FloatArray
from ..analysis.medians import finite_median
from ..text import count
from .curves import check_same_layers, drawable
from .sampling import trend, trend_window
from .style import (
    INK,
    MUTED,
    axes_for,
    check_not_empty,
    cluster_look,
    label_cluster,
    labels_of,
    legend_below,
    name_label,
    plain_text,
    rwc_unit,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..analysis.result import LayerClusters
    from ..record.history import RWCHistory

COLUMNS = 10
MOST_PANELS = 300  # each takes 27 ms and 1.3 MB to draw
PANEL_INCHES = (1.1, 0.62)
AROUND_INCHES = 1.5  # title and legend, above and below the panels
LEFT, RIGHT, TOP, BOTTOM = 0.03, 0.97, 0.32, 0.95  # of a panel in its cell of 1 by 1; the name is above it
NAME_LETTERS = 22
NOT_CLUSTERED_COLOUR = "#9aa0a6"
EVERY_POINT = 3  # of a running median
MOST_VECTOR_POINTS = 20_000  # of all lines: 0.4 MB of SVG


@styled
def small_multiples(history: RWCHistory, clusters: LayerClusters, ax: Axes | None = None) -> Axes:
    """Draw the RWC of each layer in its own panel, row by row in network order, in the colour of its cluster.

    Of more than 300 layers, every second, third, ... has a panel, and the line under the title says how many have none.
    All panels have the same steps and the same log y axis. The pale line, the same in each panel, is the median of all
    layers. Above 300 steps the lines are running medians over a fortieth of the steps. Layers that were not clustered
    are grey.

    Raises:
        ValueError: the history is empty, or the clusters are of other layers.

    Example:
        `small_multiples(history, cluster_layers(history)).figure.savefig("small_multiples.svg")`
    """
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.lines import Line2D

    check_not_empty(history)
    check_same_layers(history, clusters)
    every = -(-len(history.names) // MOST_PANELS)
    layers = np.arange(0, len(history.names), every)
    L = len(layers)
    columns = min(L, COLUMNS)
    rows = -(-L // columns)
    window = trend_window(len(history.steps))
    subtitle = f"{count(L, 'layer')} in network order, row by row; all panels share both axes"
    if every > 1:
        hidden = len(history.names) - L
        subtitle += f"; {count(hidden, 'layer')} in between {'is' if hidden == 1 else 'are'} not shown"
    if window > 1:
        subtitle += f"; lines: running medians over {window} records"
    size = (max(6.2, columns * PANEL_INCHES[0] + 0.8), rows * PANEL_INCHES[1] + AROUND_INCHES)
    ax = axes_for(ax, "Relative weight change, a panel a layer", subtitle, size)

    values = drawable(history.rwc)
    steps, lines = _lines(history, np.column_stack([values[:, layers], finite_median(values, axis=1)]))
    low, high = _limits(lines)
    x = LEFT + (RIGHT - LEFT) * (steps - steps[0]) / max(1, int(steps[-1] - steps[0]))
    y = BOTTOM - (BOTTOM - TOP) * (np.log10(lines.clip(low, high)) - np.log10(low)) / np.log10(high / low)  # [N, L + 1]
    cells = np.stack([np.arange(L) % columns, np.arange(L) // columns], axis=1)  # [L, 2] column and row
    box = np.array([[LEFT, TOP], [RIGHT, TOP], [RIGHT, BOTTOM], [LEFT, BOTTOM]])
    ax.add_collection(PolyCollection(list(cells[:, None] + box), facecolor="#f3f4f6", edgecolor="none"))
    label_of = dict(zip(clusters.rows.tolist(), clusters.labels.tolist(), strict=True))
    colours = [cluster_look(label_of[i]).colour if i in label_of else NOT_CLUSTERED_COLOUR for i in layers.tolist()]
    as_image = 2 * y.size > MOST_VECTOR_POINTS  # inside an SVG
    for heights, colour, width in ((np.tile(y[:, -1:], L), "#c4c8cd", 0.8), (y[:, :L], colours, 1.1)):
        panels = [np.column_stack([x, heights[:, i]]) + cells[i] for i in range(L)]
        ax.add_collection(LineCollection(panels, colors=colour, linewidths=width, rasterized=as_image))
    for i, (column, row) in enumerate(cells):
        name = name_label(history.names[layers[i]], NAME_LETTERS)
        ax.text(column + LEFT, row + TOP - 0.05, name, fontsize=5.8, color=INK, va="bottom")
    _axis(ax, history, rows, columns, (low, high))
    handles = [
        Line2D(
            [], [], color=cluster_look(label).colour, label=label_cluster(label, int((clusters.labels == label).sum()))
        )
        for label in labels_of(clusters)
    ]
    alone = len(history.names) - len(label_of)
    if alone:
        handles.append(Line2D([], [], color=NOT_CLUSTERED_COLOUR, label=f"not clustered: {count(alone, 'layer')}"))
    legend_below(ax, [*handles, Line2D([], [], color="#c4c8cd", label="median of all layers")])
    return ax


def _lines(history: RWCHistory, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The steps [N] and the values [N, L] to draw. A single step is drawn as a horizontal line."""
    trends = [trend(history.steps, curve) for curve in values.T]
    every = EVERY_POINT if trend_window(len(history.steps)) > 1 else 1
    steps, lines = trends[0][0][::every].astype(float), np.column_stack([median[::every] for _, median in trends])
    return (np.array([0.0, 1.0]), np.repeat(lines, 2, axis=0)) if len(steps) == 1 else (steps, lines)


def _limits(lines: FloatArray) -> tuple[float, float]:
    """The limits of the y axis. A last step at a learning rate of almost 0 hardly changes them."""
    drawn = lines[~np.isnan(lines)]
    if not drawn.size:
        return 0.1, 1.0
    low = max(float(drawn.min()), float(np.quantile(drawn, 0.005)) / 3) / 1.15
    return low, max(float(drawn.max()) * 1.15, low * 2)


def _axis(ax: Axes, history: RWCHistory, rows: int, columns: int, limits: tuple[float, float]) -> None:
    """Draw the shared y axis beside each row, in powers of ten, and the label of x."""
    low, high = np.log10(limits)
    decades = np.arange(np.ceil(low), np.floor(high) + 1)
    decades = decades[:: -(-len(decades) // 3)] if len(decades) else np.array([low, high])
    heights = BOTTOM - (BOTTOM - TOP) * (decades - low) / (high - low)
    names = [f"$10^{{{int(d)}}}$" if d == int(d) else f"{10**d:.1e}" for d in decades]
    ax.set_yticks((np.arange(rows)[:, None] + heights).ravel(), names * rows, fontsize=5.8)
    ax.hlines((np.arange(rows)[:, None] + heights).ravel(), 0, columns, color="white", linewidth=0.6, zorder=1.5)
    ax.set_xticks([])
    ax.tick_params(axis="y", length=0, pad=1, colors=MUTED)
    ax.spines[:].set_visible(False)
    ax.set(xlim=(0, columns), ylim=(rows, 0), ylabel=rwc_unit(history))
    first, last = history.steps[[0, -1]]
    ax.set_xlabel(f"{plain_text(history.unit)}, from {first:,} to {last:,} in each panel", color=INK)
