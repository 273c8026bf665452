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
        backend.pca_scores(np.zeros((3, 2_001)))


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_points_are_moved_to_mean_0_and_scaled_to_mean_variance_1(offset):
    points = torch.from_numpy(curves() + offset)
    scaled, scale = backend._to_mean_0_and_variance_1(points)
    torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(30, dtype=torch.float64), rtol=0, atol=1e-9)
    assert scaled.var(dim=0, correction=0).mean().item() == pytest.approx(1)
    torch.testing.assert_close(scaled / scale, points - points.mean(dim=0))
    assert backend._to_mean_0_and_variance_1(torch.ones(3, 2))[1] == 1


def test_the_share_of_the_cost_that_ends_a_start_is_tiny():
    """cuML takes `tol` as that too, where scikit-learn has no such rule; 0 it refuses."""
    assert 0 < backend.KMEANS["tol"] <= 1e-8


def test_a_read_only_array_is_copied_and_no_other():
    """Of a read-only array torch warns, which is an error here."""
    points = curves()
    assert backend._tensor(points).data_ptr() == points.ctypes.data
    points.flags.writeable = False
    tensor = backend._tensor(points)
    assert tensor.data_ptr() != points.ctypes.data
    assert np.array_equal(tensor.numpy(), points)


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
def test_kmeans_ends_where_no_step_lowers_the_cost_much(cuml):
    cluster = pytest.importorskip("sklearn.cluster")
    points = np.random.default_rng(0).standard_normal((5_000, 2))
    labels, sse = backend.kmeans(points, 8, n_init=1, seed=0)
    centers = np.stack([points[labels == label].mean(axis=0) for label in np.unique(labels)])
    further = cluster.KMeans(len(centers), init=centers, n_init=1, tol=0, max_iter=20).fit(points).inertia_
    assert sse == pytest.approx(further, rel=1e-5)


@pytest.mark.gpu
@pytest.mark.cuml
def test_pca_equals_the_exact_scores(cuml):
    by_cuml, exact = pca_scores(curves(), backend="cuml"), pca_scores(curves())
    assert by_cuml.scores.shape == exact.scores.shape
    np.testing.assert_allclose(by_cuml.scores[:, :2], exact.scores[:, :2], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(by_cuml.explained_variance_ratio[:2], exact.explained_variance_ratio[:2], rtol=1e-6)
    assert pca_scores(np.full((9, 4), 0.1), backend="cuml").scores.shape == (9, 0)
