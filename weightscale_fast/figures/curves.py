"""Curves of all layers over the steps, coloured by depth or by cluster.

Letters: S recorded steps, L layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..analysis.curves import FloatArray
from ..analysis.medians import finite_median
from ..text import count
from .layer_lines import SIZE, depth_bar, finish, layer_lines, lines_by_depth, subtitle
from .sampling import trend
from .style import (
    INK,
    axes_for,
    check_clusters,
    check_not_empty,
    cluster_look,
    is_per_step,
    label_cluster,
    labels_of,
    legend_below,
    rwc_unit,
    styled,
    tint,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..analysis.result import LayerClusters
    from ..record.history import RWCHistory

RULE = 1e-3  # a common rule of thumb for the relative change of a layer at a step
MISSING = "zero or not finite"
NOTHING = "No RWC above zero was recorded"


@styled
def rwc_curves(history: RWCHistory, ax: Axes | None = None) -> Axes:
    """Draw every layer's RWC over the steps, log y, coloured by its depth in the network.

    A curve has at most 1,000 points, the lowest and the highest of each stretch of steps, so spikes survive. Above 300
    steps these curves are pale, and the line of a layer is its running median over a fortieth of the steps. A log axis
    cannot show zeros and values that are not finite. They leave gaps, and the line under the title counts them. A
    dashed line at 1e-3, the rule of thumb for a step, is drawn if the curves come that far.

    Raises:
        ValueError: the history is empty.

    Example:
        `rwc_curves(history).figure.savefig("rwc_curves.svg")`
    """
    check_not_empty(history)
    values = drawable(history.rwc)
    note = subtitle(history, values, "lines: running medians", "", MISSING)
    ax = axes_for(ax, "Relative weight change of every layer", note, SIZE)
    lines_by_depth(ax, history, values)
    finish(ax, history, values, rwc_unit(history), NOTHING)
    depth_bar(ax, history)
    if _rule_of_thumb(ax, history):
        legend_below(ax)
    return ax


@styled
def clustered_curves(history: RWCHistory, clusters: LayerClusters, ax: Axes | None = None) -> Axes:
    """Draw every clustered layer's RWC in the colour of its cluster, and each cluster's median as a thick line.

    The curves are the recorded ones, not the cleaned ones that were clustered. They are thinned as in `rwc_curves`.
    Above 300 steps the thick lines are running medians over a fortieth of the steps. The dashed line at 1e-3 is that of
    `rwc_curves`.

    Raises:
        ValueError: the history is empty, or the clusters are of other layers.

    Example:
        `clustered_curves(history, cluster_layers(history)).figure.savefig("clustered_curves.svg")`
    """
    from matplotlib.patheffects import Normal, Stroke

    check_not_empty(history)
    check_same_layers(history, clusters)
    values = drawable(history.rwc[:, clusters.rows])
    note = subtitle(history, values, "thick: running medians", "thick: median of the cluster", MISSING)
    ax = axes_for(ax, "Relative weight change by cluster", note, SIZE)
    sizes = {label: int((clusters.labels == label).sum()) for label in labels_of(clusters)}
    pale = {  # more lines are fainter
        label: (*tint(cluster_look(label).colour, 0.55), float(np.clip(16 / size, 0.25, 0.7)))
        for label, size in sizes.items()
    }
    layer_lines(ax, history.steps, values, [pale[label] for label in clusters.labels.tolist()])
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
    finish(ax, history, values, rwc_unit(history), NOTHING)
    _rule_of_thumb(ax, history)
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


def _rule_of_thumb(ax: Axes, history: RWCHistory) -> bool:
    """Draw a line at 1e-3 if the axis reaches it. The rule is for one step, and for the ratio of two norms."""
    low, high = ax.get_ylim() if ax.get_yscale() == "log" else (0, 0)  # linear: no value was drawn
    if not is_per_step(history) or history.definition == "mean_ratio" or not low < RULE < high:
        return False
    ax.axhline(RULE, color=INK, linewidth=0.8, linestyle=(0, (5, 4)), zorder=3, label="1e-3: rule of thumb")
    return True
