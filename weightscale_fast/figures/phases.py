"""Phases of training: the clusters of the layers in each of a few windows of steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..analysis.phases import phase_labels
from ..analysis.result import OUTLIER
from ..text import count
from .curves import check_same_layers
from .heat import layer_axes
from .style import (
    check_not_empty,
    cluster_look,
    label_cluster,
    labels_of,
    legend_below,
    step_axis,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..analysis.result import LayerClusters
    from ..record.history import RWCHistory

WHOLE_RUN = 0.06  # width of the strip for the whole run, as a share of the windows' width


@styled
def phases(history: RWCHistory, clusters: LayerClusters, ax: Axes | None = None) -> Axes:
    """Draw which cluster each layer belongs to in each of up to 8 windows of steps, first layer on top.

    The strip on the right is the whole run. The colours are those of its clusters: see `phase_labels`. A layer that
    changes colour joined another cluster. If many layers do so at once, a phase of the training ended.

    Raises:
        ValueError: the history is empty, or the clusters are of other layers or steps.

    Example:
        `phases(history, cluster_layers(history)).figure.savefig("phases.svg")`
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    check_not_empty(history)
    check_same_layers(history, clusters)
    if clusters.curves.shape[1] != len(history):
        raise ValueError(
            f"clusters must be of this history's {count(len(history), 'record')}, got curves of "
            f"{count(clusters.curves.shape[1], 'value')}; pass the history that cluster_layers was given"
        )
    labels, edges = phase_labels(clusters)
    changed = float((labels[1:] != labels[:-1]).mean()) if len(labels) > 1 else 0.0
    part = history.select(set(clusters.names).__contains__)
    note = f"{changed:.0%} change cluster from one window to the next"
    ax = layer_axes(part, ax, "Phases of training: clusters over windows of steps", note, tallest=11)

    first, last = float(history.steps[0]), float(history.steps[-1])
    span = max(last - first, 1.0)
    bounds = np.append(history.steps[edges[:-1]], first + span)
    layers = np.arange(len(clusters.names) + 1) + 0.5
    shown = labels_of(clusters)
    colours = ListedColormap([cluster_look(label).colour for label in shown])
    for x, columns in (
        (bounds, labels),
        (first + span * np.array([1 + WHOLE_RUN / 3, 1 + WHOLE_RUN * 4 / 3]), clusters.labels[None]),
    ):
        number = np.where(columns == OUTLIER, len(shown) - 1, columns).T
        ax.pcolormesh(x, layers, number, cmap=colours, vmin=-0.5, vmax=len(shown) - 0.5, rasterized=True)
    ax.vlines(bounds[1:-1], layers[0], layers[-1], color="white", linewidth=2)
    step_axis(ax, first, first + span * (1 + WHOLE_RUN * 4 / 3), history.unit)
    ax.set_xticks(bounds)
    end = first + span * (1 + WHOLE_RUN * 4 / 3)
    ax.text(end, 1, " whole\n run", transform=ax.get_xaxis_transform(), fontsize=7, va="top", ha="left")
    sizes = [int((clusters.labels == label).sum()) for label in shown]
    legend_below(
        ax,
        [
            Patch(color=cluster_look(i).colour, label=label_cluster(i, size))
            for i, size in zip(shown, sizes, strict=True)
        ],
    )
    return ax
