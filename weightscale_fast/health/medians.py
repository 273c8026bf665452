"""median_of_others: what a layer is compared with.

Letters: B blocks, L layers.
"""

from __future__ import annotations

import numpy as np

from .block import FloatArray


def median_of_others(levels: FloatArray) -> FloatArray:
    """[B, L] for each layer the median of the other layers in its row, without those that are 0 or not finite.

    Example:
        >>> median_of_others(np.array([[1.0, 2.0, 4.0, 0.0]]))
        array([[3. , 2.5, 1.5, 2. ]])
    """
    counted = np.isfinite(levels) & (levels > 0)
    ordered = np.sort(np.where(counted, levels, np.inf), axis=1)
    rank = np.where(counted, np.argsort(np.argsort(np.where(counted, levels, np.inf), axis=1), axis=1), levels.shape[1])
    others = counted.sum(axis=1, keepdims=True) - counted  # [B, L] how many others
    low, high = np.maximum(others - 1, 0) // 2, others // 2
    low, high = low + (low >= rank), high + (high >= rank)  # skip the layer itself
    last = levels.shape[1] - 1
    middle = [np.take_along_axis(ordered, np.minimum(index, last), axis=1) for index in (low, high)]
    return np.where(others > 0, (middle[0] + middle[1]) / 2, np.nan)
