"""Many steps: the way over shards and the Gram matrix gives what the direct way gives, with little memory."""

import tracemalloc

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from weightscale_fast.analysis import cluster_layers
from weightscale_fast.analysis import kmeans as kmeans_module
from weightscale_fast.analysis.kmeans import kmeans
from weightscale_fast.analysis.knee import sse_curve
from weightscale_fast.record.history import RWCHistory
from weightscale_fast.record.rows import Rows
from weightscale_fast.record.run_folder import RunFolder

LAYERS, STEPS, SHARD = 120, 20_000, 1_500
OPTIONS = {"k": 3, "k_max": 4, "n_init": 10}


def rwc_of_three_families(layers=LAYERS, steps=STEPS):
    """[S, L] positive, decades apart, with single steps far off."""
    rng = np.random.default_rng(0)
    level, slope = np.geomspace(1e-4, 1e-2, 3)[np.arange(layers) % 3], np.array([0.5, 1, 2])[np.arange(layers) % 3]
    rwc = level * np.exp(-slope * np.linspace(0, 1, steps)[:, None] + 0.2 * rng.standard_normal((steps, layers)))
    rwc[rng.integers(steps, size=20), rng.integers(layers, size=20)] *= 1e3
    return rwc


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of many shards."""
    rwc = rwc_of_three_families()
    names = [f"layer{i}" for i in range(LAYERS)]
    meta = {"names": names, "numel": [9] * LAYERS, "kinds": ["conv"] * LAYERS, "definition": "norm_ratio"}
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "run", {**meta, "every": 1, "settings": {}})
    for first in range(0, STEPS, SHARD):
        part = rwc[first : first + SHARD]
        steps = first + 1 + np.arange(len(part))
        folder.append(Rows(steps, part, np.ones_like(part), np.ones_like(part, dtype=np.int64), None))
    return folder.path


def test_the_folder_shard_by_shard_gives_what_the_whole_history_gives(run):
    streamed, whole = cluster_layers(run, **OPTIONS), cluster_layers(RWCHistory.load(run), **OPTIONS)
    np.testing.assert_array_equal(streamed.curves, whole.curves)
    np.testing.assert_array_equal(streamed.labels, whole.labels)
    np.testing.assert_allclose(streamed.sse_raw, whole.sse_raw, rtol=1e-8)
    assert streamed.outliers_replaced == whole.outliers_replaced > 0
    assert streamed.scale == whole.scale == "log"


def test_scores_give_the_labels_and_the_sse_of_the_curves_themselves(run):
    clusters = cluster_layers(run, **OPTIONS)
    direct = [KMeans(k, n_init=10, random_state=0).fit(clusters.curves) for k in (1, 2, 3)]
    np.testing.assert_allclose(clusters.sse_raw[:3], [fitted.inertia_ for fitted in direct], rtol=1e-8)
    same = {(ours, theirs) for ours, theirs in zip(clusters.labels, direct[2].labels_, strict=True)}
    assert len(same) == 3
    assert clusters.silhouette == pytest.approx(silhouette_score(clusters.curves, clusters.labels), rel=1e-8)


def test_a_run_is_held_in_memory_once(run):
    matrix = 8 * LAYERS * STEPS
    cluster_layers(run, **OPTIONS)  # what is imported on the way does not count
    tracemalloc.start()
    cluster_layers(run, **OPTIONS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.6 * matrix  # the rest: a shard, or a block of 4,096 columns


@pytest.mark.parametrize("k", [2, 3, 8])
def test_wide_points_are_clustered_as_well_as_by_the_plain_way(monkeypatch, k):
    points = np.random.default_rng(1).standard_normal((80, 150)) + 9 * np.eye(3, 150)[np.arange(80) % 3]
    labels, sse = kmeans(points, k, n_init=50, seed=0)
    monkeypatch.setattr(kmeans_module, "WIDE", 1000)
    assert sse == pytest.approx(kmeans(points, k, n_init=50, seed=0)[1], rel=5e-3)
    centers = np.stack([points[labels == cluster].mean(axis=0) for cluster in range(k)])
    assert sse == pytest.approx(((points - centers[labels]) ** 2).sum())


def test_wide_points_many_times_have_no_error_left():
    points = np.repeat(np.random.default_rng(0).standard_normal((4, 150)), 5, axis=0)
    np.testing.assert_allclose(sse_curve(points, 17, n_init=5, seed=0)[3:], np.zeros(14), atol=1e-20)
