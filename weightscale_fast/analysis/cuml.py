"""K-Means++ and PCA on an NVIDIA GPU, by RAPIDS cuML 26.

cuML's estimators have scikit-learn's names and other rules. What would bite RWC curves, which are small numbers:

- `tol` is two limits, and the first that is met ends a start. One is an absolute distance that the centres move
  (scikit-learn: a share of the variance), so the points are scaled by one number to mean variance 1, which moves no
  label and is taken out of the sum of squares again. The other is a share of the cost: an iteration that lowers it by
  less is the last. scikit-learn has none, so `tol` must be tiny, and may not be 0;
- distances are |x|^2 - 2 x.c + |c|^2, which cancels far from 0, so the points are centred;
- a cluster that loses all its points keeps its old centre (scikit-learn moves it), so that a label may be missing;
- the default start draws random centres when the total cost is below 1, and `n_init="auto"` is a single start, so that
  every parameter is passed by name;
- PCA builds a matrix of columns x columns, so that it never gets more columns than `MOST_COLUMNS`: wide curves go
  through the [L, L] Gram matrix of reduce.py.

Letters: R points, d their dimensions, k clusters.
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

MOST_COLUMNS = 2_000  # of what PCA gets: its covariance is then 32 MB
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
    """Why cuML cannot serve here, or None if it can. Looks without importing it: that alone takes seconds."""
    if importlib.util.find_spec("cuml") is None:
        return "cuML is not installed: run pip install 'weightscale_fast[cuml]'"
    if not torch.cuda.is_available():
        return "cuML is installed, but torch finds no NVIDIA GPU"
    return None


def check_available() -> None:
    """Raise `WeightScaleError` with the reason unless cuML can serve here."""
    reason = refusal()
    if reason is not None:
        raise WeightScaleError(f'backend="cuml" cannot be used: {reason}')


def kmeans(points: FloatArray, k: int, *, n_init: int, seed: int) -> tuple[IntArray, float]:
    """Labels [R] and the sum of squared errors of the best of `n_init` starts; `points` [R, d] float64.

    A label below `k` that nobody has is of a cluster that stayed empty. cuML's threads race: the same seed may give
    other labels of the same quality.
    """
    scaled, scale = _to_mean_0_and_variance_1(_tensor(points).cuda())
    estimator = import_extra("cuml", "cuml").KMeans(n_clusters=k, n_init=n_init, random_state=seed, **KMEANS)
    labels = from_dlpack(estimator.fit(_cupy(scaled)).labels_).long()  # [R]
    centers = torch.zeros(k, scaled.shape[1], dtype=scaled.dtype, device=scaled.device)
    centers.index_add_(0, labels, scaled)
    centers /= torch.bincount(labels, minlength=k).clamp_min(1)[:, None]
    sse = float((scaled - centers[labels]).square().sum()) / scale**2
    return labels.cpu().numpy(), sse


def pca_scores(curves: FloatArray) -> FloatArray:
    """Scores [R, d] of the rows of `curves` [R, d] on all components, d from 2 (cuML's least) to `MOST_COLUMNS`.

    Raises:
        ValueError: more columns than that.
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
    """The points moved to mean 0 and scaled to a mean variance of 1, and the scale."""
    centred = points - points.mean(dim=0)
    variance = float(centred.square().mean())
    scale = variance**-0.5 if variance > 0 else 1.0
    return centred * scale, scale


def _tensor(array: FloatArray) -> torch.Tensor:
    """The array as a tensor; a copy where it is read-only, which no tensor can be."""
    return torch.from_numpy(np.require(array, requirements="W"))


def _cupy(tensor: torch.Tensor) -> Any:
    """The same memory as a cupy array."""
    return import_extra("cupy", "cuml").from_dlpack(tensor.contiguous())
