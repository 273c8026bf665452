"""The part of a record that can be clustered: without what is not finite, and without layers that never moved.

Letters: S recorded steps, L layers, T columns of the curves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..text import count, listing
from .curves import FloatArray, IntArray, span
from .result import LayerClusters

if TYPE_CHECKING:
    from ..record.history import RWCHistory


def made_part(history: RWCHistory) -> tuple[RWCHistory, list[str]]:
    """The record without the rows of steps that a gradient scaler skipped, and a sentence on them, if there are any."""
    # [S]; a row of several steps may have moved although one of them was skipped
    empty = history.skipped & (history.moved == 0).all(axis=1)
    if not empty.any() or empty.all():
        return history, []
    rows = count(int(empty.sum()), "row")
    return history.select(steps=~empty), [f"left out {rows} of steps that a gradient scaler skipped"]


def finite_part(history: RWCHistory) -> tuple[RWCHistory, list[str]]:
    """The part of the record that was made and is finite, and sentences on what was left out, if anything was.

    Rows of steps that a gradient scaler skipped are left out. Then steps are left out, or layers, whichever loses less:
    the steps after a run diverged, or a layer that is NaN while the others train on.

    Example:
        >>> from weightscale_fast import RWCHistory
        >>> history = RWCHistory(
        ...     names=("conv", "fc"), numel=np.array([9, 4]), kinds=("conv", "linear"), steps=np.array([1, 2, 3]),
        ...     delta_l1=np.array([[1.0, 1.0], [1.0, 1.0], [np.nan, np.nan]]), prev_l1=np.ones((3, 2)),
        ...     moved=np.full((3, 2), 4))
        >>> finite_part(history)
        (RWCHistory(2 layers, 13 weights, 2 rows: optimizer steps 1 to 2),
         ['optimizer step 3 is left out: 2 layers were not finite (conv, fc)'])
    """
    history, notes = made_part(history)
    finite = np.isfinite(history.delta_l1) & np.isfinite(history.prev_l1)  # [S, L]
    if history.ratio_sum is not None:
        finite &= ~np.isnan(history.ratio_sum)
    if history.delta_l2 is not None and history.prev_l2 is not None:
        finite &= np.isfinite(history.delta_l2) & np.isfinite(history.prev_l2)
    if finite.all():
        return history, notes
    rows: NDArray[np.bool_] = finite.all(axis=1)  # type: ignore[assignment]
    layers: NDArray[np.bool_] = finite.all(axis=0)  # type: ignore[assignment]
    bad = [history.names[i] for i in np.flatnonzero(~layers)]
    if rows.mean() >= layers.mean():
        left_out = span(history.steps, ~rows, history.unit)
        verb = "is" if (~rows).sum() == 1 else "are"
        return history.select(steps=rows), [
            *notes,
            f"{left_out} {verb} left out: {count(len(bad), 'layer')} {_were(len(bad))} not finite ({listing(bad)})",
        ]
    kept = {history.names[i] for i in np.flatnonzero(layers)}
    when = span(history.steps, ~rows, history.unit)
    return history.select(kept.__contains__), [
        *notes,
        f"{count(len(bad), 'layer')} {_were(len(bad))} not finite at {when} and left out: {listing(bad)}",
    ]


def left_out_of_clusters(history: RWCHistory, clusters: LayerClusters) -> list[str]:
    """Sentences on what the clusters leave out of a finite record."""
    notes = []
    clustered = set(clusters.rows.tolist())
    still = [name for i, name in enumerate(history.names) if i not in clustered and not history.moved[:, i].any()]
    if still and clusters.recipe is None:
        notes.append(
            f"{count(len(still), 'layer')} did not move and {_are(len(still))} not clustered: {listing(still)}"
        )
    if clusters.infinities_replaced and clusters.recipe is None:
        notes.append(
            f"{count(clusters.infinities_replaced, 'value')} {_are(clusters.infinities_replaced)} infinite, because "
            "weights were 0 before the step; in the clusters, the layer's next value stands there"
        )
    return notes


def fits(history: RWCHistory, clusters: LayerClusters) -> bool:
    """Whether the clusters' rows are the layers of this history with the same names."""
    rows = clusters.rows.tolist()
    return all(row < len(history.names) for row in rows) and clusters.names == tuple(history.names[i] for i in rows)


def moving_rows(matrix: NDArray[Any]) -> IntArray:
    """The rows of `matrix` [L, T] that are not 0 throughout. If there are fewer than two, all rows."""
    moving = np.flatnonzero((matrix != 0).any(axis=1))
    return moving if len(moving) >= 2 else np.arange(len(matrix))


def fill_infinities(matrix: FloatArray) -> int:
    """Replace each infinity of `matrix` [L, T] in place by the row's next finite value, or else by the one before.

    Weights that begin at 0 (LoRA's B, a zero convolution) have an infinite RWC at the step at which they first move. A
    row without any finite value stays as it is.

    Returns:
        The number of replaced values.

    Example:
        >>> curves = np.array([[np.inf, 0.5, 0.25, np.inf], [1.0, 1.0, 1.0, 1.0]])
        >>> fill_infinities(curves), curves[0]
        (2, array([0.5 , 0.5 , 0.25, 0.25]))
    """
    replaced = 0
    for row in matrix:
        infinite = np.isinf(row)
        good = np.flatnonzero(~infinite)
        if infinite.any() and len(good):
            at = np.flatnonzero(infinite)
            row[at] = row[good[np.minimum(np.searchsorted(good, at), len(good) - 1)]]
            replaced += len(at)
    return replaced


def _were(n: int) -> str:
    return "was" if n == 1 else "were"


def _are(n: int) -> str:
    return "is" if n == 1 else "are"
