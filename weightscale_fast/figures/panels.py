"""Several figures on one page: a map per run, or curves and a map per group of layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..text import listing
from .curves import clustered_curves
from .plane import pca_map
from .style import plain_text, set_title, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..analysis.result import LayerClusters
    from ..record.history import RWCHistory

MOST_PANELS = 12  # of a page: a row per block of GPT-2, with 48 blocks, would be 4.5 m high
ROW_INCHES = 3.7


@styled
def pca_panels(runs: Mapping[str, LayerClusters]) -> Figure:
    """Draw the map of each run or data set, three per row: see `pca_map`. Each has its own components and clusters.

    Args:
        runs: clusters by the title of their panel, at most 12.

    Raises:
        ValueError: there is no run, or there are more than 12.

    Example:
        `pca_panels({"CIFAR-10": cluster_layers(cifar), "SVHN": cluster_layers(svhn)}).savefig("maps.svg")`
    """
    _check_number("runs", runs)
    columns = min(3, len(runs))
    figure = _page(4.6 * columns, -(-len(runs) // columns) * 4.3)
    for number, (title, clusters) in enumerate(runs.items(), start=1):
        ax = figure.add_subplot(-(-len(runs) // columns), columns, number)
        set_title(pca_map(clusters, ax), plain_text(title))
    return figure


@styled
def group_panels(history: RWCHistory, groups: Mapping[str, LayerClusters | None]) -> Figure:
    """Draw the clustered curves and the map of each group of layers, in a row per group.

    See `clustered_curves` and `pca_map`.

    Args:
        history: the run.
        groups: the clusters of each group, from `cluster_groups`, at most 12. Groups that were not clustered are left
            out.

    Raises:
        ValueError: no group or more than 12 groups were clustered, or the clusters are of other layers.

    Example:
        `group_panels(history, cluster_groups(history, group_layers(history.names, history.kinds)))`
    """
    clustered = {group: clusters for group, clusters in groups.items() if clusters is not None}
    _check_number("clustered groups", clustered)
    figure = _page(12.4, ROW_INCHES * len(clustered))
    grid = figure.add_gridspec(len(clustered), 2, width_ratios=(1.75, 1))
    for row, (group, clusters) in enumerate(clustered.items()):
        title = plain_text(group)
        set_title(clustered_curves(history, clusters, figure.add_subplot(grid[row, 0])), title)
        set_title(pca_map(clusters, figure.add_subplot(grid[row, 1])), title)
    return figure


def _page(width: float, height: float) -> Figure:
    from .notebook import ShownFigure

    figure = ShownFigure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(hspace=0.06, wspace=0.04)  # type: ignore[union-attr,call-arg]
    return figure


def _check_number(what: str, panels: Mapping[str, Any]) -> None:
    if not 0 < len(panels) <= MOST_PANELS:
        raise ValueError(
            f"{what} must be 1 to {MOST_PANELS} for one page, got {len(panels)}; choose some of them "
            f"({listing(list(panels)) or 'groups of fewer than 3 layers are not clustered'})"
        )
