"""Outlier cleaning and the choice of scale, against values computed by hand."""

import tracemalloc

import numpy as np
import pytest

from weightscale_fast.analysis.clean import clean_outliers
from weightscale_fast.analysis.scale import to_scale


def cleaned_copy(curves, how="two_sigma"):
    cleaned = curves.astype(float)
    return cleaned, clean_outliers(cleaned, how)


def test_two_sigma_replaces_a_far_value_by_the_mean_it_took_part_in():
    # mean 1, population deviation 3: 10 is 9 away, more than 6
    cleaned, replaced = cleaned_copy(np.array([[0] * 9 + [10]]))
    assert cleaned.tolist() == [[0] * 9 + [1]]
    assert replaced == 1


def test_two_sigma_uses_the_population_deviation():
    # 6 is 4.667 from the mean 4/3; twice the deviation is 4.269 (population) or 4.676 (sample)
    cleaned, replaced = cleaned_copy(np.array([[0, 0, 0, 1, 1, 6]]))
    np.testing.assert_allclose(cleaned, [[0, 0, 0, 1, 1, 4 / 3]])
    assert replaced == 1


def test_two_sigma_keeps_a_value_at_exactly_two_deviations():
    # mean 1, deviation 2: 5 is 4 away, not further
    row = np.array([[0.0, 0, 0, 0, 5]])
    cleaned, replaced = cleaned_copy(row)
    assert cleaned.tolist() == row.tolist()
    assert replaced == 0


def test_two_sigma_is_one_pass():
    # the 10.5 that replaces 100 would itself be an outlier in a second pass
    cleaned, replaced = cleaned_copy(np.array([[0] * 8 + [5, 100]]))
    assert cleaned.tolist() == [[0] * 8 + [5, 10.5]]
    assert replaced == 1


def test_every_layer_is_cleaned_by_itself():
    # 10 is normal in the second layer; only the first layer's mean would make it an outlier
    cleaned, replaced = cleaned_copy(np.array([[0] * 9 + [10], [10] * 9 + [0]]))
    assert cleaned.tolist() == [[0] * 9 + [1], [10] * 9 + [9]]
    assert replaced == 2


def test_none_leaves_every_value():
    cleaned, replaced = cleaned_copy(np.array([[0] * 9 + [10]]), "none")
    assert cleaned.tolist() == [[0] * 9 + [10]]
    assert replaced == 0


def test_mad_replaces_what_is_beyond_three_scaled_deviations_by_the_median():
    # median 3, MAD 1, limit 3 * 1.4826 = 4.4478: 7 is 4 away and stays, 8 is 5 away and goes
    cleaned, replaced = cleaned_copy(np.array([[1, 2, 3, 4, 7], [1, 2, 3, 4, 8]]), "mad")
    assert cleaned.tolist() == [[1, 2, 3, 4, 7], [1, 2, 3, 4, 3]]
    assert replaced == 1


def test_mad_of_zero_leaves_the_layer_alone():
    cleaned, replaced = cleaned_copy(np.array([[2, 2, 2, 3, 9]]), "mad")
    assert cleaned.tolist() == [[2, 2, 2, 3, 9]]
    assert replaced == 0


def test_unknown_method_lists_the_known_ones():
    with pytest.raises(ValueError, match="'two_sigma', 'none', 'mad', got 'three_sigma'"):
        clean_outliers(np.ones((2, 2)), "three_sigma")


# Scale


@pytest.mark.parametrize(("ratio", "expected"), [(9, "linear"), (11, "log")])
def test_auto_takes_the_log_beyond_one_decade(ratio, expected):
    curves = np.repeat(1e-3 * np.geomspace(1, ratio, 2)[:, None], 20, axis=0) * np.ones(4)
    assert to_scale(curves)[0] == expected


def test_auto_does_not_count_a_layer_that_is_far_from_all_others():
    curves = np.ones((40, 4))
    curves[0] = 1e-6
    assert to_scale(curves) == (
        "linear",
        "auto: the layers' medians span 0.0 decades (5th to 95th percentile), not more than 1",
    )


def test_auto_looks_at_the_level_of_a_layer_and_not_at_single_values():
    curves = np.ones((4, 9))
    curves[:, 0] = 1e6
    assert to_scale(curves)[0] == "linear"


@pytest.mark.parametrize(
    ("curves", "reason"),
    [([[1e-3, 1e-3], [1.0, -1.0]], "some values are negative"), ([[0.0, 0.0], [0.0, 0.0]], "all values are 0")],
)
def test_auto_is_linear_where_there_is_no_log(curves, reason):
    values = np.array(curves)
    assert to_scale(values) == ("linear", f"auto: {reason}")
    assert values.tolist() == curves


def test_log_raises_zeros_to_the_smallest_positive_value_of_the_matrix():
    curves = np.array([[0.1, 10], [0, 100]])
    assert to_scale(curves, "log") == ("log", "asked for; zeros raised to the smallest positive value: 1")
    np.testing.assert_allclose(curves, [[-1, 1], [-1, 2]])


def test_log_refuses_negative_values():
    with pytest.raises(ValueError, match='at least 0, got -2; use scale="linear"'):
        to_scale(np.array([[1.0, -2.0]]), "log")


def test_log_refuses_a_matrix_without_a_positive_value():
    with pytest.raises(ValueError, match="no layer moved"):
        to_scale(np.zeros((2, 2)), "log")


@pytest.mark.parametrize("work", [clean_outliers, lambda curves: clean_outliers(curves, "mad"), to_scale])
def test_memory_beside_the_matrix_is_little(work):
    curves = np.random.default_rng(0).random((100, 20_000)) * np.geomspace(1e-4, 1, 100)[:, None]
    tracemalloc.start()
    work(curves)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.2 * curves.nbytes
