"""A thin line for each layer over the steps, on a log axis: what the figures of curves share.

Letters: S recorded steps, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..analysis.curves import FloatArray
from ..text import count
from .sampling import thin, trend, trend_window
from .style import GRID_COLOUR, INK, MUTED, name_label, step_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap, Normalize

    from ..record.history import RWCHistory

SIZE = (9.6, 5)
MOST_VECTOR_POINTS = 5_000  # of a figure: 0.15 MB of SVG
MANY_LINES = 1_000  # from here on they are one collection, which takes a tenth of the time and memory of single lines
FEW_POINTS = 1_000  # of a figure: up to this many, each point has a mark


def subtitle(history: RWCHistory, values: FloatArray, noisy: str, clear: str, missing: str) -> str:
    """The line under the title: how much is drawn, what the lines are, and how many values are `missing`, and why."""
    window = trend_window(len(history.steps))
    parts = [f"{count(values.shape[1], 'layer')}, {count(len(history.steps), 'record')}"]
    parts += [f"{noisy} over {window} records"] if window > 1 else [clear] if clear else []
    if number := int(np.isnan(values).sum()):
        parts.append(f"not drawn: {count(number, 'value')}, {missing}")
    return "; ".join(parts)


def lines_by_depth(ax: Axes, history: RWCHistory, values: FloatArray) -> None:
    """Draw the values [S, L], a line per layer in the colour of its depth."""
    colours, depth = _depth_colours(len(history.names))
    layer_lines(ax, history.steps, values, [colours(depth(i + 1), alpha=0.85) for i in range(len(history.names))])


def depth_bar(ax: Axes, history: RWCHistory) -> None:
    """Add the bar that names the layers beside their colours."""
    from matplotlib.cm import ScalarMappable

    L = len(history.names)
    colours, depth = _depth_colours(L)
    bar = ax.figure.colorbar(ScalarMappable(depth, colours), ax=ax, pad=0.02, aspect=35)
    ticks = np.unique(np.linspace(1, L, min(L, 9)).astype(int))
    bar.set_ticks(list(ticks), labels=[f"{i}  {name_label(history.names[i - 1])}" for i in ticks], fontsize=7.5)
    bar.ax.minorticks_off()
    bar.ax.invert_yaxis()
    bar.ax.set_title("layer", loc="left", fontsize=8.5, fontweight="normal")
    bar.ax.tick_params(colors=MUTED, labelcolor=INK)
    bar.outline.set_visible(False)


def _depth_colours(L: int) -> tuple[ListedColormap, Normalize]:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, Normalize

    colours = ListedColormap(colormaps["viridis"](np.linspace(0, 0.88, 256)))  # its yellow is too light for lines
    return colours, Normalize(0.5, L + 0.5)


def layer_lines(ax: Axes, steps: NDArray[np.int64], values: FloatArray, colours: list[Any]) -> None:
    """Draw a thin line per layer. With many steps it is the running median, over a pale line of the steps."""
    noisy = trend_window(len(steps)) > 1
    x, y = thin(steps, values)
    pale = float(np.clip(5 / len(colours), 0.04, 0.15))
    as_image = y.size > MOST_VECTOR_POINTS  # inside an SVG
    if len(colours) >= MANY_LINES and len(steps) > 1:
        _collect(ax, list(np.stack([x, y], axis=2).swapaxes(0, 1)), [(*c[:3], pale) if noisy else c for c in colours])
        if noisy:
            lines = [np.column_stack(trend(steps, values[:, i])) for i in range(len(colours))]
            _collect(ax, lines, colours)
        return
    for i, colour in enumerate(colours):
        ax.plot(
            x[:, i],
            y[:, i],
            color=(*colour[:3], pale) if noisy else colour,
            linewidth=0.8,
            marker="." if len(steps) == 1 or y.size <= FEW_POINTS else None,
            markersize=6 if len(steps) == 1 else 3,
            rasterized=as_image,
        )
    if noisy:
        for i, colour in enumerate(colours):
            ax.plot(*trend(steps, values[:, i]), color=colour, linewidth=0.8, rasterized=as_image)


def _collect(ax: Axes, lines: Sequence[NDArray[Any]], colours: list[Any]) -> None:
    """Draw many lines, each of points [n, 2]."""
    from matplotlib.collections import LineCollection

    ax.add_collection(LineCollection(lines, colors=colours, linewidths=0.8, rasterized=True))


def finish(ax: Axes, history: RWCHistory, values: FloatArray, unit: str, nothing: str) -> None:
    """Set both axes: log y over the drawn values, whole steps along x. Without a value, write `nothing`."""
    ax.set_ylabel(unit)
    first, last = float(history.steps[0]), float(history.steps[-1])
    margin = (last - first) * 0.01 or 0.5
    step_axis(ax, first - margin, last + margin, history.unit)
    ax.grid(axis="y", color=GRID_COLOUR)
    ax.set_axisbelow(True)
    drawn = values[~np.isnan(values)]
    if not drawn.size:
        ax.set_yticks([])
        ax.text(0.5, 0.5, nothing, transform=ax.transAxes, ha="center", color=INK)
        return
    ax.set_yscale("log")
    # A last step at a learning rate of almost 0 must not flatten the other curves. High values are never cut.
    ax.set_ylim(max(drawn.min(), np.quantile(drawn, 0.005) / 3) / 1.3, drawn.max() * 1.3)
