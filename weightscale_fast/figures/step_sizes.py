"""The step of every layer in units of its learning rate, and the range that its optimizer implies.

Letters: S recorded steps, L layers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..analysis.curves import FloatArray
from .curves import drawable
from .layer_lines import SIZE, depth_bar, finish, lines_by_depth, subtitle
from .style import (
    INK,
    axes_for,
    check_not_empty,
    is_per_step,
    legend_below,
    name_label,
    steps_spanned,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..record.history import RWCHistory

BAND_COLOUR = "#dcefe0"
MOST_IMPLIED = 1e6  # learning rates

# The mean change of a weight in healthy runs, in units of the RMS that the optimizer implies. Measured.
ADAM = 0.03 / math.sqrt(0.1 / 1.9), 0.36 / math.sqrt(0.1 / 1.9)  # 0.03 to 0.36 rates at beta1 = 0.9
SIGN = 0.7, 1.1  # 1 for every weight with a gradient: less behind a ReLU, a little more with weight decay
MUON = 0.4, 1.0  # orthogonal matrices, but of the rank of the gradient


@styled
def step_sizes(history: RWCHistory, ax: Axes | None = None) -> Axes:
    """Draw every layer's step in units of its learning rate, log y, coloured by its depth in the network.

    This is `history.step_per_lr`, drawn as `rwc_curves` draws the RWC. The dashed line is the RMS of a step that the
    optimizer implies (`history.implied_step`). The pale band is where the layers of healthy runs are. Adam begins above
    it, because its first step is a whole learning rate. If the implied step differs from layer to layer, as with Muon,
    the band spans all of them, and there is no line. The band is that of one step. So there is none if a row spans
    several steps, and none for an optimizer that implies no step, such as SGD.

    Raises:
        ValueError: the history is empty, or no learning rate is known.

    Example:
        `step_sizes(history).figure.savefig("step_sizes.svg")`
    """
    check_not_empty(history)
    if not has_rates(history):
        raise ValueError(
            "history must have learning rates for this figure, got none: give the optimizer to the monitor, as in "
            "RWCMonitor(model, optimizer), and record again"
        )
    values = drawable(history.step_per_lr)
    implied = history.implied_step if is_per_step(history) else np.full(values.shape, np.nan)
    implied = np.where((implied > 0) & (implied < MOST_IMPLIED), implied, np.nan)  # it comes from a file
    ranges = _range(implied, history.observed.optimizer)
    note = subtitle(history, values, "lines: running medians", "", "zero, not finite or without a rate")
    if ranges is None:
        note += f"; {_why_no_range(history)}"
    ax = axes_for(ax, "Size of the steps in learning rates", note, SIZE)
    lines_by_depth(ax, history, values)
    unit = f"mean of |Δw| / learning rate, {steps_spanned(history)}"
    finish(ax, history, values, unit, "No step at a known rate above zero was recorded")
    if ranges is not None and ax.get_yscale() == "log":
        _draw_range(ax, history, implied, ranges)
    depth_bar(ax, history)
    if ax.get_legend_handles_labels()[0]:
        legend_below(ax)
    return ax


def has_rates(history: RWCHistory) -> bool:
    """Whether the learning rate of any layer is known at any row."""
    return not bool(np.isnan(history.lr).all())


def _range(implied: FloatArray, optimizer: str) -> tuple[float, float] | None:
    """The lowest and the highest mean step that is expected of any layer, from the implied ones [S, L]."""
    known = implied[~np.isnan(implied)]
    if not known.size:
        return None
    if "Muon" in optimizer:
        low, high = MUON
    elif (known == 1).all() and "Adam" not in optimizer:
        low, high = SIGN
    else:
        low, high = ADAM
    return low * float(known.min()), high * float(known.max())


def _why_no_range(history: RWCHistory) -> str:
    if not is_per_step(history):
        return "not one step, so no range"
    if "SGD" in history.observed.optimizer:
        return "SGD: the mean gradient, so no range"
    return f"no range is known for {name_label(history.observed.optimizer) or 'this optimizer'}"


def _draw_range(ax: Axes, history: RWCHistory, implied: FloatArray, ranges: tuple[float, float]) -> None:
    """Draw the band from the first row on where it is known, and the implied RMS if all layers have the same."""
    known = ~np.isnan(implied)
    first_known = int(known.any(axis=1).argmax())
    left, right = ax.get_xlim()
    start = left if first_known == 0 else float(history.steps[first_known])
    low, high = ranges
    sizes = implied[known]
    alike = sizes.min() == sizes.max()
    label = f"{low:.2g} to {high:.2g}: mean step in healthy runs{'' if alike else ', over all layers'}"
    ax.fill_between([start, right], low, high, color=BAND_COLOUR, linewidth=0, zorder=0, label=label)
    if alike:
        label = f"{sizes[0]:.2g}: RMS that {name_label(history.observed.optimizer) or 'the optimizer'} implies"
        ax.hlines(sizes[0], start, right, color=INK, linewidth=0.8, linestyle=(0, (5, 4)), zorder=3, label=label)
    bottom, top = ax.get_ylim()
    ax.set_xlim(left, right)
    ax.set_ylim(min(bottom, low / 1.3), max(top, high * 1.3))
