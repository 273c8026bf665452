"""K-Means++ and PCA on an NVIDIA GPU, by RAPIDS cuML 26.

cuML's estimators have scikit-learn's names and other rules. What would bite RWC curves, which are small numbers:

- `tol` is an absolute distance (scikit-learn: a share of the variance), so the points are scaled by one number to mean
  variance 1, which moves no label and is taken out of the sum of squares again;
- the default start draws random centres when the total cost is below 1, and `n_init="auto"` is a single start, so that
  every parameter is passed by name;
- PCA builds a matrix of columns x columns, so that it never gets more columns than `MOST_COLUMNS`: wide curves go
  through the [L, L] Gram matrix of reduce.py.

Letters: R points, d their dimensions, k clusters, n components.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack

from ..errors import WeightScaleError
from ..extras import import_extra
from .curves import FloatArray, IntArray

MOST_COLUMNS = 2_000  # of what PCA gets: its covariance is then 32 MB
KMEANS: dict[str, Any] = {
    "init": "k-means++",
    "max_iter": 300,
    "tol": 1e-4,
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

    cuML's threads race: the same seed may give other labels of the same quality.
    """
    scaled, scale = _to_mean_variance_1(torch.from_numpy(points).cuda())
    estimator = import_extra("cuml", "cuml").KMeans(n_clusters=k, n_init=n_init, random_state=seed, **KMEANS)
    labels = from_dlpack(estimator.fit(_cupy(scaled)).labels_).long()  # [R]
    centers = torch.zeros(k, scaled.shape[1], dtype=scaled.dtype, device=scaled.device)
    centers.index_add_(0, labels, scaled)
    centers /= torch.bincount(labels, minlength=k).clamp_min(1)[:, None]
    sse = float((scaled - centers[labels]).square().sum()) / scale**2
    return labels.cpu().numpy(), sse


def pca(curves: FloatArray, n: int) -> tuple[FloatArray, FloatArray]:
    """Scores [R, n] and explained variance ratio [n] of the rows of `curves` [R, d], d at most `MOST_COLUMNS`.

    Raises:
        ValueError: more columns than that.
    """
    if curves.shape[1] > MOST_COLUMNS:
        raise ValueError(
            f"cuML's PCA builds a matrix of columns x columns: expected at most {MOST_COLUMNS} columns, "
            f"got {curves.shape[1]}; go through the Gram matrix"
        )
    estimator = import_extra("cuml", "cuml").PCA(n_components=n, **PCA)
    scores = from_dlpack(estimator.fit_transform(_cupy(torch.from_numpy(curves).cuda())))
    ratio = from_dlpack(estimator.explained_variance_ratio_)
    return scores.cpu().numpy(), ratio.cpu().numpy()


def _to_mean_variance_1(points: torch.Tensor) -> tuple[torch.Tensor, float]:
    variance = float(points.var(dim=0, correction=0).mean())
    scale = variance**-0.5 if variance > 0 else 1.0
    return points * scale, scale


def _cupy(tensor: torch.Tensor) -> Any:
    """The same memory as a cupy array."""
    return import_extra("cupy", "cuml").from_dlpack(tensor.contiguous())
