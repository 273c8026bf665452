"""The plane of the first two principal components, and how many clusters it holds.

Letters: N layers clustered, k clusters, P grid points per side.
"""

from __future__ import annotations

from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..analysis.result import OUTLIER
from ..text import count
from .style import (
    GRID_COLOUR,
    INK,
    MUTED,
    axes_for,
    check_clusters,
    cluster_look,
    label_cluster,
    labels_of,
    legend_below,
    name_label,
    styled,
    tint,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..analysis.result import LayerClusters

SIZE = (6.2, 4.6)
GRID = 400
MOST_LABELS = 5
PALE = 0.16
CHOSEN_COLOUR = "#D55E00"


@styled
def pca_map(clusters: LayerClusters, ax: Axes | None = None) -> Axes:
    """Draw the layers in the plane of their first two principal components: regions, points and centres (X).

    A point z of the plane belongs to the cluster with the smallest `|z - center_coordinates|^2 + center_offsets`.
    HDBSCAN has no such regions, and its outlier layers are grey. The layers furthest from their centre are named if
    there is room.

    Example:
        `pca_map(cluster_layers(history)).figure.savefig("pca_map.svg")`
    """
    from matplotlib.patheffects import Normal, Stroke
    from matplotlib.ticker import MaxNLocator

    check_clusters(clusters)
    nearest_centre = clusters.method == "kmeans"
    how = "regions: nearest centre" if nearest_centre else "found by HDBSCAN"
    subtitle = f"{count(len(clusters.names), 'layer')}, k = {clusters.k}; {how}"
    ax = axes_for(ax, "Layers in the plane of their principal components", subtitle, SIZE)
    points = clusters.coordinates
    both = np.concatenate([points, clusters.center_coordinates])
    margin = np.where(np.ptp(both, axis=0) > 0, 0.08 * np.ptp(both, axis=0), 1.0)
    (left, bottom), (right, top) = both.min(axis=0) - margin, both.max(axis=0) + margin
    if nearest_centre:
        _regions(ax, clusters, (left, right, bottom, top))
    for label in labels_of(clusters):
        members = clusters.labels == label
        look = cluster_look(label)
        ax.scatter(
            points[members, 0],
            points[members, 1],
            s=38,
            color=look.colour,
            marker=look.marker,
            edgecolor="white",
            linewidth=0.7,
            label=label_cluster(label, int(members.sum())),
            zorder=3 if members.sum() > 1 else 5,  # a single layer would be under its centre
        )
    x, y = clusters.center_coordinates.T
    outline = [Stroke(linewidth=2.8, foreground="white"), Normal()]
    ax.scatter(x, y, s=42, marker="x", color=INK, linewidth=1.5, path_effects=outline, label="centre", zorder=4)
    for axis, share, number in zip((ax.xaxis, ax.yaxis), clusters.explained_variance_ratio, (1, 2), strict=False):
        axis.set_label_text(f"principal component {number} ({share:.1%} of the variance)")
        axis.set_major_locator(MaxNLocator(nbins=6))
    ax.set(xlim=(left, right), ylim=(bottom, top))
    if clusters.k:
        _name_outlying(ax, clusters)
    legend_below(ax)
    return ax


@styled
def scree(clusters: LayerClusters, ax: Axes | None = None) -> Axes:
    """Draw the SSE of k-means on the 2-D scores against k, with its chord and the chosen k.

    The pale line is the SSE on the curves themselves. Both are in percent of their own value at k = 1.

    Example:
        `scree(cluster_layers(history)).figure.savefig("scree.svg")`
    """
    from matplotlib.ticker import MaxNLocator

    check_clusters(clusters)
    ax = axes_for(ax, "How many clusters", shorten(f"k = {clusters.k}: {clusters.k_reason}", 80, placeholder="…"), SIZE)
    k = np.arange(1, len(clusters.sse) + 1)
    sse, raw = (100 * values / (values[0] or 1.0) for values in (clusters.sse, clusters.sse_raw))
    ax.plot(
        k,
        raw,
        color="#9aa0a6",
        marker="s",
        markersize=4,
        clip_on=False,
        label=f"on the curves (100 % = {clusters.sse_raw[0]:.3g})",
    )
    blue = cluster_look(0).colour
    ax.plot(
        k,
        sse,
        color=blue,
        marker="o",
        markersize=5,
        clip_on=False,
        label=f"on the 2-D scores (100 % = {clusters.sse[0]:.3g})",
    )
    ax.plot(k[[0, -1]], sse[[0, -1]], color=MUTED, linestyle=(0, (4, 3)), linewidth=1, label="chord")
    if 1 <= clusters.k <= len(k):
        ax.axvline(clusters.k, color=CHOSEN_COLOUR, linewidth=1, zorder=1)
        chosen = f"chosen: k = {clusters.k} ({sse[clusters.k - 1]:.0f} %)"
        ax.plot(
            clusters.k,
            sse[clusters.k - 1],
            linestyle="",
            marker="o",
            markersize=12,
            markerfacecolor="none",
            markeredgecolor=CHOSEN_COLOUR,
            markeredgewidth=2,
            clip_on=False,
            label=chosen,
        )
    ax.set(xlabel="number of clusters, k", ylabel="sum of squared distances, % of k = 1")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=18, min_n_ticks=1))
    ax.set_ylim(bottom=0)
    ax.grid(axis="y", color=GRID_COLOUR)
    ax.set_axisbelow(True)
    ax.legend(loc="upper right")
    return ax


