"""Check the options of `cluster_layers` before it does any work."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import check_one_of
from .clean import OUTLIERS
from .recipe import check_recipe
from .scale import check_scale

METHODS = ("kmeans", "hdbscan")
SPACES = ("raw", "pca")


def check_options(
    *, k: Any, k_max: Any, n_init: Any, recipe: str | None, scale: str, outliers: str, space: str, method: str
) -> tuple[str, str]:
    """Return the `scale` and the `outliers` to use: `outliers="log"` is short for the log scale and no cleaning.

    Raises:
        ValueError: `cluster_layers` does not list an option, or two options contradict each other.

    Example:
        >>> check_options(k="auto", k_max=17, n_init=50, recipe=None, scale="auto", outliers="log", space="raw",
        ...               method="kmeans")
        ('log', 'none')
    """
    if not (isinstance(k, str) and k == "auto"):
        _check_count("k", k, 'or "auto"')
    _check_count("k_max", k_max)
    _check_count("n_init", n_init)
    check_one_of("space", space, SPACES)
    check_one_of("method", method, METHODS)
    check_scale(scale)
    check_one_of("outliers", outliers, (*OUTLIERS, "log"))
    check_recipe(recipe, outliers=outliers, scale=scale, method=method)
    if method == "hdbscan" and k != "auto":
        raise ValueError(f'method="hdbscan" finds the number of clusters itself, got k={k}; leave k out')
    if recipe is not None:
        return "linear", outliers
    if outliers == "log":
        if scale == "linear":
            raise ValueError('outliers="log" means scale="log", got scale="linear"; leave one of them out')
        return "log", "none"
    return scale, outliers


def _check_count(argument: str, value: Any, or_else: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{argument} must be an integer of at least 1 {or_else}".rstrip() + f", got {value!r}")
