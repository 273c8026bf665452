"""A layer's level: one number that says how much the layer moves over some steps.

Letters: S recorded steps, L layers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..analysis.curves import FloatArray
from ..analysis.medians import finite_median
from ..record.history import RWCHistory


class LayerLevels(NamedTuple):
    """What `layer_levels` returns."""

    level: FloatArray  # [L] median RWC over the steps; NaN if RWC was finite at no step
    finite: NDArray[np.bool_]  # [L] whether the weights were finite at every step


def layer_levels(history: RWCHistory) -> LayerLevels:
    """The median RWC of each layer over the steps at which RWC is finite, and whether its weights were finite.

    A layer is not finite if one of its sums is NaN or infinite. An infinite RWC alone does not mean that: weights that
    begin at zero, such as LoRA's B, have an infinite RWC at their first step.

    Example:
        >>> history = RWCHistory(
        ...     names=("lora_B", "fc"), numel=np.array([4, 4]), kinds=("linear", "linear"), steps=np.array([1, 2]),
        ...     delta_l1=np.array([[1.0, 1.0], [1.0, np.nan]]), prev_l1=np.array([[0.0, 4.0], [4.0, 4.0]]),
        ...     moved=np.full((2, 2), 4))
        >>> layer_levels(history)
        LayerLevels(level=array([0.25, 0.25]), finite=array([ True, False]))
    """
    sums_are_finite = np.isfinite(history.delta_l1) & np.isfinite(history.prev_l1)  # [S, L]
    return LayerLevels(finite_median(history.rwc, axis=0), np.all(sums_are_finite, axis=0))