def _regions(ax: Axes, clusters: LayerClusters, extent: tuple[float, float, float, float]) -> None:
    """Paint each point of the plane in the pale colour of its cluster."""
    left, right, bottom, top = extent
    x, y = np.meshgrid(np.linspace(left, right, GRID), np.linspace(bottom, top, GRID))
    plane = np.stack([x, y], axis=-1)[:, :, None]  # [P, P, 1, 2]
    distance = ((plane - clusters.center_coordinates) ** 2).sum(axis=-1) + clusters.center_offsets  # [P, P, k]
    colours = np.array([tint(cluster_look(label).colour, PALE) for label in range(clusters.k)])
    ax.imshow(colours[distance.argmin(axis=-1)], extent=extent, origin="lower", aspect="auto", zorder=0)


def _name_outlying(ax: Axes, clusters: LayerClusters) -> None:
    """Name up to `MOST_LABELS` of the layers furthest from their centre, if the name overlaps nothing.

    Boxes are (left, bottom, right, top), in points from the lower left of the axes. A letter is 0.6 of the font size
    wide.
    """
    scale = ax.figure.dpi / 72
    size = np.array([ax.bbox.width, ax.bbox.height]) / scale
    corner = np.array([ax.get_xlim()[0], ax.get_ylim()[0]])
    span = np.array([np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())])
    points = (clusters.coordinates - corner) / span * size
    centres = (clusters.center_coordinates - corner) / span * size
    distances = np.hypot(*np.moveaxis(points[:, None] - centres, -1, 0))  # [N, k]
    members = np.where(clusters.labels == OUTLIER, distances.argmin(axis=1), clusters.labels)
    far = np.take_along_axis(distances, members[:, None], axis=1)[:, 0]
    taken = [np.array([*z - 4, *z + 4]) for z in points] + [np.array([*z - 6, *z + 6]) for z in centres]
    candidates = np.argsort(-far)[:MOST_LABELS]
    for i in candidates[far[candidates] > 2 * np.median(far)]:
        name = name_label(clusters.names[i])
        width, height = 0.6 * 7 * len(name), 9
        for side, x in (("left", 7.0), ("right", -7.0)):
            left, bottom = points[i] + (x - width * (side == "right"), -height / 2)
            box = np.array([left, bottom, left + width, bottom + height])
            inside = bool((box[:2] > 0).all() and (box[2:] < size).all())
            if inside and not any(_overlap(box, other) for other in taken):
                ax.annotate(
                    name,
                    (clusters.coordinates[i, 0], clusters.coordinates[i, 1]),
                    xytext=(x, 0),
                    textcoords="offset points",
                    horizontalalignment=side,
                    verticalalignment="center",
                    fontsize=7,
                    color=INK,
                )
                taken.append(box)
                break


def _overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    return bool((one[:2] < other[2:]).all() and (other[:2] < one[2:]).all())
