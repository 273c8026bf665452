"""Curves of all layers over the steps, coloured by depth or by cluster.

Letters: S recorded steps, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..analysis.curves import FloatArray
from ..analysis.medians import finite_median
from ..text import count
from .sampling import thin, trend, trend_window
from .style import (
    GRID_COLOUR,
    INK,
    MUTED,
    axes_for,
    check_clusters,
    check_not_empty,
    cluster_look,
    label_cluster,
    labels_of,
    legend_below,
    name_label,
    rwc_unit,
    step_axis,
    styled,
    tint,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..analysis.result import LayerClusters
    from ..record.history import RWCHistory

SIZE = (9.6, 5)
MOST_VECTOR_POINTS = 5_000  # of a figure: 0.15 MB of SVG
MANY_LINES = 1_000  # from here on they are one collection, which takes a tenth of the time and memory of single lines
FEW_POINTS = 1_000  # of a figure: up to this many, each point has a mark


@styled
def rwc_curves(history: RWCHistory, ax: Axes | None = None) -> Axes:
    """Draw every layer's RWC over the steps, log y, coloured by its depth in the network.

    A curve has at most 1,000 points, the lowest and the highest of each stretch of steps, so spikes survive. Above 300
    steps these curves are pale, and the line of a layer is its running median over a fortieth of the steps. A log axis
    cannot show zeros and values that are not finite. They leave gaps, and the line under the title counts them.

    Raises:
        ValueError: the history is empty.

    Example:
        `rwc_curves(history).figure.savefig("rwc_curves.svg")`
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    check_not_empty(history)
    L = len(history.names)
    values = drawable(history.rwc)
    subtitle = _subtitle(history, values, "lines: running medians", "")
    ax = axes_for(ax, "Relative weight change of every layer", subtitle, SIZE)
    colours = ListedColormap(colormaps["viridis"](np.linspace(0, 0.88, 256)))  # its yellow is too light for lines
    depth = Normalize(0.5, L + 0.5)
    _layer_lines(ax, history.steps, values, [colours(depth(i + 1), alpha=0.85) for i in range(L)])
    _finish(ax, history, values)
    bar = ax.figure.colorbar(ScalarMappable(depth, colours), ax=ax, pad=0.02, aspect=35)
    ticks = np.unique(np.linspace(1, L, min(L, 9)).astype(int))
    bar.set_ticks(list(ticks), labels=[f"{i}  {name_label(history.names[i - 1])}" for i in ticks], fontsize=7.5)
    bar.ax.minorticks_off()
    bar.ax.invert_yaxis()
    bar.ax.set_title("layer", loc="left", fontsize=8.5, fontweight="normal")
    bar.ax.tick_params(colors=MUTED, labelcolor=INK)
    bar.outline.set_visible(False)
    return ax


@styled
def clustered_curves(history: RWCHistory, clusters: LayerClusters, ax: Axes | None = None) -> Axes:
    """Draw every clustered layer's RWC in the colour of its cluster, and each cluster's median as a thick line.

    The curves are the recorded ones, not the cleaned ones that were clustered. They are thinned as in `rwc_curves`.
    Above 300 steps the thick lines are running medians over a fortieth of the steps.

    Raises:
        ValueError: the history is empty, or the clusters are of other layers.

    Example:
        `clustered_curves(history, cluster_layers(history)).figure.savefig("clustered_curves.svg")`
    """
    from matplotlib.patheffects import Normal, Stroke

    check_not_empty(history)
    check_same_layers(history, clusters)
    values = drawable(history.rwc[:, clusters.rows])
    subtitle = _subtitle(history, values, "thick: running medians", "thick: median of the cluster")
    ax = axes_for(ax, "Relative weight change by cluster", subtitle, SIZE)
    sizes = {label: int((clusters.labels == label).sum()) for label in labels_of(clusters)}
    pale = {  # more lines are fainter
        label: (*tint(cluster_look(label).colour, 0.55), float(np.clip(16 / size, 0.25, 0.7)))
        for label, size in sizes.items()
    }
    _layer_lines(ax, history.steps, values, [pale[label] for label in clusters.labels.tolist()])
    for label, size in sizes.items():
        steps, median = trend(history.steps, finite_median(values[:, clusters.labels == label], axis=1))
        ax.plot(
            steps,
            median,
            color=cluster_look(label).colour,
            linestyle=cluster_look(label).line,
            marker="o" if len(steps) == 1 else None,
            linewidth=2.6,
            path_effects=[Stroke(linewidth=5, foreground="white"), Normal()],
            label=label_cluster(label, size),
        )
    _finish(ax, history, values)
    legend_below(ax)
    return ax


