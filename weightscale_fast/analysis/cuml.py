"""K-Means++ and PCA on an NVIDIA GPU, with RAPIDS cuML 26.

cuML's estimators have scikit-learn's names, but other rules. These matter for RWC curves, which are small numbers:

- `tol` is two limits, and the first one that is met ends a start. One limit is an absolute distance that the centres
  move (in scikit-learn it is a share of the variance). So the points are scaled by one number to mean variance 1. This
  changes no label, and the sum of squares is scaled back. The other limit is a share of the cost: an iteration that
  lowers the cost by less is the last. scikit-learn has no such limit, so `tol` must be tiny; it may not be 0.
- Distances are |x|^2 - 2 x.c + |c|^2, which cancels far from 0. So the points are centred.
- A cluster that loses all its points keeps its old centre (scikit-learn moves it). So a label may be missing.
- The default start draws random centres when the total cost is below 1, and `n_init="auto"` is one start. So every
  parameter is passed by name.
- PCA builds a matrix of columns x columns. So it never gets more than `MOST_COLUMNS` columns; wide curves go through
  the Gram matrix [N, N] of reduce.py.

Letters: N points, d their dimensions, k clusters.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from ..errors import WeightScaleError
from ..extras import import_extra
from .curves import FloatArray, IntArray

MOST_COLUMNS = 2_000  # of the input of PCA, whose covariance matrix is then 32 MB
KMEANS: dict[str, Any] = {
    "init": "k-means++",
    "max_iter": 300,
    "tol": 1e-8,
    "oversampling_factor": 0.0,
    "max_samples_per_batch": 32_768,
    "verbose": False,
    "output_type": "cupy",
}
PCA: dict[str, Any] = {"svd_solver": "full", "whiten": False, "copy": True, "verbose": False, "output_type": "cupy"}


def refusal() -> str | None:
    """Why cuML cannot be used here, or None if it can. It is not imported, because the import takes seconds."""
    if importlib.util.find_spec("cuml") is None:
        return "cuML is not installed: run pip install 'weightscale_fast[cuml]'"
    if not torch.cuda.is_available():
        return "cuML is installed, but torch finds no NVIDIA GPU"
    return None


def check_available() -> None:
    """Raise `WeightScaleError` with the reason if cuML cannot be used here."""
    reason = refusal()
    if reason is not None:
        raise WeightScaleError(f'backend="cuml" cannot be used: {reason}')


def kmeans(points: FloatArray, k: int, *, n_init: int, seed: int) -> tuple[IntArray, float]:
    """Labels [N] and the sum of squared errors of the best of `n_init` starts, for `points` [N, d] float64.

    If a label below `k` does not occur, its cluster is empty. cuML's threads race: the same seed may give other labels
    of the same quality.
    """
    scaled, scale = _to_mean_0_and_variance_1(_tensor(points).cuda())
    estimator = import_extra("cuml", "cuml").KMeans(n_clusters=k, n_init=n_init, random_state=seed, **KMEANS)
    labels = from_dlpack(estimator.fit(_cupy(scaled)).labels_).long()  # [N]
    centers = torch.zeros(k, scaled.shape[1], dtype=scaled.dtype, device=scaled.device)
    centers.index_add_(0, labels, scaled)
    centers /= torch.bincount(labels, minlength=k).clamp_min(1)[:, None]
    sse = float((scaled - centers[labels]).square().sum()) / scale**2
    return labels.cpu().numpy(), sse


def pca_scores(curves: FloatArray) -> FloatArray:
    """Scores [N, d] of the rows of `curves` [N, d] on all components. cuML needs d >= 2; the most is `MOST_COLUMNS`.

    Raises:
        ValueError: there are more columns than that.
    """
    if curves.shape[1] > MOST_COLUMNS:
        raise ValueError(
            f"cuML's PCA builds a matrix of columns x columns: expected at most {MOST_COLUMNS} columns, "
            f"got {curves.shape[1]}; go through the Gram matrix"
        )
    estimator = import_extra("cuml", "cuml").PCA(n_components=curves.shape[1], **PCA)
    scores: FloatArray = from_dlpack(estimator.fit_transform(_cupy(_tensor(curves).cuda()))).cpu().numpy()
    return scores


def _to_mean_0_and_variance_1(points: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Move the points to mean 0 and scale them to a mean variance of 1. Return them and the scale."""
    centred = points - points.mean(dim=0)
    variance = float(centred.square().mean())
    scale = variance**-0.5 if variance > 0 else 1.0
    return centred * scale, scale


def _tensor(array: FloatArray) -> torch.Tensor:
    """The array as a tensor. A read-only array is copied, because a tensor is always writable."""
    return torch.from_numpy(np.require(array, requirements="W"))


def _cupy(tensor: torch.Tensor) -> Any:
    """The same memory as a cupy array."""
    return import_extra("cupy", "cuml").from_dlpack(tensor.contiguous())
