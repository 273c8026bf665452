"""The definitions of Relative Weight Change, formed from the sums of a layer, for tensors and numpy arrays."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import check_one_of

DEFINITIONS = ("norm_ratio", "mean_ratio", "l2_ratio")

Values = TypeVar("Values", Tensor, NDArray[Any])


def check_definition(definition: str) -> None:
    """Raise `ValueError` unless `definition` is one of `DEFINITIONS`."""
    check_one_of("definition", definition, DEFINITIONS)


def norm_ratio(delta_l1: Values, prev_l1: Values) -> Values:
    """||w_t - w_prev||_1 / ||w_prev||_1, Eq. 1 of WeightScale and of arXiv 2011.06735.

    0/0 is 0, because nothing was there and nothing moved. x/0 is inf. NaN stays NaN. x/inf is NaN: a sum that
    overflowed is not known, and a layer that runs away must not look still.

    Example:
        >>> norm_ratio(np.array([1.0, 0.0, 2.0]), np.array([4.0, 0.0, 0.0]))
        array([0.25, 0.  ,  inf])
    """
    if isinstance(delta_l1, Tensor):
        return (delta_l1 / prev_l1).masked_fill_(prev_l1 == torch.inf, torch.nan).masked_fill_(delta_l1 == 0, 0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.where(prev_l1 == np.inf, np.nan, delta_l1 / prev_l1)
        return np.where(delta_l1 == 0, 0.0, ratio)


def l2_ratio(delta_l2: Values, prev_l2: Values) -> Values:
    """||w_t - w_prev||_2 / ||w_prev||_2, which others call the update-to-weight ratio.

    A few weights that move far count more here than in `norm_ratio`. The rules for 0, inf and NaN are the same.

    Example:
        >>> l2_ratio(np.array([1.0, 0.0, 2.0]), np.array([4.0, 0.0, 0.0]))
        array([0.25, 0.  ,  inf])
    """
    return norm_ratio(delta_l2, prev_l2)


def mean_ratio(ratio_sum: Values, numel: Values) -> Values:
    """The mean over a layer's weights of |w_t - w_prev| / |w_prev|. The authors' code computed it for their figures.

    The arithmetic is plain IEEE: one zero weight that moves makes the layer inf, and one that stays makes it NaN. For
    weights with density at zero the expectation is not finite, so single weights dominate the mean. `norm_ratio` does
    not have this problem. A layer without weights gives 0.

    Example:
        >>> mean_ratio(np.array([3.0, 0.0]), np.array([4, 0]))
        array([0.75, 0.  ])
    """
    ratio: Values = ratio_sum / numel.clip(min=1)
    return ratio
