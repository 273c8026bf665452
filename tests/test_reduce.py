"""Principal component scores against scikit-learn's, through the Gram matrix (wide) and the SVD (tall)."""

import tracemalloc

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA

from weightscale_fast.analysis import reduce
from weightscale_fast.analysis.reduce import pca_scores

SHAPES = [(40, 7), (7, 40), (12, 12), (13, 12), (12, 13), (9, 2), (2, 9), (2, 2), (5, 9000), (5, 4097)]


def random_curves(shape, seed=0):
    rng = np.random.default_rng(seed)
    return 5 + rng.standard_normal(shape) * np.linspace(1, 3, shape[1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_first_two_scores_are_those_of_scikit_learn_signs_included(shape, seed):
    curves = random_curves(shape, seed)
    ours = pca_scores(curves).scores[:, :2]
    theirs = PCA(svd_solver="full").fit_transform(curves)[:, : ours.shape[1]]
    np.testing.assert_allclose(ours, theirs, atol=1e-10 * np.abs(theirs).max())


@pytest.mark.parametrize("shape", SHAPES)
def test_later_scores_are_those_of_scikit_learn_up_to_sign(shape):
    curves = random_curves(shape)
    ours = pca_scores(curves).scores
    theirs = PCA(svd_solver="full").fit_transform(curves)[:, : ours.shape[1]]
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-7 * np.abs(theirs).max())


@pytest.mark.parametrize("shape", SHAPES)
def test_explained_variance_ratio_is_that_of_scikit_learn(shape):
    curves = random_curves(shape)
    ours = pca_scores(curves).explained_variance_ratio
    theirs = PCA(svd_solver="full").fit(curves).explained_variance_ratio_
    np.testing.assert_allclose(ours, theirs[: len(ours)], atol=1e-12)
    assert ours.sum() == pytest.approx(1)


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_between_rows_are_kept(shape):
    curves = random_curves(shape)
    np.testing.assert_allclose(pdist(pca_scores(curves).scores), pdist(curves), rtol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_rank_of_rows_in_general_position(shape):
    rank = min(shape[0] - 1, shape[1])
    assert pca_scores(random_curves(shape)).scores.shape == (shape[0], rank)


@pytest.mark.parametrize("shape", [(30, 8), (8, 30)])
def test_rank_deficient_rows_give_as_many_scores_as_their_rank(shape):
    rng = np.random.default_rng(0)
    curves = 3 + rng.standard_normal((shape[0], 2)) @ rng.standard_normal((2, shape[1]))
    reduced = pca_scores(curves)
    assert reduced.scores.shape == (shape[0], 2)
    np.testing.assert_allclose(pdist(reduced.scores), pdist(curves), rtol=1e-9)


@pytest.mark.parametrize("shape", [(161, 25), (161, 400), (3, 3), (2, 1000)])
def test_equal_rows_have_no_variance(shape):
    # 0.1 has no exact mean in binary: the rounding error must not become a component
    reduced = pca_scores(np.full(shape, 0.1) * np.arange(1, shape[1] + 1))
    assert reduced.scores.shape == (shape[0], 0)
    assert reduced.explained_variance_ratio.shape == (0,)


def test_constant_rows_lie_on_a_line():
    # rows 1, 2, 6 in each of 4 columns: deviations -2, -1, 3 from the mean 3, times sqrt(4)
    reduced = pca_scores(np.repeat([[1.0], [2.0], [6.0]], 4, axis=1))
    np.testing.assert_allclose(reduced.scores, [[-4], [-2], [6]])
    np.testing.assert_allclose(reduced.mean, [3, 3, 3, 3])


def scores_of_cuml(curves):
    """The scores on every component, from the eigenvectors of the covariance matrix, as in cuML's PCA."""
    centred = curves - curves.mean(axis=0)
    return centred @ np.linalg.eigh(centred.T @ centred)[1][:, ::-1]


@pytest.mark.parametrize(("layers", "columns", "rank"), [(30, 8, 2), (40, 7, 7), (300, 100, 5)])
def test_scores_of_cuml_are_cut_at_the_rank(layers, columns, rank):
    rng = np.random.default_rng(0)
    curves = 3 + rng.standard_normal((layers, rank)) @ rng.standard_normal((rank, columns))
    scores = scores_of_cuml(curves)
    assert scores.shape[1] == columns
    cut, exact = reduce._up_to_rank(scores, curves, curves.mean(axis=0)), pca_scores(curves)
    assert cut.scores.shape == exact.scores.shape == (layers, rank)
    np.testing.assert_allclose(np.abs(cut.scores), np.abs(exact.scores), atol=1e-9 * np.abs(exact.scores).max())
    np.testing.assert_allclose(cut.explained_variance_ratio, exact.explained_variance_ratio, atol=1e-12)


@pytest.mark.parametrize("shape", [(161, 25), (9, 2)])
def test_equal_rows_have_no_variance_by_cuml(shape):
    curves = np.full(shape, 0.1) * np.arange(1, shape[1] + 1)
    cut = reduce._up_to_rank(scores_of_cuml(curves), curves, curves.mean(axis=0))
    assert cut.scores.shape == (shape[0], 0)
    assert cut.explained_variance_ratio.shape == (0,)


def test_one_column_is_not_for_cuml():
    curves = np.array([[1.0], [2.0], [6.0]])
    np.testing.assert_array_equal(pca_scores(curves, backend="cuml").scores, pca_scores(curves).scores)


def test_blocks_of_columns_give_the_same_scores(monkeypatch):
    curves = random_curves((6, 50))
    whole = pca_scores(curves).scores
    monkeypatch.setattr(reduce, "BLOCK_COLUMNS", 7)
    np.testing.assert_allclose(pca_scores(curves).scores[:, :2], whole[:, :2], rtol=1e-9)


def test_wide_matrix_is_never_copied_whole():
    curves = random_curves((20, 100_000))
    tracemalloc.start()
    pca_scores(curves)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * curves.nbytes
