"""Heat maps: a row per layer, in network order; steps along x.

Letters: S recorded steps, L layers, N columns drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..analysis.curves import FloatArray
from ..text import count
from .sampling import MOST_POINTS
from .style import (
    INK,
    MUTED,
    NOT_FINITE_COLOUR,
    ZERO_COLOUR,
    axes_for,
    check_not_empty,
    name_label,
    rwc_unit,
    step_axis,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize

    from ..record.history import RWCHistory

LABEL_INCHES = 0.105  # a layer's label of 6.5 points, with the space above it
AROUND_INCHES = 1.1  # title and steps, above and below the map


@styled
def heat_map(history: RWCHistory, ax: Axes | None = None) -> Axes:
    """Draw the RWC of every layer at every step as colour, log scale, first layer on top.

    Grey is exactly 0 (no weight moved). Vermilion is not finite. Above 1,000 steps a column stands for several steps
    and shows the largest value, so spikes survive. The colours span the middle 99 % of the values. Values outside have
    the colour of the nearer end.

    Raises:
        ValueError: the history is empty.

    Example:
        `heat_map(history).figure.savefig("heat_map.png", dpi=200)`
    """
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Patch

    check_not_empty(history)
    values, edges, width = _columns(history, history.rwc, np.max)
    finite = np.isfinite(values)
    positive = np.where(finite & (values > 0), values, np.nan)
    low, high = np.nanquantile(positive, [0.005, 0.995]) if (positive > 0).any() else (0.1, 1.0)
    note = f"a column is the largest of {width} of them" if width > 1 else ""
    ax = layer_axes(history, ax, "Relative weight change, layer by layer", note, tallest=11)
    _paint(ax, edges, positive, LogNorm, (low, max(high, low * 2)), "viridis", rwc_unit(history), history.unit)
    marks = [(finite & (values == 0), ZERO_COLOUR, "0: no weight moved"), (~finite, NOT_FINITE_COLOUR, "not finite")]
    marks = [(where, colour, text) for where, colour, text in marks if where.any()]
    for where, colour, _ in marks:
        _mark(ax, edges, where, colour)
    if marks:
        patches = [Patch(color=colour, label=text) for _, colour, text in marks]
        ax.legend(handles=patches, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2, handlelength=1)
    return ax


@styled
def moved_fraction(history: RWCHistory, ax: Axes | None = None) -> Axes:
    """Draw the fraction of each layer's weights that changed at all, 0 to 1, at every step, first layer on top.

    Above 1,000 steps a column stands for several steps and shows their mean.

    Raises:
        ValueError: the history is empty.

    Example:
        `moved_fraction(history).figure.savefig("moved_fraction.png", dpi=200)`
    """
    from matplotlib.colors import Normalize

    check_not_empty(history)
    fraction = history.moved_fraction
    values, edges, width = _columns(history, fraction, np.mean)
    note = f"lowest {fraction.min():.3g}, median {np.median(fraction):.3g}"
    if width > 1:
        note = f"a column is the mean of {width} of them; {note}"
    ax = layer_axes(history, ax, "Fraction of the weights that moved", note, tallest=6)
    _paint(ax, edges, values, Normalize, (0, 1), "YlGnBu_r", "fraction of the weights", history.unit)
    return ax


def _columns(
    history: RWCHistory, values: FloatArray, summary: Callable[..., FloatArray]
) -> tuple[FloatArray, FloatArray, int]:
    """Combine the values [S, L] into at most `MOST_POINTS` columns.

    Returns:
        The columns [N, L], their edges in steps [N + 1], and the records per column.
    """
    S = len(values)
    width = -(-S // MOST_POINTS)
    starts = np.arange(0, S, width)
    firsts, lasts = history.steps[starts], history.steps[np.append(starts[1:], S) - 1]
    half = float(np.median(np.diff(history.steps))) / 2 if S > 1 else 0.5
    edges = np.concatenate([[firsts[0] - half], (lasts[:-1] + firsts[1:]) / 2, [lasts[-1] + half]])
    return np.stack([summary(values[i : i + width], axis=0) for i in starts]), edges, width


def layer_axes(history: RWCHistory, ax: Axes | None, title: str, note: str, tallest: float) -> Axes:
    """Axes with the layers' names on the left, as many as fit."""
    L = len(history.names)
    subtitle = f"{count(L, 'layer')} in network order, {count(len(history.steps), 'record')}"
    if note:
        subtitle += f"; {note}"
    own_height = float(np.clip(AROUND_INCHES + LABEL_INCHES * L, 3, tallest))
    height = own_height - AROUND_INCHES if ax is None else ax.bbox.height / ax.figure.dpi
    ax = axes_for(ax, title, subtitle, (9.6, own_height))
    every = max(1, int(np.ceil(L * LABEL_INCHES / height - 1e-9)))
    shown = np.arange(0, L, every)
    ax.set_yticks(shown + 1, [name_label(history.names[i]) for i in shown])
    ax.tick_params(axis="y", labelsize=6.5, length=2)
    ax.set_ylim(L + 0.5, 0.5)
    ax.spines[:].set_visible(False)
    return ax


def _paint(
    ax: Axes,
    edges: FloatArray,
    values: FloatArray,
    norm: type[Normalize],
    limits: tuple[float, float],
    colours: str,
    unit: str,
    steps_count: str,
) -> None:
    """Draw the values [N, L] with a colour bar in `unit`. In an SVG they are one image."""
    layers = np.arange(values.shape[1] + 1) + 0.5
    mesh = ax.pcolormesh(edges, layers, values.T, norm=norm(*limits), cmap=colours, rasterized=True)
    step_axis(ax, edges[0], edges[-1], steps_count)
    shown = values[np.isfinite(values)]
    outside = bool((shown < limits[0]).any()), bool((shown > limits[1]).any())
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[outside]
    bar = ax.figure.colorbar(mesh, ax=ax, pad=0.015, aspect=40, extend=extend, extendfrac=0.02)
    bar.set_label(unit)
    bar.ax.tick_params(labelsize=8, colors=MUTED, labelcolor=INK)
    bar.outline.set_visible(False)


def _mark(ax: Axes, edges: FloatArray, where: NDArray[np.bool_], colour: str) -> None:
    """Paint the cells where `where` [N, L] is true in one colour."""
    from matplotlib.colors import ListedColormap

    layers = np.arange(where.shape[1] + 1) + 0.5
    ax.pcolormesh(edges, layers, np.ma.masked_equal(where.T, False), cmap=ListedColormap([colour]), rasterized=True)
