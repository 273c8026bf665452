"""Phases of training: the clusters of the layers in each of a few windows of steps.

Letters: R layers clustered, T columns, W windows, k clusters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..analysis.kmeans import kmeans
from ..analysis.knee import count_distinct
from ..analysis.reduce import pca_scores
from ..extras import import_extra
from .curves import check_same_layers
from .heat import layer_axes
from .style import (
    OUTLIER,
    check_not_empty,
    cluster_look,
    count,
    label_cluster,
    labels_of,
    legend_below,
    step_axis,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..analysis.cluster import LayerClusters
    from ..record.history import RWCHistory

IntArray = NDArray[np.int64]

WINDOWS = 8
FEWEST_COLUMNS = 2  # of a window
STARTS = 10  # of k-means in each window
WHOLE_RUN = 0.06  # width of the strip for the whole run, of that of the windows


def phase_labels(clusters: LayerClusters) -> tuple[IntArray, IntArray]:
    """Cluster the layers by their cleaned curves in each of up to 8 windows of equal length.

    Each window is clustered by k-means with the same k as the whole run. Its clusters are then given the labels of the
    whole run's, one to one, so that as many layers as possible keep their label: Kuhn's assignment (Naval Research
    Logistics 2, 1955). Outlier layers stay outliers. A window in which fewer than k curves differ has fewer clusters.

    Returns:
        the labels [W, R], and where the windows begin and end among the columns [W + 1].
    """
    T = clusters.curves.shape[1]
    W = int(np.clip(T // FEWEST_COLUMNS, 1, WINDOWS))
    edges = np.linspace(0, T, W + 1).round().astype(np.int64)
    labels = np.full((W, len(clusters.names)), OUTLIER)
    inside = clusters.labels != OUTLIER
    if inside.any():
        for w in range(W):
            points = pca_scores(clusters.curves[inside, edges[w] : edges[w + 1]]).scores
            k = count_distinct(points, clusters.k)
            found = kmeans(points, k, n_init=STARTS, seed=clusters.seed)[0]
            labels[w, inside] = _aligned(found, clusters.labels[inside], clusters.k)
    return labels, edges


def _aligned(found: IntArray, wanted: IntArray, k: int) -> IntArray:
    """The labels `found` [R] renamed within 0..k-1 to agree with `wanted` [R] in as many places as can be."""
    overlap = np.zeros((k, k))
    np.add.at(overlap, (found, wanted), 1)
    return np.asarray(import_extra("scipy.optimize", "analysis").linear_sum_assignment(-overlap)[1][found])


@styled
def phases(history: RWCHistory, clusters: LayerClusters, ax: Axes | None = None) -> Axes:
    """Draw which cluster each layer belongs to in each of up to 8 windows of steps, first layer on top.

    The strip on the right is the whole run. Colours are those of its clusters: see `phase_labels`. A layer that changes
    colour changed its company, and where many do at once a phase of the training ended.

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
