"""The figures of a comparison: the map of layers and steps, the growth, and the curves of the layers that lead.

Letters: S common rows, L common layers, N columns drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..figures.sampling import MOST_POINTS, thin, trend
from ..figures.style import (
    CLUSTER_COLOURS,
    GRID_COLOUR,
    INK,
    MUTED,
    ZERO_COLOUR,
    axes_for,
    legend_below,
    name_label,
    plain_text,
    step_axis,
    styled,
    tint,
)
from ..record.history import FloatArray
from ..text import count
from .difference import BoolArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .result import Comparison

LABEL_INCHES, AROUND_INCHES, TALLEST = 0.105, 1.1, 11.0  # of the map
ONE_ONLY_COLOUR = "#009E73"  # neither grey, orange nor purple
MOST_CURVES = 4  # layers in the figure of curves
SIZE = (9.6, 4.2)


@styled
def difference_map(comparison: Comparison) -> Axes:
    """Draw log2(RWC of A / RWC of B) of every layer at every row, first layer on top.

    Orange is where A moves more, and purple where B does. Grey is where all sums have the same bits. Green is
    where the RWC of one run is 0 or not finite. Above 1,000 rows a
    column stands for several rows and shows the largest difference.
    """
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.patches import Patch

    L = len(comparison.names)
    values, equal, edges, width = _columns(comparison)
    height = float(np.clip(AROUND_INCHES + LABEL_INCHES * L, 3, TALLEST))
    note = f"{count(L, 'layer')} in network order, {count(len(comparison.steps), 'row')}"
    if width > 1:
        note += f"; a column is the largest difference of {width} rows"
    ax = axes_for(None, "Where the runs differ: log2 of RWC of A / RWC of B", note, (9.6, height))
    finite = np.isfinite(values)
    shown = np.abs(values[finite & ~equal])
    limit = max(float(np.quantile(shown, 0.99)), 1e-12) if shown.size else 1.0
    layers = np.arange(L + 1) + 0.5
    colours = np.where(finite & ~equal, values, np.nan)
    mesh = ax.pcolormesh(edges, layers, colours.T, norm=Normalize(-limit, limit), cmap="PuOr_r", rasterized=True)
    marks = [(equal, ZERO_COLOUR, "same bits"), (~finite, ONE_ONLY_COLOUR, "0 or not finite in one run only")]
    marks = [mark for mark in marks if mark[0].any()]
    for where, colour, _ in marks:
        only = np.ma.masked_equal(where.T, False)
        ax.pcolormesh(edges, layers, only, cmap=ListedColormap([colour]), rasterized=True)
    _first_mark(ax, comparison)
    every = max(1, int(np.ceil(L * LABEL_INCHES / (height - AROUND_INCHES) - 1e-9)))
    rows = np.arange(0, L, every)
    ax.set_yticks(rows + 1, [name_label(comparison.names[i]) for i in rows])
    ax.tick_params(axis="y", labelsize=6.5, length=2)
    ax.set_ylim(L + 0.5, 0.5)
    ax.spines[:].set_visible(False)
    step_axis(ax, edges[0], edges[-1], comparison.unit)
    bar = ax.figure.colorbar(mesh, ax=ax, pad=0.015, aspect=40, extend="both", extendfrac=0.02)
    bar.set_label("log2(A / B); above 0: A moves more")
    bar.ax.tick_params(labelsize=8, colors=MUTED, labelcolor=INK)
    bar.outline.set_visible(False)
    patches = [Patch(color=colour, label=text) for _, colour, text in marks]
    if patches:
        ax.legend(handles=patches, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0.2, handlelength=1)
    return ax


def _first_mark(ax: Axes, comparison: Comparison) -> None:
    """A thin line at the first row that differs in bits."""
    if comparison.first is not None and comparison.first.last_equal is not None:
        between = (comparison.first.step + comparison.first.last_equal) / 2
        ax.axvline(between, color=INK, linewidth=0.8, linestyle=(0, (5, 4)))


def _columns(comparison: Comparison) -> tuple[FloatArray, BoolArray, FloatArray, int]:
    """At most `MOST_POINTS` columns: the largest differences [N, L], whether all bits are equal [N, L], their edges
    [N + 1], and the rows of a column."""
    S, steps = len(comparison.steps), comparison.steps
    width = -(-S // MOST_POINTS)
    starts = np.arange(0, S, width)
    columns, equal = [], []
    for start in starts:
        part = comparison.log2[start : start + width]
        largest = np.abs(part).argmax(axis=0)
        columns.append(np.take_along_axis(part, largest[None], axis=0)[0])
        equal.append(~comparison.bits[start : start + width].any(axis=0))
    firsts, lasts = steps[starts], steps[np.append(starts[1:], S) - 1]
    half = float(np.median(np.diff(steps))) / 2 if S > 1 else 0.5
    edges = np.concatenate([[firsts[0] - half], (lasts[:-1] + firsts[1:]) / 2, [lasts[-1] + half]])
    return np.stack(columns), np.stack(equal), edges, width


@styled
def growth_curve(comparison: Comparison) -> Axes:
    """Draw how far apart the median layer is at every row, and the noise floor, log y."""
    growth = comparison.growth
    noise = f"A against {count(growth.repeats, 'repeat')}" if growth.repeats else "A against its own row before"
    ax = axes_for(None, "How the difference grows", "median over the layers of |log2(A / B)|; 1 is a factor of 2", SIZE)
    for values, colour, label in (
        (growth.floor, "#80868b", f"noise: {noise}"),
        (growth.size, CLUSTER_COLOURS[0], "A against B"),
    ):
        drawable = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        _curve(ax, comparison, drawable, colour, "-", label)
    _finish(ax, comparison, "median of |log2(A / B)|")
    _first_mark(ax, comparison)
    return ax


@styled
def leading_curves(comparison: Comparison) -> Axes:
    """Draw the RWC of up to four layers that differ first, A as a line and B as dashes of the same colour, log y."""
    differ = [i for i in comparison.order if comparison.first_rows[i] >= 0] or comparison.order
    chosen = differ[:MOST_CURVES]
    ax = axes_for(None, "RWC of the layers that differ first", "lines: A; dashes: B", SIZE)
    for colour, i in zip(CLUSTER_COLOURS, chosen, strict=False):
        for rwc, line, label in (
            (comparison.rwc_a, "-", name_label(comparison.names[i])),
            (comparison.rwc_b, "--", ""),
        ):
            values = np.where(np.isfinite(rwc[:, i]) & (rwc[:, i] > 0), rwc[:, i], np.nan)
            _curve(ax, comparison, values, colour, line, label)
    _finish(ax, comparison, "RWC")
    _first_mark(ax, comparison)
    return ax


def _curve(ax: Axes, comparison: Comparison, values: FloatArray, colour: str, line: str, label: str) -> None:
    """A curve; of many rows its running median, over a pale line of the rows."""
    steps = comparison.steps
    x, y = thin(steps, values[:, None])
    smooth_steps, smooth = trend(steps, values)
    if len(smooth) < len(steps):
        ax.plot(x[:, 0], y[:, 0], color=tint(colour, 0.3), linewidth=0.6, rasterized=True)
    marker = "." if len(steps) < 50 else None
    ax.plot(smooth_steps, smooth, color=colour, linestyle=line, linewidth=1.4, marker=marker, label=label or None)


def _extent(comparison: Comparison) -> tuple[float, float]:
    first, last = float(comparison.steps[0]), float(comparison.steps[-1])
    margin = (last - first) * 0.01 or 0.5
    return first - margin, last + margin


def _finish(ax: Axes, comparison: Comparison, label: str) -> None:
    ax.set_ylabel(plain_text(label))
    step_axis(ax, *_extent(comparison), comparison.unit)
    ax.grid(axis="y", color=GRID_COLOUR)
    ax.set_axisbelow(True)
    legend_below(ax)
    if any(np.isfinite(np.asarray(line.get_ydata(), float)).any() for line in ax.lines):
        ax.set_yscale("log")
        return
    ax.set_yticks([])
    ax.text(0.5, 0.5, "No finite value above zero", transform=ax.transAxes, ha="center", color=INK)
