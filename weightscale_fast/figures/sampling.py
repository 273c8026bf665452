"""Draw fewer points for the same picture: min-max thinning of curves, and running medians.

Letters: S recorded steps, L layers, N drawn points, W window.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..analysis.curves import FloatArray
from ..analysis.medians import finite_median

MOST_POINTS = 1000  # of one curve: more than its pixels
MANY_STEPS = 300  # above this a trend line is a running median
MOST_TREND_POINTS = 200  # of a running median: 5 per window


def thin(steps: NDArray[np.int64], values: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """Keep at most `MOST_POINTS` points of each curve: the lowest and the highest of every stretch, so spikes survive.

    Args:
        steps: [S].
        values: [S, L], with NaN in the gaps of a curve.

    Returns:
        The steps [N, L] and the values [N, L] to draw, in the order of the steps.
    """
    S, L = values.shape
    if S <= MOST_POINTS:
        return np.broadcast_to(steps[:, None], (S, L)), values
    width = -(-S // (MOST_POINTS // 2))
    index = np.minimum(np.arange(-(-S // width) * width), S - 1).reshape(
        -1, width
    )  # the last stretch repeats the last step
    stretches = values[index]  # [stretches, width, L]
    lowest = np.where(np.isnan(stretches), np.inf, stretches).argmin(axis=1)
    highest = np.where(np.isnan(stretches), -np.inf, stretches).argmax(axis=1)
    both = np.sort(np.stack([lowest, highest], axis=1), axis=1)  # [stretches, 2, L]
    rows = (index[:, :1, None] + both).reshape(-1, L).clip(max=S - 1)
    return steps[rows], np.take_along_axis(values, rows, axis=0)


def trend_window(S: int) -> int:
    """The steps in a trend line's running median: 1 (none) up to `MANY_STEPS` steps, then a fortieth, made odd."""
    return 1 if S <= MANY_STEPS else S // 40 | 1


def trend(steps: NDArray[np.int64], curve: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """The running median of a curve [S] at `MOST_TREND_POINTS` of its steps. Up to `MANY_STEPS`, the curve itself."""
    S = len(curve)
    half = trend_window(S) // 2
    at = np.linspace(0, S - 1, MOST_TREND_POINTS if half else S).astype(np.int64)
    padded = np.pad(curve, half, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)  # [S, W]
    return steps[at], finite_median(windows[at], axis=1)
