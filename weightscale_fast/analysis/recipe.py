"""Recipes: what the authors of WeightScale did to the curves before they clustered them.

Letters: L layers, T columns (steps or epochs).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .curves import FloatArray, check_finite

RECIPES = ("weightscale",)

# The options that the recipe fixes, for the steps after `weightscale_curves`.
FIXED = {"outliers": "two_sigma", "scale": "linear", "method": "kmeans"}


def weightscale_curves(names: tuple[str, ...], curves: NDArray[Any]) -> tuple[FloatArray, int]:
    """Prepare the curves as the authors did: replace infinities, and drop the first and the last layer.

    An infinity becomes (sum of the row's finite values) / (number of all its values, including the infinite ones). This
    is less than the mean of the finite values, but it is what the authors' notebooks do (WeightScale; Agrawal, Tendle,
    Sikka, Singh).

    Call it on the whole network and group the layers afterwards, because it drops the first and the last layer of the
    network, not of a group.

    Args:
        names: the names of the L layers, for errors.
        curves: [L, T], in network order. They are not modified.

    Returns:
        A new matrix [L - 2, T], and the number of infinities that were replaced in it.

    Raises:
        ValueError: a value is NaN, or there are fewer than 4 layers.

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
    """Raise `ValueError` if the recipe is unknown, or if an option contradicts it."""
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
