"""Draw a figure by its name. Clusters are computed only if the figure shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from .curves import clustered_curves, rwc_curves
from .heat import heat_map, moved_fraction
from .multiples import small_multiples
from .panels import group_panels, pca_panels
from .phases import phases
from .plane import pca_map, scree
from .step_sizes import step_sizes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..analysis import LayerClusters
    from ..record.history import RWCHistory

FROM_HISTORY: dict[str, Callable[[RWCHistory], Axes]] = {
    "heat_map": heat_map,
    "moved_fraction": moved_fraction,
    "rwc_curves": rwc_curves,
    "step_sizes": step_sizes,
}
FROM_CLUSTERS: dict[str, Callable[[LayerClusters], Axes]] = {"pca_map": pca_map, "scree": scree}
FROM_BOTH: dict[str, Callable[[RWCHistory, LayerClusters], Axes]] = {
    "clustered_curves": clustered_curves,
    "phases": phases,
    "small_multiples": small_multiples,
}
OF_GROUPS, OF_RUNS = "group_panels", "pca_panels"
NAMES = tuple(sorted([*FROM_HISTORY, *FROM_CLUSTERS, *FROM_BOTH, OF_GROUPS, OF_RUNS]))


def check_figure(name: str, runs: int) -> None:
    """Raise `ValueError` unless there is a figure of this name, and it can show this number of runs."""
    if name not in NAMES:
        raise ValueError(f"figure must be one of {', '.join(NAMES)}, got {name!r}")
    if runs != 1 and name != OF_RUNS:
        raise ValueError(f"figure {name!r} shows one run, got {runs}; name one, or draw {OF_RUNS!r}")


def draw(
    name: str,
    runs: Mapping[str, RWCHistory],
    cluster: Callable[[RWCHistory], LayerClusters],
    cluster_groups: Callable[[RWCHistory], Mapping[str, LayerClusters | None]],
) -> Figure:
    """Draw the figure called `name`, one of `NAMES`.

    Args:
        name: the figure.
        runs: histories by title. Only `pca_panels` shows more than one.
        cluster: called if the figure shows clusters.
        cluster_groups: called if the figure shows groups.

    Raises:
        ValueError: the name is unknown (the error lists all), there is more than one run, or the figure raises it.

    Example:
        `draw("scree", {"demo": history}, cluster_layers, dict)`
    """
    check_figure(name, len(runs))
    if name == OF_RUNS:
        return pca_panels({title: cluster(history) for title, history in runs.items()})
    (history,) = runs.values()
    if name == OF_GROUPS:
        return group_panels(history, cluster_groups(history))
    if name in FROM_HISTORY:
        ax = FROM_HISTORY[name](history)
    elif name in FROM_CLUSTERS:
        ax = FROM_CLUSTERS[name](cluster(history))
    else:
        ax = FROM_BOTH[name](history, cluster(history))
    return cast("Figure", ax.figure)
