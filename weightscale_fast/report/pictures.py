"""The figures of the report, each with two sentences on how to read it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .. import figures
from ..figures.curves import check_same_layers
from ..figures.save import save_figure
from ..figures.step_sizes import has_rates
from ..figures.style import set_title
from .page import Group, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..analysis.result import LayerClusters
    from ..record.history import RWCHistory


def draw(history: RWCHistory, clusters: LayerClusters, per_epoch: RWCHistory | None, folder: Path) -> list[Picture]:
    """Draw every figure and save it in the folder; each comes with two sentences on how to read it."""
    shown = float(clusters.explained_variance_ratio[:2].sum())
    near_border = (
        "the clusters were formed on the whole curves, so a mark may lie in the area of another cluster"
        if clusters.space == "raw"
        else "a mark near a border could as well be in the next cluster"
    )
    areas = (
        "the pale areas show which cluster a point belongs to"
        if clusters.method == "kmeans"
        else "grey marks are outliers"
    )
    drawn: list[tuple[str, Callable[[], Axes], str]] = [
        (
            "clustered_curves",
            lambda: figures.clustered_curves(history, clusters),
            "Each thin line is a layer, in the pale colour of its cluster, and each thick line is the median of a "
            "cluster. Clusters that stay apart learn at different speeds throughout, and lines that cross or part show "
            "when a group of layers slowed down or sped up.",
        ),
        (
            "pca_map",
            lambda: figures.pca_map(clusters),
            "Each mark is a layer, marks close to each other have similar curves, an X is the centre of a cluster, "
            f"and {areas}. The plane shows {shown:.1%} of the variance between the curves, "
            f"and {near_border}.",
        ),
        (
            "scree",
            lambda: figures.scree(clusters),
            "The blue line shows how much layers of one cluster still differ when there are k clusters. "
            "More clusters always leave less, so look for the bend furthest below the chord, and treat k as a choice "
            "if no bend is clear.",
        ),
        (
            "small_multiples",
            lambda: figures.small_multiples(history, clusters),
            "Each panel is a layer, in network order and in the colour of its cluster; the pale line is the median of "
            "all layers. Read along the rows to see how behaviour changes with depth, and look for panels unlike their "
            "neighbours.",
        ),
        (
            "phases",
            lambda: figures.phases(history, clusters),
            "Each row is a layer, each column is a part of the training that was clustered by itself, and the colours "
            "are the clusters of the whole run. A layer that changes colour moved to another cluster, and where many "
            "layers do so at once, a phase of the training ended.",
        ),
        (
            "rwc_curves",
            lambda: figures.rwc_curves(history),
            "Each line is a layer, dark for the first of the network and light for the last. If the colours "
            "are sorted from bottom to top, speed depends on depth, and a line that leaves the bundle is a layer to "
            "look at.",
        ),
        (
            "heat_map",
            lambda: figures.heat_map(history),
            "Each row is a layer, the first on top, each column is a step, and bright means a large change in "
            "proportion to the weights. A vertical stripe is a step that moved the whole network, and a horizontal "
            "stripe is a layer unlike its neighbours.",
        ),
        (
            "moved_fraction",
            lambda: figures.moved_fraction(history),
            "Pale means that all weights of a layer changed their stored value, and dark means that none did. Dark "
            "rows are frozen layers, or weights that are stored too coarsely for their updates, as happens in 16 bits.",
        ),
    ]
    if per_epoch is not None and len(per_epoch.steps):
        reading = (
            "Each point compares a layer's weights with those one epoch before, as the papers' figures do. It is not "
            "the sum of the epoch's per-step values, because steps in opposite directions cancel out."
        )
        drawn.insert(6, ("per_epoch_curves", partial(_epoch_curves, per_epoch), reading))
    if has_rates(history):
        reading = (
            "Each line is the mean change of a layer's weights divided by their learning rate, and the pale band, if "
            "the optimizer implies one, is where the layers of healthy runs are. Lines far below the band have steps "
            "that clipping or vanished gradients made small, and lines of Adam that stay near 1 after the first steps "
            "have gradients that are never zeroed."
        )
        drawn.insert(6, ("step_sizes", lambda: figures.step_sizes(history), reading))
    return [_picture(name, axes, reading, folder) for name, axes, reading in drawn]


def _picture(name: str, axes: Callable[[], Axes], reading: str, folder: Path) -> Picture:
    """Draw and save one figure. Its memory is free for the next one: a figure of 10,000 layers takes much."""
    ax = axes()
    svg = _saved(cast("Figure", ax.figure), folder, name)
    return Picture(ax.get_title(loc="left"), svg, reading, half=name in ("pca_map", "scree"))


def draw_groups(history: RWCHistory, groups: Mapping[str, LayerClusters | None], folder: Path) -> list[Group]:
    """The groups. Each that was clustered has a figure, which is saved in the folder."""
    sections = []
    for number, (name, clusters) in enumerate(groups.items(), start=1):
        picture = None
        if clusters is not None:
            check_same_layers(history, clusters)
            file = f"group_{number}_{re.sub(r'[^A-Za-z0-9_-]+', '_', name)[:40]}"
            svg = _saved(figures.group_panels(history, {name: clusters}), folder, file)
            reading = (
                "On the left are the curves of this group's layers, on the right is their map, in the colours of the "
                "group's own clusters. The group was cleaned and clustered without the other layers, so its clusters "
                "are not those with the same numbers above."
            )
            picture = Picture(f"Clusters within {name}", svg, reading, half=False)
        sections.append(Group(name, clusters, picture))
    return sections


def _epoch_curves(per_epoch: RWCHistory) -> Axes:
    """The curves of a history with one row an epoch. Its steps may count epochs or optimizer steps."""
    settings = {**per_epoch.settings, "unit": "epoch"}
    epochs = replace(per_epoch, steps=per_epoch.steps // per_epoch.every, every=1, settings=settings)
    ax = figures.rwc_curves(epochs)
    set_title(ax, "Relative weight change from epoch to epoch")
    return ax


def _saved(figure: Figure, folder: Path, name: str) -> bytes:
    """Write the figure as SVG and PNG, and return the SVG."""
    svg = folder / f"{name}.svg"
    save_figure(figure, svg, folder / f"{name}.png")
    return svg.read_bytes()
