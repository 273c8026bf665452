"""The authors' own way with curves, by name: what WeightScale did to them before its clustering.

Letters: L layers, T columns (steps or epochs).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .curves import FloatArray, check_finite

RECIPES = ("weightscale",)

FIXED = {"outliers": "two_sigma", "scale": "linear", "method": "kmeans"}  # by the recipe, after `weightscale_curves`


def weightscale_curves(names: tuple[str, ...], curves: NDArray[Any]) -> tuple[FloatArray, int]:
    """The curves the authors clustered: infinities replaced, the first and the last layer dropped.

    An infinity becomes (sum of the row's finite values) / (number of all its values, the infinite ones included): less
    than the mean of the finite ones, but so their notebooks have it (WeightScale; Agrawal, Tendle, Sikka, Singh).

    Call it on a whole network, and group its layers afterwards: it drops the network's first and last layer, not a
    group's.

    Args:
        names: of the layers, L of them, for errors.
        curves: [L, T], in network order; left as they are.

    Returns:
        a new matrix [L - 2, T], and how many infinities were replaced in it.

    Raises:
        ValueError: a NaN, or fewer than 4 layers.

    Example:
        >>> curves, replaced = weightscale_curves(("a", "b", "c", "d"), np.array([[9, 9], [1, np.inf], [2, 4], [9, 9]]))
        >>> curves, replaced
        (array([[1. , 0.5],
               [2. , 4. ]]), 1)
    """
    if len(curves) < 4:
        raise ValueError(
            'recipe="weightscale" drops the first and the last layer and clusters the rest, at least 2: '
            f"it needs 4 layers, got {len(curves)}; record more layers (layers=), or use recipe=None"
        )
    check_finite(names, curves, infinite_too=True)
    kept = np.array(curves[1:-1], dtype=np.float64, order="C")
    replaced = 0
    for row in kept:
        infinite = np.isinf(row)
        row[infinite] = row[~infinite].sum() / row.size
        replaced += int(np.count_nonzero(infinite))
    return kept, replaced


def check_recipe(recipe: str | None, **options: str) -> None:
    """Raise `ValueError` for an unknown recipe, or an option that contradicts what it fixes."""
    if recipe is None:
        return
    if recipe not in RECIPES:
        raise ValueError(f"recipe must be None or one of {', '.join(map(repr, RECIPES))}, got {recipe!r}")
    for option, value in options.items():
        if value not in (FIXED[option], "auto"):
            raise ValueError(
                f"recipe={recipe!r} means {option}={FIXED[option]!r}, got {value!r}; "
                f"leave {option} out, or use recipe=None"
            )
