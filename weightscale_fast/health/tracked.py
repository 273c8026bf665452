"""summarize: some steps of a record in a few numbers, for a network with any number of layers.

Letters: S recorded steps, L layers.
"""

from __future__ import annotations

import numpy as np

from ..record.history import RWCHistory
from .levels import layer_levels

QUANTILES = {"min": 0.0, "q25": 0.25, "median": 0.5, "q75": 0.75, "max": 1.0}


def summarize(history: RWCHistory, prefix: str = "rwc") -> dict[str, float]:
    """Eight numbers for a tracker, or ten. Their names are the same for every network.

    One curve for each layer would be hundreds of scalars per step. Trackers are slow with so many, and their charts
    become unreadable. These numbers show whether a run is healthy. The figures and the report show which layers
    do what. If L2 was recorded, two more follow.

    Args:
        history: the steps to sum up, such as `RWCMonitor.recent` returns.
        prefix: the first part of the names, such as `"rwc"` in `"rwc/median"`.

    Returns:
        | name | what it is |
        |---|---|
        | `min`, `q25`, `median`, `q75`, `max` | quantiles over the layers, of each layer's median RWC over the steps |
        | `moved_fraction` | the fraction of all weights that changed in a step, 0 to 1 |
        | `layers_still` | the number of layers that never moved; the quantiles leave them out, unless none moved |
        | `layers_not_finite` | the number of layers with NaN or infinite weights; the quantiles leave them out |
        | `rms_step` | if L2 was recorded: the RMS of a weight's change, of all weights and steps |
        | `delta_max` | if L2 was recorded: the largest change of a weight |

    Raises:
        ValueError: the history has no rows.

    Example:
        >>> from weightscale_fast import RWCHistory
        >>> history = RWCHistory(
        ...     names=("conv", "fc"), numel=np.array([9, 4]), kinds=("conv", "linear"), steps=np.array([1, 2]),
        ...     delta_l1=np.array([[1.0, 0.0], [3.0, 0.0]]), prev_l1=np.array([[4.0, 2.0], [4.0, 2.0]]),
        ...     moved=np.array([[9, 0], [4, 0]]))
        >>> summarize(history)
        {'rwc/min': 0.5, 'rwc/q25': 0.5, 'rwc/median': 0.5, 'rwc/q75': 0.5, 'rwc/max': 0.5,
         'rwc/moved_fraction': 0.5, 'rwc/layers_still': 1, 'rwc/layers_not_finite': 0}
    """
    if not len(history):
        raise ValueError("the history has no rows: record at least one step before you sum it up")
    level, finite = layer_levels(history)
    still = (history.moved == 0).all(axis=0)
    known = finite & ~np.isnan(level)
    levels = level[known & ~still] if (known & ~still).any() else level[known]
    numbers = {name: float(np.quantile(levels, q)) if len(levels) else np.nan for name, q in QUANTILES.items()}
    numbers["moved_fraction"] = float(history.moved.sum() / max(len(history) * history.numel.sum(), 1))
    numbers["layers_still"] = int(still.sum())
    numbers["layers_not_finite"] = int((~finite).sum())
    if history.delta_l2 is not None and history.delta_max is not None:
        weights = len(history) * history.numel.sum()
        numbers["rms_step"] = float(np.sqrt(np.square(history.delta_l2).sum() / max(weights, 1)))
        numbers["delta_max"] = float(history.delta_max.max(initial=0.0))
    return {f"{prefix}/{name}": number for name, number in numbers.items()}
