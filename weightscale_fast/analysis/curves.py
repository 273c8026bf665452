"""Turn an array or a history into a checked matrix of curves with a name for every row.

Letters: S recorded steps, L layers, T columns (steps or epochs).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..text import listing

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

TRANSPOSED = 5.0  # columns that differ so many times as much as rows look like layers


class CurveRecord(Protocol):
    """The part of `RWCHistory` that the analysis needs."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def rwc(self) -> NDArray[Any]: ...


def named_curves(curves: ArrayLike | CurveRecord) -> tuple[tuple[str, ...], NDArray[Any]]:
    """The names [L] and the matrix [L, T] of `curves`. It is checked to be real and large enough to cluster.

    Args:
        curves: an array-like [L, T], whose rows get the names "layer 0", "layer 1", ...; or a history: an object with
            `names` [L] and `rwc` [S, L], which is transposed. An array that looks transposed gets a warning.

    The matrix keeps its dtype. It is not copied unless numpy must copy it.

    Raises:
        ValueError: the curves are not a two-dimensional matrix of real numbers, there are fewer than two layers or
            columns, the number of names is not L, or a name occurs twice.

    Example:
        >>> named_curves([[0.1, 0.2], [0.3, 0.4]])[0]
        ('layer 0', 'layer 1')
    """
    if hasattr(curves, "rwc") and hasattr(curves, "names"):
        names = tuple(curves.names)
        matrix = _as_matrix(curves.rwc).T
        _check_names(names, len(matrix))
    else:
        matrix = _as_matrix(curves)
        _warn_if_transposed(matrix)
        names = tuple(f"layer {i}" for i in range(len(matrix)))
    _check_size(*matrix.shape)
    return names, matrix


def _as_matrix(values: Any) -> NDArray[Any]:
    try:
        matrix = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"curves must be a matrix [layers, columns] with rows of one length: {error}") from error
    if matrix.dtype.kind not in "fiu":
        raise ValueError(
            f"curves must hold real numbers, got dtype {matrix.dtype} from a {type(values).__name__}; "
            "pass an array [layers, columns] or a history with names and rwc"
        )
    if matrix.ndim != 2:
        raise ValueError(
            f"curves must have two dimensions [layers, columns], got shape {list(matrix.shape)}; "
            "give one row a layer and one column a step"
        )
    return matrix


def _warn_if_transposed(matrix: NDArray[Any]) -> None:
    """Warn if the rows look like steps: they outnumber the columns, and from one to the next they differ far less.

    From step to step a curve changes little, and from layer to layer much: in recorded runs 9 to 22 times as much.
    """
    if matrix.shape[0] <= matrix.shape[1] or matrix.shape[1] < 2:
        return
    down, across = (np.median(np.abs(np.diff(matrix.astype(np.float64), axis=axis))) for axis in (0, 1))
    if 0 < TRANSPOSED * down < across:
        R, T = matrix.shape
        warnings.warn(
            f"the {R} rows of this array look like steps and its {T} columns like layers, but each row is taken as a "
            "layer; history.rwc is [steps, layers]: pass the history itself, or history.rwc.T",
            stacklevel=5,
        )


def _check_names(names: tuple[str, ...], n_layers: int) -> None:
    if len(names) != n_layers:
        raise ValueError(
            f"names must be one a column of rwc [steps, layers], got {len(names)} names for {n_layers} columns"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"names must differ, but {listing(twice)} come more than once; rename those layers")


def _check_size(n_layers: int, n_columns: int) -> None:
    if n_layers < 2:
        raise ValueError(
            f"curves must have at least 2 layers, got {n_layers}: one layer cannot be clustered; "
            "record more layers (layers=), or plot the curve itself"
        )
    if n_columns < 2:
        raise ValueError(
            f"curves must have at least 2 columns, got {n_columns}: one step cannot be clustered; record more steps"
        )


def check_finite(
    names: tuple[str, ...], matrix: NDArray[Any], *, infinite_too: bool = False, steps: IntArray | None = None
) -> None:
    """Raise `ValueError` if a value of `matrix` [L, T] is NaN or infinite.

    Args:
        names: of the layers.
        matrix: the curves.
        infinite_too: allows infinities.
        steps: the steps of the columns, if they are known.

    Example:
        >>> check_finite(("conv", "fc"), np.array([[0.1, np.inf], [0.3, 0.4]]), infinite_too=True)
    """
    good = ~np.isnan(matrix) if infinite_too else np.isfinite(matrix)
    if good.all():
        return
    wanted, came = ("numbers", "NaN") if infinite_too else ("finite", "NaN or infinite")
    bad_layers = [names[i] for i in np.flatnonzero(~good.all(axis=1))]
    bad = ~good.all(axis=0)
    where = span(np.arange(1, len(bad) + 1), bad, "column") if steps is None else span(steps, bad, "step")
    advice = (
        "drop those layers or those columns first"
        if steps is None
        else "leave them out with history.select(layers=..., steps=...), or call write_report, which does so itself"
    )
    raise ValueError(
        f"curves must be {wanted}, but {good.size - np.count_nonzero(good)} values are {came}: "
        f"in {len(bad_layers)} layers ({listing(bad_layers)}), at {where}; {advice}"
    )


def span(steps: Sequence[int] | IntArray, where: NDArray[np.bool_], unit: str) -> str:
    """The steps at which `where` [S] holds, in words.

    Example:
        >>> span([1, 2, 3, 4, 5], np.array([True, False, False, True, True]), "step")
        'steps 1, 4 to 5'
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], where.astype(np.int8), [0]])))
    runs = [(int(steps[first]), int(steps[end - 1])) for first, end in edges.reshape(-1, 2)]
    words = [f"{first:,}" if first == last else f"{first:,} to {last:,}" for first, last in runs]
    return f"{unit}{'s' if where.sum() > 1 else ''} {listing(words)}"
