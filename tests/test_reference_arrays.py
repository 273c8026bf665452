"""The authors' own RWC arrays must give the numbers of their notebooks and figures (shared/reference/README.md).

Their k-means took the best of 10 starts, ours takes the best of 50. At four places that finds a lower error than they
published; there the test asks that single starts come to the published answer too, and that ours is no worse.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from weightscale_fast.analysis import LayerClusters, cluster_layers, load_curves, weightscale_curves
from weightscale_fast.analysis.kmeans import kmeans
from weightscale_fast.analysis.reduce import pca_scores

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
if not REFERENCE.is_dir():
    pytest.skip(f"the authors' arrays are not at {REFERENCE}", allow_module_level=True)

RESNET, RESNET_SVHN, EFFICIENTNET = "resnet34-cifar10", "resnet34-svhn", "efficientnet_b4-cifar10"
K = {RESNET: 4, RESNET_SVHN: 3, EFFICIENTNET: 3}
ROUNDING = 0.05  # their tables of SSE have one decimal
STARTS = 60


@cache
def clusters_of(run: str) -> LayerClusters:
    """All of it in one call: from the file to the clusters, nothing given but the recipe's name."""
    return cluster_layers(REFERENCE / f"{run}.npz", recipe="weightscale")


def single_starts(run: str, space: str, k: int) -> list[tuple[float, list[int]]]:
    """The SSE and the falling cluster sizes that k-means comes to from each of `STARTS` single starts."""
    scores = pca_scores(clusters_of(run).curves).scores
    points = scores if space == "raw" else scores[:, :2]
    found = (kmeans(points, k, n_init=1, seed=seed) for seed in range(STARTS))
    return [(sse, sorted(np.bincount(labels).tolist(), reverse=True)) for labels, sse in found]


@pytest.mark.parametrize("run", [RESNET, RESNET_SVHN, EFFICIENTNET])
def test_chord_picks_the_k_they_picked_by_eye(run):
    assert clusters_of(run).k == K[run]


@pytest.mark.parametrize(("run", "shape"), [(RESNET, (35, 25)), (RESNET_SVHN, (35, 25)), (EFFICIENTNET, (159, 25))])
def test_rows_used(run, shape):
    clusters = clusters_of(run)
    assert clusters.curves.shape == shape
    assert clusters.rows.tolist() == list(range(1, shape[0] + 1))


@pytest.mark.parametrize(("run", "count"), [(RESNET, 1), (RESNET_SVHN, 1), (EFFICIENTNET, 0)])
def test_infinities_replaced(run, count):
    assert clusters_of(run).infinities_replaced == count


@pytest.mark.parametrize(("run", "count"), [(RESNET, 50), (RESNET_SVHN, 48), (EFFICIENTNET, 215)])
def test_outliers_replaced(run, count):
    assert clusters_of(run).outliers_replaced == count


@pytest.mark.parametrize(
    ("run", "ratios"), [(RESNET, (0.367, 0.217)), (RESNET_SVHN, (0.573, 0.160)), (EFFICIENTNET, (0.566, 0.072))]
)
def test_explained_variance(run, ratios):
    assert clusters_of(run).explained_variance_ratio[:2] == pytest.approx(ratios, abs=5e-4)


@pytest.mark.parametrize(
    ("run", "published"),
    [
        (RESNET, {1: 1371.2, 2: 1002.3, 4: 529.1}),
        (RESNET_SVHN, {1: 2211.2, 2: 1090.1, 3: 733.65, 4: 629.1}),
        (EFFICIENTNET, {1: 422.7, 2: 246.3, 3: 208.3}),
    ],
)
def test_sse_on_the_curves(run, published):
    sse = clusters_of(run).sse_raw
    assert {k: sse[k - 1] for k in published} == pytest.approx(published, rel=1e-3)


@pytest.mark.parametrize(
    ("run", "published"),
    [
        (RESNET, {1: 801.1, 2: 433.9, 3: 189.7}),
        (RESNET_SVHN, {1: 1619.8, 2: 501.5, 3: 155.9, 4: 92.0}),
        (EFFICIENTNET, {1: 269.6, 2: 93.5, 3: 59.6, 4: 43.9}),
    ],
)
def test_sse_on_the_map(run, published):
    sse = clusters_of(run).sse
    assert {k: sse[k - 1] for k in published} == pytest.approx(published, rel=1e-3, abs=ROUNDING)


@pytest.mark.parametrize(
    ("run", "space", "k", "published"),
    [(RESNET, "raw", 3, 741.3), (RESNET, "pca", 4, 79.7), (EFFICIENTNET, "raw", 4, 189.2)],
)
def test_published_sse_that_more_starts_improve(run, space, k, published):
    errors = [sse for sse, _ in single_starts(run, space, k)]
    assert min(abs(sse - published) for sse in errors) <= ROUNDING
    clusters = clusters_of(run)
    ours = (clusters.sse_raw if space == "raw" else clusters.sse)[k - 1]
    assert 0.99 * published < ours < published + ROUNDING


@pytest.mark.parametrize(("run", "sizes"), [(RESNET, [18, 14, 2, 1]), (RESNET_SVHN, [17, 17, 1])])
def test_cluster_sizes(run, sizes):
    assert sorted(np.bincount(clusters_of(run).labels), reverse=True) == sizes


def test_published_cluster_sizes_that_more_starts_change():
    published = [sse for sse, sizes in single_starts(EFFICIENTNET, "raw", 3) if sizes == [85, 57, 17]]
    ours = clusters_of(EFFICIENTNET).sse_raw[2]
    assert ours <= min(published) < 1.001 * ours


@pytest.mark.parametrize(
    ("run", "members"),
    [
        (RESNET, {"layer4.2.conv1.weight"}),
        (RESNET, {"layer2.1.conv1.weight", "layer3.1.conv2.weight"}),
        (RESNET_SVHN, {"layer3.2.conv1.weight"}),
    ],
)
def test_members_of_the_small_clusters(run, members):
    names, labels = clusters_of(run).names, clusters_of(run).labels
    clusters = [{name for name, label in zip(names, labels, strict=True) if label == c} for c in range(K[run])]
    assert members in clusters


@pytest.mark.parametrize(
    ("run", "published"),
    [
        (RESNET, [(2.4293, 1.9515), (3.9224, 3.5611), (8.1972, 2.3657), (9.6507, 6.0516)]),
        (RESNET_SVHN, [(2.3467, 2.0664), (4.3247, 4.3516), (9.0105, 3.7661)]),
    ],
)
def test_first_two_coordinates_of_the_centers(run, published):
    centers = clusters_of(run).centers[:, :2]
    np.testing.assert_allclose(centers[centers[:, 0].argsort()], published, atol=5e-5)


@pytest.mark.parametrize(
    ("part", "count", "published", "k"),
    [
        ("conv_dw", 32, (2.8, 1.1, 0.6), 4),
        ("conv_pw.", 32, (66, 33.4, 17.7), 5),
        ("conv_pwl", 30, (16.7, 8.6, 4.5), 4),
        (".se.", 64, (84.1, 26.5, 16.6), 4),
    ],
)
def test_primitives_of_efficientnet(part, count, published, k):
    names, curves = load_curves(REFERENCE / f"{EFFICIENTNET}.npz")
    used = weightscale_curves(names, curves)[0]
    clusters = cluster_layers(used[[part in name for name in names[1:-1]]], scale="linear")
    assert len(clusters.labels) == count
    assert clusters.sse[:3] == pytest.approx(published, rel=1e-3, abs=ROUNDING)
    assert clusters.k == k
