"""Outlier cleaning against tables worked out by hand."""

import tracemalloc

import numpy as np
import pytest

from weightscale_fast.analysis.clean import clean_outliers


def test_two_sigma_replaces_a_far_value_by_the_mean_it_took_part_in():
    # mean 1, population deviation 3: 10 is 9 away, more than 6
    cleaned, replaced = clean_outliers(np.array([[0] * 9 + [10]]))
    assert cleaned.tolist() == [[0] * 9 + [1]]
    assert replaced == 1


def test_two_sigma_uses_the_population_deviation():
    # 6 is 4.667 from the mean 4/3; twice the deviation is 4.269 (population) or 4.676 (sample)
    cleaned, replaced = clean_outliers(np.array([[0, 0, 0, 1, 1, 6]]))
    np.testing.assert_allclose(cleaned, [[0, 0, 0, 1, 1, 4 / 3]])
    assert replaced == 1


def test_two_sigma_keeps_a_value_at_exactly_two_deviations():
    # mean 1, deviation 2: 5 is 4 away, not further
    row = np.array([[0.0, 0, 0, 0, 5]])
    cleaned, replaced = clean_outliers(row)
    assert cleaned.tolist() == row.tolist()
    assert replaced == 0


def test_two_sigma_is_one_pass():
    # the 10.5 that replaces 100 would itself be an outlier in a second pass
    cleaned, replaced = clean_outliers(np.array([[0] * 8 + [5, 100]]))
    assert cleaned.tolist() == [[0] * 8 + [5, 10.5]]
    assert replaced == 1


def test_every_layer_is_cleaned_by_itself():
    # 10 is usual in the second layer; replacing it there would need the first one's mean
    cleaned, replaced = clean_outliers(np.array([[0] * 9 + [10], [10] * 9 + [0]]))
    assert cleaned.tolist() == [[0] * 9 + [1], [10] * 9 + [9]]
    assert replaced == 2


def test_none_returns_the_values_in_a_new_matrix():
    curves = np.array([[0.0, 100.0], [1.0, 2.0]])
    cleaned, replaced = clean_outliers(curves, "none")
    cleaned[0, 0] = 7
    assert curves[0, 0] == 0
    assert replaced == 0


def test_mad_replaces_what_is_beyond_three_scaled_deviations_by_the_median():
    # median 3, MAD 1, limit 3 * 1.4826 = 4.4478: 7 is 4 away and stays, 8 is 5 away and goes
    cleaned, replaced = clean_outliers(np.array([[1, 2, 3, 4, 7], [1, 2, 3, 4, 8]]), "mad")
    assert cleaned.tolist() == [[1, 2, 3, 4, 7], [1, 2, 3, 4, 3]]
    assert replaced == 1


def test_mad_of_zero_leaves_the_layer_alone():
    cleaned, replaced = clean_outliers(np.array([[2, 2, 2, 3, 9]]), "mad")
    assert cleaned.tolist() == [[2, 2, 2, 3, 9]]
    assert replaced == 0


def test_log_raises_zeros_to_the_smallest_positive_value_of_the_matrix():
    cleaned, replaced = clean_outliers(np.array([[0.1, 10], [0, 100]]), "log")
    np.testing.assert_allclose(cleaned, [[-1, 1], [-1, 2]])
    assert replaced == 1


def test_log_refuses_negative_values():
    with pytest.raises(ValueError, match="at least 0, got -2"):
        clean_outliers(np.array([[1.0, -2.0]]), "log")


def test_log_refuses_a_matrix_without_a_positive_value():
    with pytest.raises(ValueError, match="no layer moved"):
        clean_outliers(np.zeros((2, 2)), "log")


def test_unknown_method_lists_the_known_ones():
    with pytest.raises(ValueError, match="'two_sigma', 'none', 'mad', 'log', got 'three_sigma'"):
        clean_outliers(np.ones((2, 2)), "three_sigma")


@pytest.mark.parametrize("how", ["two_sigma", "none", "mad", "log"])
def test_input_is_left_as_it_was(how):
    curves = np.array([[0, 1, 2, 3, 50.0, 1], [1, 1, 2, 2, 3, 3]])
    before = curves.copy()
    clean_outliers(curves, how)
    np.testing.assert_array_equal(curves, before)


@pytest.mark.parametrize("how", ["two_sigma", "none", "mad", "log"])
def test_memory_is_one_matrix_and_little_more(how):
    curves = np.random.default_rng(0).random((100, 20_000))
    tracemalloc.start()
    clean_outliers(curves, how)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * curves.nbytes
