"""The authors' recipe: what it does to curves, and its errors for wrong options and input."""

import numpy as np
import pytest

from weightscale_fast.analysis import cluster_layers, weightscale_curves

NAMES = ("stem", "a", "b", "c", "d", "head")


def curves_with(row, column, value):
    curves = np.random.default_rng(0).random((6, 10)) + 1
    curves[row, column] = value
    return curves


def test_an_infinity_becomes_the_sum_of_the_finite_values_over_all_of_them():
    used, replaced = weightscale_curves(NAMES[:4], np.array([[1.0] * 4, [1, 2, 3, np.inf], [np.inf] * 4, [1] * 4]))
    assert used.tolist() == [[1, 2, 3, 1.5], [0, 0, 0, 0]]
    assert replaced == 5


def test_the_input_is_left_as_it_was():
    curves = curves_with(2, 3, np.inf)
    before = curves.copy()
    cluster_layers(curves, recipe="weightscale", n_init=2)
    np.testing.assert_array_equal(curves, before)


def test_first_and_last_layer_are_dropped_and_rows_says_so():
    clusters = cluster_layers(curves_with(1, 0, np.inf), k=2, recipe="weightscale", n_init=2)
    assert clusters.rows.tolist() == [1, 2, 3, 4]
    assert clusters.names == ("layer 1", "layer 2", "layer 3", "layer 4")
    assert clusters.labels.shape == (4,)


def test_what_the_recipe_did_is_recorded():
    curves = curves_with(1, 0, np.inf) * np.geomspace(1e-6, 1, 6)[:, None]
    clusters = cluster_layers(curves, recipe="weightscale", n_init=2)
    assert (clusters.recipe, clusters.infinities_replaced) == ("weightscale", 1)
    assert (clusters.scale, clusters.scale_reason) == ("linear", 'recipe="weightscale"')
    assert (clusters.outliers, clusters.method) == ("two_sigma", "kmeans")


def test_the_recipe_is_its_steps_by_hand():
    curves = curves_with(2, 5, np.inf)
    named = cluster_layers(curves, recipe="weightscale", space="pca", n_init=2)
    by_hand = cluster_layers(weightscale_curves(NAMES, curves)[0], space="pca", scale="linear", n_init=2)
    np.testing.assert_array_equal(named.labels, by_hand.labels)
    np.testing.assert_array_equal(named.sse, by_hand.sse)


def test_without_a_recipe_no_layer_is_dropped_and_infinities_are_refused():
    clusters = cluster_layers(curves_with(0, 0, 1.0), n_init=2)
    assert (clusters.recipe, clusters.infinities_replaced) == (None, 0)
    assert len(clusters.rows) == 6
    with pytest.raises(ValueError, match=r"1 values are NaN or infinite: in 1 layers \(layer 2\)"):
        cluster_layers(curves_with(2, 5, np.inf))


@pytest.mark.parametrize("row", [0, 2])
def test_nan_is_refused(row):
    curves = curves_with(row, 5, np.nan)
    curves[3, 0] = np.inf
    with pytest.raises(ValueError, match=rf"1 values are NaN: in 1 layers \(layer {row}\), at column 6"):
        cluster_layers(curves, recipe="weightscale")


def test_three_layers_are_too_few():
    with pytest.raises(ValueError, match=r"drops the first and the last layer .* needs 4 layers, got 3"):
        cluster_layers(np.ones((3, 5)), recipe="weightscale")


def test_k_is_at_most_the_layers_that_are_left():
    with pytest.raises(ValueError, match="k must be at most the number of layers, 4, got 5"):
        cluster_layers(curves_with(0, 0, 1.0), k=5, recipe="weightscale")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outliers": "mad"}, "recipe='weightscale' means outliers='two_sigma', got 'mad'; leave outliers out"),
        ({"outliers": "log"}, "means outliers='two_sigma', got 'log'"),
        ({"scale": "log"}, "means scale='linear', got 'log'"),
        ({"method": "hdbscan"}, "means method='kmeans', got 'hdbscan'"),
        ({"recipe": "weight_scale"}, "recipe must be None or one of 'weightscale', got 'weight_scale'"),
    ],
)
def test_options_the_recipe_fixes(options, message):
    with pytest.raises(ValueError, match=message):
        cluster_layers(curves_with(0, 0, 1.0), **{"recipe": "weightscale", **options})
