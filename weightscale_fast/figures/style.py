"""The common look of all figures: colours, marks, titles and legends."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, TypeVar

from ..analysis.result import OUTLIER
from ..extras import import_extra
from ..text import count, printable, short_name

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

    from ..analysis.result import LayerClusters
    from ..record.history import RWCHistory

P = ParamSpec("P")
R = TypeVar("R")

INK = "#222222"
MUTED = "#5f6368"
GRID_COLOUR = "#e8eaed"
ZERO_COLOUR = "#d9d9d9"
NOT_FINITE_COLOUR = "#D55E00"

# Okabe and Ito's palette, safe for colour-blind readers. It is without yellow, which is hard to see on white.
CLUSTER_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
CLUSTER_LINES = ("-", "--", ":")
CLUSTER_MARKERS = ("o", "s", "^", "D", "v", "<")

STYLE = {
    "font.size": 9,
    "text.color": INK,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": "#9aa0a6",
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "path",
    "text.usetex": False,  # TeX may be missing, and stops at an underscore in a layer's name
}


class ClusterLook(NamedTuple):
    """How a cluster is drawn. For the first 21 clusters, colour and line are unique, and so are colour and marker.

    Outlier layers are grey.
    """

    colour: str
    line: str
    marker: str


def cluster_look(label: int) -> ClusterLook:
    """The look of cluster `label`, or of the outlier layers.

    Example:
        >>> cluster_look(0)
        ClusterLook(colour='#0072B2', line='-', marker='o')
        >>> cluster_look(7).line
        '--'
    """
    if label == OUTLIER:
        return ClusterLook("#80868b", "-.", "P")
    colours = len(CLUSTER_COLOURS)
    return ClusterLook(
        CLUSTER_COLOURS[label % colours],
        CLUSTER_LINES[label // colours % len(CLUSTER_LINES)],
        CLUSTER_MARKERS[label % len(CLUSTER_MARKERS)],
    )


def tint(colour: str, strength: float) -> tuple[float, float, float]:
    """Mix the colour with white: strength 1 is the colour, 0 is white."""
    from matplotlib.colors import to_rgb

    red, green, blue = (1 - strength * (1 - part) for part in to_rgb(colour))
    return red, green, blue


def styled(figure: Callable[P, R]) -> Callable[P, R]:
    """Draw with the settings of `STYLE`, without changing matplotlib's own."""

    @functools.wraps(figure)
    def draw(*args: P.args, **kwargs: P.kwargs) -> R:
        with import_extra("matplotlib", "plots").rc_context(STYLE):
            return figure(*args, **kwargs)

    return draw


def axes_for(ax: Axes | None, title: str, subtitle: str, size: tuple[float, float]) -> Axes:
    """The caller's axes, or axes of a new figure of `size` inches, with the title and a grey subtitle."""
    from .notebook import ShownAxes, ShownFigure

    if ax is None:
        ax = ShownFigure(figsize=size, layout="constrained").add_subplot(axes_class=ShownAxes)
    set_title(ax, title)
    quiet = ax.annotate(
        subtitle, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", color=MUTED, fontsize=8
    )
    quiet.set_in_layout(False)  # like titles: a long line must not shrink the axes
    ax.tick_params(which="both", colors=MUTED, labelcolor=INK, labelsize=8)
    return ax


def set_title(ax: Axes, title: str) -> None:
    """Set a bold title on the left, with room for the subtitle below."""
    ax.set_title(title, loc="left", pad=20, fontsize=11, fontweight="bold", color=INK)


def legend_below(ax: Axes, handles: Sequence[Artist] | None = None) -> None:
    """Add a legend below the axes and their label, where it covers no data. By default it has all labelled artists."""
    from matplotlib.transforms import ScaledTranslation

    below_label = ax.transAxes + ScaledTranslation(0, -0.45, ax.figure.dpi_scale_trans)
    ax.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=below_label,
        ncols=max(1, int(ax.bbox.width / ax.figure.dpi / 1.4)),
        borderaxespad=0,
        borderpad=0,
    )


def step_axis(ax: Axes, first: float, last: float, unit: str = "optimizer step") -> None:
    """Make x an axis of whole steps from `first` to `last`, in this unit."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    ax.set_xlabel(plain_text(unit))
    ax.set_xlim(first, last)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def name_label(name: str, most: int = 30) -> str:
    """The short name as text for a figure."""
    return plain_text(short_name(name, most))


def plain_text(text: str) -> str:
    """Text that a figure shows as it is: a dollar sign would start a formula, and SVG allows no control characters."""
    return printable(text).replace("$", r"\$")


def label_cluster(label: int, size: int) -> str:
    """`"cluster 0: 23 layers"`, `"outliers: 2 layers"`."""
    return f"{'outliers' if label == OUTLIER else f'cluster {label}'}: {count(size, 'layer')}"


def labels_of(clusters: LayerClusters) -> list[int]:
    """The labels to draw: every cluster, then the outlier layers if there are any."""
    return [*range(clusters.k), *([OUTLIER] if OUTLIER in clusters.labels else [])]


def rwc_unit(history: RWCHistory) -> str:
    """The axis label for the RWC of this history: the formula and the steps that it spans."""
    return f"{rwc_formula(history)} {steps_spanned(history)}"


def steps_spanned(history: RWCHistory) -> str:
    """The steps that a row of this history spans: `"per step"`, `"over 390 steps"`."""
    unit = plain_text(history.unit.rpartition(" ")[2])
    return f"per {unit}" if history.horizon == 1 else f"over {history.horizon:,} {unit}s"


def is_per_step(history: RWCHistory) -> bool:
    """Whether a row is the change of one optimizer step, and not of several or of an epoch."""
    return history.horizon == 1 and history.unit == "optimizer step"


def rwc_formula(history: RWCHistory) -> str:
    """The definition of the history's RWC as a short formula."""
    formulas = {"norm_ratio": "Σ|Δw| / Σ|w|", "mean_ratio": "mean of |Δw| / |w|", "l2_ratio": "‖Δw‖₂ / ‖w‖₂"}
    return "RWC, " + formulas[history.definition]


def check_clusters(clusters: object) -> None:
    """Raise `TypeError` unless this is what `cluster_layers` returns."""
    if not hasattr(clusters, "center_offsets"):
        raise TypeError(f"clusters must be what cluster_layers returned, got {type(clusters).__name__}")


def check_not_empty(history: RWCHistory) -> None:
    """Raise `TypeError` if this is no history, and `ValueError` if there is nothing to draw."""
    if not hasattr(history, "moved_fraction"):
        raise TypeError(
            f"history must be an RWCHistory, got {type(history).__name__}; RWCHistory.load(path) reads a run folder, "
            "and monitor.history() returns what a monitor recorded"
        )
    if not len(history.steps) or not history.names:
        raise ValueError(
            f"history must hold at least one step of one layer, got {len(history.steps)} steps of "
            f"{len(history.names)} layers: record a step before drawing"
        )
