"""Exact principal component scores of few layers with many columns. No matrix of columns x columns is built.

Letters: L layers, T columns (steps or epochs), r numerical rank of the column-centred curves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from . import cuml
from .curves import FloatArray

BLOCK_COLUMNS = 4096
EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Scores:
    """Principal component scores of the rows of a matrix.

    Args:
        scores: [L, r], one row per layer, columns by falling variance. The rows have the same distances as the curves.
        explained_variance_ratio: [r], the share of the total variance in each column.
        mean: [T], the mean curve, which is the origin of the scores.
    """

    scores: FloatArray
    explained_variance_ratio: FloatArray
    mean: FloatArray


def pca_scores(curves: FloatArray, *, backend: str = "sklearn") -> Scores:
    """All principal component scores of the rows of `curves`. The first two are the map in the papers' figures.

    Let X be the column-centred curves, X = U S V^T. The scores are U S, with r <= L - 1 columns. The rows keep their
    distances, so k-means, silhouette and every other method of distances gives the same result as on the curves.

    If T > L, U and S come from the Gram matrix [L, L], X X^T = U S^2 U^T, summed over blocks of columns (Sirovich's
    method of snapshots, Q. Appl. Math. 45, 1987). Rounding then hides singular values below sqrt(L * 2e-16) of the
    largest, and they are left out. Otherwise U and S come from the SVD of X.

    In the first two columns, which are drawn, the signs follow scikit-learn >= 1.5: the loading (entry of V) of largest
    magnitude is positive. The signs of later columns are arbitrary.

    Args:
        curves: [L, T] finite float64 values.
        backend: `"cuml"` sends tall matrices to the GPU. It follows the same signs.

    Returns:
        `Scores`, with r = 0 columns if all rows are equal.

    Example:
        >>> pca_scores(np.array([[0.0, 0.0], [3.0, 4.0]])).scores
        array([[-2.5],
               [ 2.5]])
    """
    n_layers, n_columns = curves.shape
    mean = curves.mean(axis=0)
    if backend == "cuml" and 2 <= n_columns <= min(n_layers - 1, cuml.MOST_COLUMNS):
        return _up_to_rank(cuml.pca_scores(curves), curves, mean)
    if n_columns > n_layers:
        vectors, variances = _from_gram(curves, mean)
        tolerance = n_layers * EPSILON
    else:
        vectors, singular, _ = np.linalg.svd(curves - mean, full_matrices=False)
        variances = singular**2
        tolerance = (n_layers * EPSILON) ** 2
    rank = _rank(variances, tolerance, curves)

    scores = vectors[:, :rank] * np.sqrt(variances[:rank])
    scores[:, :2] *= _signs(curves, mean, scores[:, :2])
    return Scores(scores, variances[:rank] / (variances.sum() or 1.0), mean)


def _up_to_rank(scores: FloatArray, curves: FloatArray, mean: FloatArray) -> Scores:
    """Keep the columns of `scores` [L, T] that are above rounding. cuML gives all, from a covariance matrix."""
    variances = (scores**2).sum(axis=0)
    rank = _rank(variances, len(curves) * EPSILON, curves)
    return Scores(scores[:, :rank], variances[:rank] / (variances.sum() or 1.0), mean)


def _rank(variances: FloatArray, tolerance: float, curves: FloatArray) -> int:
    """Count the squared singular values, in falling order, above `tolerance` times the largest and above rounding."""
    # The mean of L equal values has an error of up to L roundings, which must not count as variance.
    rounding = len(curves) * EPSILON * max(curves.max(), -curves.min())
    floor = max(tolerance * variances[0], curves.size * rounding**2)
    return min(int(np.count_nonzero(variances > floor)), len(curves) - 1)


def _centred_blocks(curves: FloatArray, mean: FloatArray) -> Iterator[FloatArray]:
    for start in range(0, curves.shape[1], BLOCK_COLUMNS):
        block = slice(start, start + BLOCK_COLUMNS)
        yield curves[:, block] - mean[block]


def _from_gram(curves: FloatArray, mean: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The left singular vectors [L, L] of the centred curves, and the squared singular values [L] in falling order."""
    gram = np.zeros((len(curves), len(curves)))
    for block in _centred_blocks(curves, mean):
        gram += block @ block.T
    variances, vectors = np.linalg.eigh(gram)
    return vectors[:, ::-1], np.maximum(variances[::-1], 0.0)


def _signs(curves: FloatArray, mean: FloatArray, scores: FloatArray) -> FloatArray:
    """The signs [n] that make the largest loading of each column of `scores` [L, n] positive."""
    loadings = np.concatenate([block.T @ scores for block in _centred_blocks(curves, mean)])
    largest = np.take_along_axis(loadings, np.abs(loadings).argmax(axis=0)[None], axis=0)[0]
    return np.where(largest < 0, -1.0, 1.0)
