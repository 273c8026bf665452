"""The cuML backend: its parameters against the real package (make test-cuml), its numbers on a GPU."""

import importlib.util
import inspect
import os

import numpy as np
import pytest
import torch

import weightscale_fast as wsf
from weightscale_fast.analysis import cuml as backend
from weightscale_fast.analysis.kmeans import kmeans as sklearn_kmeans
from weightscale_fast.analysis.reduce import pca_scores


@pytest.fixture(scope="module")
def cuml():
    """The real package; it imports without a GPU."""
    if importlib.util.find_spec("cuml") is None:
        if os.environ.get("WEIGHTSCALE_FAST_REQUIRE_CUML"):
            pytest.fail("cuML must be installed")
        pytest.skip("cuML is not installed: make test-cuml")
    return pytest.importorskip("cuml")


def curves():
    """Three clusters of small curves, as RWC is small: their total cost is far below 1."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(level, 2e-4, (20, 30)) for level in (1e-3, 3e-3, 6e-3)])


def test_every_parameter_is_one_of_the_real_package(cuml):
    for estimator, given in ((cuml.KMeans, backend.KMEANS), (cuml.PCA, backend.PCA)):
        accepted = inspect.signature(estimator.__init__).parameters
        assert set(given) <= set(accepted), estimator
    assert {"n_clusters", "n_init", "random_state"} <= set(inspect.signature(cuml.KMeans.__init__).parameters)
    assert "n_components" in inspect.signature(cuml.PCA.__init__).parameters
    cuml.KMeans(n_clusters=2, n_init=3, random_state=0, **backend.KMEANS)
    cuml.PCA(n_components=2, **backend.PCA)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
def test_named_and_missing_is_an_error_with_the_reason():
    with pytest.raises(wsf.WeightScaleError, match=r"(pip install 'weightscale_fast\[cuml\]'|no NVIDIA GPU)"):
        wsf.cluster_layers(curves(), backend="cuml")


def test_the_wide_matrix_is_refused():
    with pytest.raises(ValueError, match="expected at most 2000 columns, got 2001"):
        backend.pca(np.zeros((3, 2_001)), 2)


def test_scaling_gives_mean_variance_1():
    scaled, scale = backend._to_mean_variance_1(torch.from_numpy(curves()))
    assert scaled.var(dim=0, correction=0).mean().item() == pytest.approx(1)
    torch.testing.assert_close(scaled / scale, torch.from_numpy(curves()))
    assert backend._to_mean_variance_1(torch.ones(3, 2))[1] == 1


@pytest.mark.gpu
@pytest.mark.cuml
@pytest.mark.parametrize("k", [2, 3, 4])
def test_kmeans_equals_scikit_learn(cuml, k):
    metrics = pytest.importorskip("sklearn.metrics")
    labels, sse = backend.kmeans(curves(), k, n_init=50, seed=0)
    expected, expected_sse = sklearn_kmeans(curves(), k, n_init=50, seed=0)
    assert sse == pytest.approx(expected_sse, rel=1e-3)
    if k == 3:
        assert metrics.adjusted_rand_score(labels, expected) == 1


@pytest.mark.gpu
@pytest.mark.cuml
def test_pca_equals_the_exact_scores(cuml):
    scores, ratio = backend.pca(curves(), 2)
    exact = pca_scores(curves())
    np.testing.assert_allclose(np.abs(scores), np.abs(exact.scores[:, :2]), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ratio, exact.explained_variance_ratio[:2], rtol=1e-6)
