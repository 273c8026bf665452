"""Rates: the learning rate and the weight decay of each layer in each row, as the optimizer had them.

Letters: n rows, U different rates in a row, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAMES = ("lr", "weight_decay", "rate_of")  # the arrays in a file


@dataclass(frozen=True, eq=False)
class Rates:
    """The rates of n rows. Most optimizers have one or a few groups, so layers share columns.

    Args:
        lr: [n, U] learning rates; NaN where they are not known.
        weight_decay: [n, U] the same for the weight decay.
        rate_of: [L] the column of each layer.

    Example:
        >>> rates = Rates(np.array([[0.1, 0.01]]), np.zeros((1, 2)), np.array([0, 0, 1], np.int32))
        >>> rates.of_layers(rates.lr)
        array([[0.1 , 0.1 , 0.01]])
    """

    lr: NDArray[np.float64]
    weight_decay: NDArray[np.float64]
    rate_of: NDArray[np.int32]

    @classmethod
    def unknown(cls, n: int, layers: int) -> Rates:
        """NaN for n rows."""
        nothing = np.full((n, 1), np.nan)
        return cls(nothing, nothing.copy(), np.zeros(layers, np.int32))

    def __len__(self) -> int:
        return len(self.lr)

    def __getitem__(self, rows: slice | NDArray[Any]) -> Rates:
        """The rates of some of the rows."""
        return Rates(self.lr[rows], self.weight_decay[rows], self.rate_of)

    def columns(self, layers: Sequence[int]) -> Rates:
        """The rates of some of the layers."""
        return Rates(self.lr, self.weight_decay, self.rate_of[layers])

    def of_layers(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """[n, L] `lr` or `weight_decay` with a column for each layer."""
        return np.ascontiguousarray(values[:, self.rate_of])

    @property
    def nbytes(self) -> int:
        """The memory of the arrays, in bytes."""
        return self.lr.nbytes + self.weight_decay.nbytes + self.rate_of.nbytes

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays for a file. Equal rates of all layers give equal arrays, however the rates were put together."""
        both = np.concatenate([self.lr, self.weight_decay])  # [2n, U]
        used, rate_of = np.unique(self.rate_of, return_inverse=True)
        bits = np.ascontiguousarray(both[:, used] + 0.0).view(np.int64)  # as whole numbers, because NaN is not NaN
        bits, column = np.unique(bits, axis=1, return_inverse=True)
        lr, weight_decay = np.split(np.ascontiguousarray(bits).view(np.float64), 2)
        return {"lr": lr, "weight_decay": weight_decay, "rate_of": column.reshape(-1)[rate_of].astype(np.int32)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], n: int, layers: int) -> Rates | None:
        """The rates from the arrays of a file; None if it has none.

        Raises:
            ValueError: an array is missing, or they do not fit together.
        """
        given = {name: arrays[name] for name in NAMES if name in arrays}
        if not given:
            return None
        if len(given) == len(NAMES):
            lr, weight_decay, rate_of = given.values()
            columns = lr.shape[-1] if lr.ndim else 0
            fits = lr.dtype == weight_decay.dtype == np.float64 and rate_of.dtype == np.int32
            fits &= lr.shape == weight_decay.shape == (n, columns) and rate_of.shape == (layers,)
            if fits and (not layers or 0 <= rate_of.min() <= rate_of.max() < columns):
                return cls(lr, weight_decay, rate_of)
        wrong = [f"{name} {array.dtype} {list(array.shape)}" for name, array in given.items()]
        raise ValueError(
            f"expected {', '.join(NAMES)} of {n} steps for {layers} layers, got {', '.join(wrong)}, or a layer whose "
            "column is not there"
        )


def join(parts: Sequence[Rates]) -> Rates:
    """The rates of all parts, one after the other. There must be at least one."""
    first = parts[0]
    if all(part.lr.shape[1] == first.lr.shape[1] and np.array_equal(part.rate_of, first.rate_of) for part in parts):
        rate_of, layer_of = np.asarray(first.rate_of, np.intp), None
    else:  # a column for each combination of columns that some layer has in the parts
        columns = np.stack([part.rate_of for part in parts])  # [parts, L]
        _, layer_of, rate_of = np.unique(columns, axis=1, return_index=True, return_inverse=True)
        rate_of = rate_of.reshape(-1)
    lr = [part.lr if layer_of is None else part.lr[:, part.rate_of[layer_of]] for part in parts]
    decay = [part.weight_decay if layer_of is None else part.weight_decay[:, part.rate_of[layer_of]] for part in parts]
    return Rates(np.concatenate(lr), np.concatenate(decay), rate_of.astype(np.int32))
