"""cluster_layers: the fields of the result, the choice of k, and the errors for bad input."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from torch import nn

from weightscale_fast import RWCMonitor
from weightscale_fast.analysis import cluster, cluster_layers
from weightscale_fast.analysis.kmeans import kmeans, stability
from weightscale_fast.analysis.knee import chord_k, count_distinct, sse_curve

from .histories import make_history, noisy

# k-means must never run with more clusters than points
pytestmark = pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")


def groups(levels, size=6, columns=10, noise=0.1, seed=0):
    """`size` curves around each level. The rows of the groups alternate."""
    rng = np.random.default_rng(seed)
    return np.tile(levels, size)[:, None] + noise * rng.standard_normal((size * len(levels), columns))


def test_importing_the_analysis_imports_neither_sklearn_nor_scipy():
    code = "import sys, weightscale_fast.analysis; print([m for m in ('sklearn', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# The result


def test_clusters_are_numbered_from_the_lowest_curve_to_the_highest():
    clusters = cluster_layers(groups([9.0, 1.0, 5.0]), k=3, k_max=3)
    assert clusters.labels.tolist() == [2, 0, 1] * 6
    assert clusters.stability == 1


def test_labels_do_not_depend_on_the_seed_where_groups_are_clear():
    curves = groups([9.0, 1.0, 5.0, 3.0])
    labels = [cluster_layers(curves, k=4, k_max=4, n_init=5, seed=seed).labels.tolist() for seed in range(4)]
    assert labels == [[3, 0, 2, 1] * 6] * 4


def test_clusters_of_equal_level_are_numbered_by_their_first_layer():
    # the median of each row is 2; the clusters differ only in the order of the columns
    curves = [[1, 2, 3], [3, 2, 1], [1, 2, 3], [3, 2, 1]]
    labels = [cluster_layers(curves, k=2, n_init=1, seed=seed).labels.tolist() for seed in range(6)]
    assert labels == [[0, 1, 0, 1]] * 6


def test_a_cluster_that_stays_empty_is_not_counted(monkeypatch):
    """cuML may skip a label. Here scikit-learn makes one cluster fewer, and its labels get a gap."""

    def with_an_empty_cluster(points, k, **others):
        labels, sse = kmeans(points, k - 1, **others)
        return np.where(labels > 0, labels + 1, 0), sse

    monkeypatch.setattr(cluster, "kmeans", with_an_empty_cluster)
    clusters = cluster_layers(groups([9.0, 1.0, 5.0]), k=4, k_max=3, n_init=5)
    assert (clusters.k, clusters.k_reason) == (3, "asked for; k-means left 1 of 4 clusters empty")
    assert clusters.labels.tolist() == [2, 0, 1] * 6
    expected = [clusters.curves[clusters.labels == label].mean(axis=0) for label in range(3)]
    np.testing.assert_allclose(clusters.centers, expected)
    assert clusters.center_coordinates.shape == (3, 2)
    assert clusters.center_offsets.shape == (3,)


def test_the_same_seed_gives_the_same_result():
    curves = np.random.default_rng(0).random((30, 8))
    first, second = cluster_layers(curves, n_init=3, seed=7), cluster_layers(curves, n_init=3, seed=7)
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.sse_raw, second.sse_raw)


def test_shapes_of_every_field():
    clusters = cluster_layers(np.random.default_rng(0).random((30, 8)), k=3, k_max=5, n_init=3)
    assert clusters.rows.tolist() == list(range(30))
    assert clusters.curves.shape == (30, 8)
    assert clusters.labels.shape == (30,)
    assert clusters.coordinates.shape == (30, 2)
    assert clusters.sse.shape == clusters.sse_raw.shape == (5,)
    assert clusters.explained_variance_ratio.shape == (8,)
    assert clusters.centers.shape == (3, 8)
    assert clusters.center_coordinates.shape == (3, 2)
    assert clusters.center_offsets.shape == (3,)


def test_centers_are_the_mean_cleaned_curves():
    # in the first layer 10 is an outlier (mean 1, deviation 3) and becomes 1
    curves = np.array([[0] * 9 + [10], [2] * 10, [50] * 10])
    clusters = cluster_layers(curves, k=2, scale="linear")
    assert clusters.outliers_replaced == 1
    np.testing.assert_array_equal(clusters.curves[0], [0] * 9 + [1])
    np.testing.assert_array_equal(clusters.centers, [[1] * 9 + [1.5], [50] * 10])


@pytest.mark.parametrize("shape", [(40, 6), (20, 300)])
def test_raw_sse_is_that_of_k_means_on_the_curves_themselves(shape):
    curves = np.random.default_rng(0).random(shape)
    clusters = cluster_layers(curves, k=2, outliers="none", k_max=2, n_init=20)
    expected = KMeans(2, n_init=20, random_state=0).fit(curves).inertia_
    assert clusters.sse_raw[1] == pytest.approx(expected, rel=1e-3)
    assert clusters.sse_raw[0] == pytest.approx(((curves - curves.mean(axis=0)) ** 2).sum())


def test_labels_of_space_raw_are_the_nearest_centers_over_all_columns():
    curves = np.random.default_rng(1).random((40, 12))
    clusters = cluster_layers(curves, k=4, outliers="none", k_max=2, n_init=10)
    distances = ((curves[:, None] - clusters.centers) ** 2).sum(axis=2)
    np.testing.assert_array_equal(clusters.labels, distances.argmin(axis=1))


def test_labels_of_space_pca_are_the_nearest_centers_on_the_map():
    clusters = cluster_layers(np.random.default_rng(1).random((40, 12)), k=4, space="pca", k_max=2, n_init=10)
    distances = ((clusters.coordinates[:, None] - clusters.center_coordinates) ** 2).sum(axis=2)
    np.testing.assert_array_equal(clusters.labels, distances.argmin(axis=1))
    assert clusters.center_offsets.tolist() == [0, 0, 0, 0]


def test_center_offsets_give_the_distance_of_a_point_of_the_map_to_each_center():
    curves = np.random.default_rng(2).random((40, 12))
    clusters = cluster_layers(curves, k=4, outliers="none", k_max=2, n_init=5)
    pca = PCA(2, svd_solver="full").fit(curves)
    point = np.array([0.3, -0.2])
    on_map = ((point - clusters.center_coordinates) ** 2).sum(axis=1) + clusters.center_offsets
    lifted = ((pca.inverse_transform(point[None]) - clusters.centers) ** 2).sum(axis=1)
    np.testing.assert_allclose(on_map, lifted)
    assert clusters.center_offsets.min() > 1e-3


@pytest.mark.parametrize("space", ["raw", "pca"])
def test_silhouette_is_taken_in_the_space_clustered(space):
    clusters = cluster_layers(np.random.default_rng(3).random((30, 12)), k=3, space=space, k_max=2, n_init=5)
    points = clusters.curves if space == "raw" else clusters.coordinates
    assert clusters.silhouette == pytest.approx(silhouette_score(points, clusters.labels))


def test_one_cluster_is_stable_and_has_no_silhouette():
    clusters = cluster_layers(groups([1.0, 5.0]), k=1, k_max=2)
    assert clusters.labels.tolist() == [0] * 12
    assert clusters.stability == 1
    assert np.isnan(clusters.silhouette)


def test_as_many_clusters_as_layers():
    clusters = cluster_layers([[5, 5, 6], [1, 1, 2], [9, 9, 8]], k=3)
    assert clusters.labels.tolist() == [1, 0, 2]
    assert np.isnan(clusters.silhouette)


def test_stability_is_below_one_where_seeds_disagree():
    points = np.random.default_rng(0).random((60, 2))
    labels = KMeans(9, n_init=1, random_state=0).fit(points).labels_
    assert stability(points, labels, n_init=1, seed=0) < 0.95


def test_an_array_gets_names():
    assert cluster_layers([[1, 2], [3, 4]]).names == ("layer 0", "layer 1")


def test_a_history_gives_names_and_is_turned_to_layers_by_steps():
    rwc = groups([1.0, 5.0], size=2, columns=7).T.astype(np.float32)
    clusters = cluster_layers(SimpleNamespace(names=("a", "b", "c", "d"), rwc=rwc), k=2)
    assert clusters.names == ("a", "b", "c", "d")
    assert clusters.curves.shape == (4, 7)
    assert clusters.curves.dtype == np.float64
    assert clusters.labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("asked", "reason"), [("auto", "auto: 2 points are too few to gain from a GPU"), ("sklearn", "asked for")]
)
def test_backend_is_reported_with_its_reason(asked, reason):
    clusters = cluster_layers([[1, 2], [3, 4]], backend=asked)
    assert (clusters.backend, clusters.backend_reason) == ("sklearn", reason)


def test_scale_of_the_curves_does_not_matter():
    # Eq. 1 gives values near 1e-4: there must be no absolute tolerance
    curves = groups([1.0, 2.0, 4.0])
    small = cluster_layers(curves * 1e-6, n_init=5)
    assert small.k == 3
    np.testing.assert_array_equal(small.labels, cluster_layers(curves, n_init=5).labels)


# The choice of k


def test_chord_is_the_point_furthest_below_the_line():
    # scaled, the curve is 1, .5, .1, .05, 0 and the line 1, .75, .5, .25, 0: it is below the line by 0, .25, .4, .2, 0
    assert chord_k(np.array([110.0, 60.0, 20.0, 15.0, 10.0])) == 3


def test_chord_starts_and_ends_on_the_curve_however_little_it_falls():
    # scaled, it is 1, .47, .26, .11, 0: below the line by 0, .28, .24, .14, 0
    assert chord_k(np.array([100.0, 80.0, 72.0, 66.0, 62.0])) == 2


def test_chord_of_a_flat_or_bulging_curve_is_one():
    assert chord_k(np.zeros(5)) == 1
    assert chord_k(np.array([10.0, 9.9, 9.8, 0.0])) == 1


def test_chord_of_fewer_than_three_points_is_one():
    assert chord_k(np.array([10.0])) == 1
    assert chord_k(np.array([10.0, 0.0])) == 1


def test_auto_finds_clear_groups_and_says_how():
    clusters = cluster_layers(groups([1.0, 5.0, 9.0]), n_init=5)
    assert clusters.k == 3
    assert clusters.k_reason == "chord rule over k = 1..17 of the SSE on the 2-D scores"


def test_k_asked_for_says_so():
    assert cluster_layers(groups([1.0, 5.0]), k=np.int64(2), k_max=2).k_reason == "asked for"


def test_k_may_exceed_k_max():
    clusters = cluster_layers(groups([1.0, 5.0, 9.0]), k=3, k_max=2)
    assert clusters.k == 3
    assert len(clusters.sse) == 2


def test_k_max_is_capped_at_the_number_of_layers():
    clusters = cluster_layers(np.random.default_rng(0).random((5, 4)))
    assert len(clusters.sse) == len(clusters.sse_raw) == 5
    assert clusters.sse[-1] == pytest.approx(0, abs=1e-12)
    assert clusters.k_reason == "chord rule over k = 1..5 of the SSE on the 2-D scores"


# Layers that do not differ


@pytest.mark.parametrize("columns", [5, 200])
def test_identical_layers_are_one_cluster(columns):
    clusters = cluster_layers(np.full((20, columns), 0.1))
    assert clusters.k == 1
    assert clusters.labels.tolist() == [0] * 20
    assert clusters.sse.tolist() == [0] * 17
    assert clusters.coordinates.tolist() == [[0, 0]] * 20
    assert clusters.explained_variance_ratio.tolist() == [0, 0]


@pytest.mark.parametrize("columns", [5, 200])
@pytest.mark.parametrize("space", ["raw", "pca"])
def test_three_curves_many_times_are_three_clusters(columns, space):
    levels = np.array([[0.1], [3.3], [7.7]])
    rows = levels + np.random.default_rng(0).random((3, columns))
    clusters = cluster_layers(np.tile(rows, (10, 1)), outliers="none", scale="linear", space=space, n_init=5)
    assert clusters.k == 3
    assert clusters.labels.tolist() == [0, 1, 2] * 10
    assert clusters.sse[3:].tolist() == [0] * 14


def test_distinct_points_are_counted_up_to_rounding():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [1.0 + 1e-9, 0.0], [1.0, 1e-5]])
    assert count_distinct(points, 4) == 3
    assert count_distinct(points, 2) == 2


def test_sse_curve_by_hand():
    # pairs 0, 2 and 10, 12: mean 6 gives 36 + 16 + 16 + 36, then 2 + 2, then 2, then 0
    sse = sse_curve(np.array([[0.0], [2.0], [10.0], [12.0]]), 17, n_init=5, seed=0)
    np.testing.assert_allclose(sse, [104, 4, 2, 0], atol=1e-12)


def test_more_clusters_than_distinct_curves_are_refused():
    with pytest.raises(ValueError, match=r"k=3 .* only 2 of 4 differ; ask for at most k=2"):
        cluster_layers([[1, 2], [1, 2], [3, 4], [3, 4]], k=3)


# Scale


def test_curves_decades_apart_are_compared_by_their_logarithms():
    levels = np.array([1e-5, 1e-4, 1e-2])
    clusters = cluster_layers(10 ** groups(np.log10(levels)), n_init=5)
    assert clusters.scale == "log"
    assert clusters.scale_reason.startswith("auto: the layers' medians span 3.")
    assert clusters.k == 3
    np.testing.assert_allclose(clusters.centers.mean(axis=1), [-5, -4, -2], atol=0.1)
    assert cluster_layers(10 ** groups(np.log10(levels)), scale="linear", n_init=5).k == 2


def test_log_as_a_way_with_outliers_is_the_log_scale_and_no_cleaning():
    curves = groups([1.0, 5.0], noise=0.01)
    short, long = (
        cluster_layers(curves, k=2, k_max=2, **options)
        for options in ({"outliers": "log"}, {"outliers": "none", "scale": "log"})
    )
    assert (short.scale, short.scale_reason, short.outliers) == ("log", "asked for", "none")
    np.testing.assert_array_equal(short.curves, long.curves)


def test_outliers_are_cleaned_after_the_scale():
    # log10 of the first row: mean -1.9, deviation 0.3; on a linear scale the outlier would weigh ten times as much
    clusters = cluster_layers([[0.01] * 9 + [0.1], [1] * 10], k=2, scale="log")
    np.testing.assert_allclose(clusters.curves[0], [-2] * 9 + [-1.9])
    assert clusters.outliers_replaced == 1


# HDBSCAN


@pytest.mark.parametrize("space", ["raw", "pca"])
def test_hdbscan_names_the_outlying_layer_that_would_bend_a_center(space):
    curves = np.vstack([groups([9.0, 1.0]), np.full((1, 10), 40.0)])
    clusters = cluster_layers(curves, method="hdbscan", scale="linear", space=space, k_max=3, n_init=5)
    assert clusters.labels.tolist() == [1, 0] * 6 + [-1]
    assert (clusters.k, clusters.method) == (2, "hdbscan")
    assert clusters.k_reason == "found by HDBSCAN: clusters of at least 3 layers"
    np.testing.assert_allclose(clusters.centers[1], clusters.curves[0:12:2].mean(axis=0))
    assert clusters.center_coordinates.shape == (2, 2)
    assert clusters.silhouette > 0.9
    assert np.isnan(clusters.stability)


def test_hdbscan_may_find_no_cluster():
    clusters = cluster_layers(np.vander([1.0, 2, 3, 4, 5], 4), method="hdbscan", scale="linear", n_init=5)
    assert clusters.labels.tolist() == [-1] * 5
    assert clusters.k == 0
    assert clusters.centers.shape == (0, 4)
    assert np.isnan(clusters.silhouette)


def test_hdbscan_of_identical_layers_is_one_cluster():
    assert cluster_layers(np.full((5, 4), 0.1), method="hdbscan").labels.tolist() == [0] * 5


def test_hdbscan_needs_three_layers():
    with pytest.raises(ValueError, match='needs at least 3 layers, got 2; use method="kmeans"'):
        cluster_layers([[1, 2], [3, 4]], method="hdbscan")


# Bad input


def test_constant_rows_are_curves_like_others():
    clusters = cluster_layers([[1, 1, 1], [1, 1, 1], [5, 5, 5], [5, 5, 6]], k=2, k_max=3)
    assert clusters.labels.tolist() == [0, 0, 1, 1]
    assert clusters.outliers_replaced == 0


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ([1.0, 2.0], r"two dimensions \[layers, columns\], got shape \[2\]"),
        (np.ones((2, 2, 2)), r"two dimensions \[layers, columns\], got shape \[2, 2, 2\]"),
        ([[1.0, 2.0], [3.0]], "rows of one length"),
        ([["a", "b"], ["c", "d"]], "real numbers, got dtype <U1 from a list"),
        (None, "real numbers, got dtype object from a NoneType"),
        (np.ones((2, 2), dtype=complex), "real numbers, got dtype complex128"),
        (np.ones((1, 5)), "at least 2 layers, got 1: one layer cannot be clustered; record more layers"),
        (np.ones((5, 1)), "at least 2 columns, got 1: one step cannot be clustered; record more steps"),
    ],
)
def test_curves_that_are_no_matrix_of_curves(curves, message):
    with pytest.raises(ValueError, match=message):
        cluster_layers(curves)


def test_values_that_are_not_finite_are_named():
    rwc = np.ones((10, 6))
    rwc[3:8, 4] = np.nan
    rwc[0, 2] = np.inf
    message = r"6 values are NaN or infinite: in 2 layers \(layer 2, layer 4\), at columns 1, 4 to 8; drop those layers"
    with pytest.raises(ValueError, match=message):
        cluster_layers(rwc.T)
    history = make_history(rwc, names=["a", "b", "conv", "d", "fc", "f"], steps=np.arange(10, 110, 10))
    message = r"5 values are NaN or infinite: in 1 layers \(fc\), at steps 40 to 80; leave them out with history.select"
    with pytest.raises(ValueError, match=message):
        cluster_layers(history)


def test_names_must_differ():
    with pytest.raises(ValueError, match=r"names must differ, but a come more than once"):
        cluster_layers(SimpleNamespace(names=("a", "b", "a"), rwc=np.ones((4, 3))))


def test_names_must_be_one_a_layer():
    with pytest.raises(ValueError, match="got 2 names for 3 columns"):
        cluster_layers(SimpleNamespace(names=("a", "b"), rwc=np.ones((4, 3))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 4}, "k must be at most the number of layers, 3, got 4"),
        ({"k": 0}, 'k must be an integer of at least 1 or "auto", got 0'),
        ({"k": 2.0}, 'k must be an integer of at least 1 or "auto", got 2.0'),
        ({"k": True}, 'k must be an integer of at least 1 or "auto", got True'),
        ({"k": "two"}, "k must be an integer of at least 1 or \"auto\", got 'two'"),
        ({"k_max": 0}, "k_max must be an integer of at least 1, got 0"),
        ({"n_init": 0}, "n_init must be an integer of at least 1, got 0"),
        ({"outliers": "3s"}, "outliers must be one of 'two_sigma', 'none', 'mad', 'log', got '3s'"),
        ({"space": "tsne"}, "space must be one of 'raw', 'pca', got 'tsne'"),
        ({"scale": "sqrt"}, "scale must be one of 'auto', 'log', 'linear', got 'sqrt'"),
        ({"outliers": "log", "scale": "linear"}, 'outliers="log" means scale="log", got scale="linear"'),
        ({"method": "dbscan"}, "method must be one of 'kmeans', 'hdbscan', got 'dbscan'"),
        ({"method": "hdbscan", "k": 2}, "finds the number of clusters itself, got k=2; leave k out"),
        ({"backend": "gpu"}, "backend must be one of 'auto', 'sklearn', 'cuml', got 'gpu'"),
    ],
)
def test_options_outside_what_is_listed(options, message):
    with pytest.raises(ValueError, match=message):
        cluster_layers([[1, 2], [3, 4], [5, 7]], **options)


def test_clusters_as_a_notebook_shows_them():
    clusters = cluster_layers([[1, 2, 1], [1, 2, 2], [9, 8, 9], [9, 9, 9]], k=2)
    assert repr(clusters) == "LayerClusters(4 layers in 2 clusters of 2, 2; linear scale; stability 1.00)"
    assert [clusters[name] for name in clusters.names] == [0, 0, 1, 1]
    with pytest.raises(KeyError, match="no layer 'fc' was clustered; the clusters have layer 0, layer 1"):
        clusters["fc"]
    table = clusters.to_dataframe()
    assert table.index.tolist() == list(clusters.names)
    assert table["cluster"].tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(table[["component 1", "component 2"]].to_numpy(), clusters.coordinates)


def test_a_transposed_history_gets_a_warning():
    history = make_history(noisy(60, 12))
    with pytest.warns(UserWarning, match="the 60 rows of this array look like steps and its 12 columns like layers"):
        cluster_layers(history.rwc, n_init=1)
    cluster_layers(history.rwc.T, n_init=1)
    cluster_layers(history, n_init=1)


def test_a_monitor_is_clustered():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    monitor = RWCMonitor(model)
    for _ in range(3):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1)
        monitor.record()
    assert cluster_layers(monitor, k=1).names == ("0.weight", "1.weight", "2.weight")


@pytest.mark.parametrize("points", [3, 5, 7, 10, 17])
@pytest.mark.parametrize("top", [3.3, 100.0])
def test_a_straight_line_has_no_knee(points, top):
    assert chord_k(np.linspace(top, 1, points)) == 1