def check_same_layers(history: RWCHistory, clusters: LayerClusters) -> None:
    """Raise `ValueError` unless the clusters' rows are layers of this history."""
    check_clusters(clusters)
    L = len(history.names)
    for row, name in zip(clusters.rows, clusters.names, strict=True):
        if row >= L or history.names[row] != name:
            came = history.names[row] if row < L else f"only {count(L, 'layer')}"
            raise ValueError(
                f"clusters must be of this history's layers: row {row} was {name!r} when it was clustered, and the "
                f"history has {came!r} there; pass the history that cluster_layers was given"
            )


def drawable(rwc: FloatArray) -> FloatArray:
    """The RWC [S, L], with NaN where a log axis cannot show the value."""
    return np.where(np.isfinite(rwc) & (rwc > 0), rwc, np.nan)


def _subtitle(history: RWCHistory, values: FloatArray, noisy: str, clear: str) -> str:
    window = trend_window(len(history.steps))
    parts = [f"{count(values.shape[1], 'layer')}, {count(len(history.steps), 'record')}"]
    parts += [f"{noisy} over {window} records"] if window > 1 else [clear] if clear else []
    if missing := int(np.isnan(values).sum()):
        parts.append(f"not drawn: {count(missing, 'value')}, zero or not finite")
    return "; ".join(parts)


def _layer_lines(ax: Axes, steps: NDArray[np.int64], values: FloatArray, colours: list[Any]) -> None:
    """Draw a thin line per layer. With many steps it is the running median, over a pale line of the steps."""
    noisy = trend_window(len(steps)) > 1
    x, y = thin(steps, values)
    pale = float(np.clip(5 / len(colours), 0.04, 0.15))
    as_image = y.size > MOST_VECTOR_POINTS  # inside an SVG
    if len(colours) >= MANY_LINES and len(steps) > 1:
        _collect(ax, list(np.stack([x, y], axis=2).swapaxes(0, 1)), [(*c[:3], pale) if noisy else c for c in colours])
        if noisy:
            lines = [np.column_stack(trend(steps, values[:, i])) for i in range(len(colours))]
            _collect(ax, lines, colours)
        return
    for i, colour in enumerate(colours):
        ax.plot(
            x[:, i],
            y[:, i],
            color=(*colour[:3], pale) if noisy else colour,
            linewidth=0.8,
            marker="." if len(steps) == 1 or y.size <= FEW_POINTS else None,
            markersize=6 if len(steps) == 1 else 3,
            rasterized=as_image,
        )
    if noisy:
        for i, colour in enumerate(colours):
            ax.plot(*trend(steps, values[:, i]), color=colour, linewidth=0.8, rasterized=as_image)


def _collect(ax: Axes, lines: Sequence[NDArray[Any]], colours: list[Any]) -> None:
    """Draw many lines, each of points [n, 2]."""
    from matplotlib.collections import LineCollection

    ax.add_collection(LineCollection(lines, colors=colours, linewidths=0.8, rasterized=True))


def _finish(ax: Axes, history: RWCHistory, values: FloatArray) -> None:
    """Set both axes: log y over the drawn values, whole steps along x."""
    ax.set_ylabel(rwc_unit(history))
    first, last = float(history.steps[0]), float(history.steps[-1])
    margin = (last - first) * 0.01 or 0.5
    step_axis(ax, first - margin, last + margin, history.unit)
    ax.grid(axis="y", color=GRID_COLOUR)
    ax.set_axisbelow(True)
    drawn = values[~np.isnan(values)]
    if not drawn.size:
        ax.set_yticks([])
        ax.text(0.5, 0.5, "No RWC above zero was recorded", transform=ax.transAxes, ha="center", color=INK)
        return
    ax.set_yscale("log")
    # A last step at a learning rate of almost 0 must not flatten the other curves. High values are never cut.
    ax.set_ylim(max(drawn.min(), np.quantile(drawn, 0.005) / 3) / 1.3, drawn.max() * 1.3)
