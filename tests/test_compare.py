"""compare: planted differences of real trainings are named, and equal trainings are equal."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import weightscale_fast as wsf

from .compared_runs import LAYERS, NETWORKS, STEPS, nudge, train
from .histories import make_history, noisy

NAMES = ["conv.weight", "fc.weight", "head.weight"]


@pytest.fixture(scope="module")
def plain_run():
    """The history of a network without a planted difference."""
    made = {}

    def get(network):
        if network not in made:
            made[network] = train(network)
        return made[network]

    return get


@pytest.fixture(params=NETWORKS)
def network(request):
    return request.param


def history(S=20, names=NAMES, **fields):
    return make_history(noisy(S, len(names)), names=names, **fields)


# Planted differences


def test_a_weight_nudged_in_a_step_by_one_unit_in_the_last_place(network, plain_run):
    layer = LAYERS[network]
    comparison = wsf.compare(plain_run(network), train(network, inside=nudge(layer, 7)))
    first = comparison.first
    assert (first.step, first.layers, first.shown_by, first.before) == (7, (layer,), ("delta_l1",), False)
    assert first.last_equal == 6
    assert str(comparison).startswith(
        f"The runs differ first at step 7, in {layer}: it moved by another amount (delta_l1)"
    )
    assert comparison.beyond_step is None  # it stays rounding
    assert not comparison.same


def test_a_weight_changed_between_steps_shows_in_the_next_row(network, plain_run):
    layer = LAYERS[network]
    first = wsf.compare(plain_run(network), train(network, between=nudge(layer, 7, 0.01))).first
    assert (first.step, first.most, first.before) == (8, layer, False)  # the row has all that moved since step 7


def test_a_weight_changed_between_steps_shows_before_the_step(network):
    layer = LAYERS[network]
    a = train(network, baseline="before_step")
    comparison = wsf.compare(a, train(network, baseline="before_step", between=nudge(layer, 7, 0.01)))
    first = comparison.first
    assert (first.step, first.layers, first.shown_by, first.before) == (8, (layer,), ("prev_l1",), True)
    assert "its weights before the step are not equal (prev_l1)" in str(comparison)


def test_another_initial_value(network, plain_run):
    layer = LAYERS[network]
    comparison = wsf.compare(plain_run(network), train(network, begin=lambda model: nudge(layer, 0, 0.01)(model, 0)))
    first = comparison.first
    assert (first.step, first.layers, first.before, first.last_equal) == (1, (layer,), True, None)
    assert f"at step 1, in {layer}: it began with other weights (prev_l1)" in str(comparison)


def test_another_order_of_the_data(network, plain_run):
    comparison = wsf.compare(plain_run(network), train(network, order=lambda i: {9: 10, 10: 9}.get(i, i)))
    first = comparison.first
    assert (first.step, first.layers, first.before) == (9, comparison.names, False)
    assert "all layers at once: another batch" in str(comparison)
    assert comparison.beyond_step == 9


def test_bfloat16_against_float32(network, plain_run):
    comparison = wsf.compare(plain_run(network), train(network, dtype=torch.bfloat16))
    assert (comparison.first.step, comparison.first.layers) == (1, comparison.names)
    assert comparison.first.before
    L = len(comparison.names)
    assert f"given differently: dtype of {L} layers: float32 in A, bfloat16 in B" in str(comparison)


def test_one_layer_rounded_to_bfloat16(network, plain_run):
    def round_it(model):
        with torch.no_grad():
            weight = model.get_parameter(LAYERS[network])
            weight.copy_(weight.bfloat16())

    first = wsf.compare(plain_run(network), train(network, begin=round_it)).first
    assert (first.step, first.layers, first.before) == (1, (LAYERS[network],), True)


def test_another_learning_rate_is_named(plain_run):
    def run(lr):
        return train("mlp", lr=lr, settings={"lr": lr, "model": {"width": 16}})

    comparison = wsf.compare(run(0.05), run(0.06))
    assert comparison.first.step == 1
    assert "the learning rate differs there: 0.05 in A, 0.06 in B" in str(comparison)
    assert [each.what for each in comparison.given] == ["learning rate from step 1 on, 3 layers", "settings: lr"]


# Equal runs


def test_equal_runs_have_the_same_bits(network, plain_run):
    comparison = wsf.compare(plain_run(network), train(network))
    L = len(comparison.names)
    assert comparison.same_bits
    assert str(comparison) == f"The same bits: every sum is equal, in all {STEPS} rows of all {L} layers."
    assert comparison.leaders == ()


def test_another_number_of_threads_records_the_same_bits(network, plain_run):
    """Only the record has other threads: torch itself adds in another order with another number of them."""
    before = torch.get_num_threads()

    def more(model, step):
        torch.set_num_threads(3)

    def fewer(model, step):
        torch.set_num_threads(before)

    try:
        assert wsf.compare(plain_run(network), train(network, inside=more, between=fewer)).same_bits
    finally:
        torch.set_num_threads(before)


def test_sums_that_another_backend_added_are_no_other_weights(network, plain_run, monkeypatch):
    monkeypatch.setenv("WEIGHTSCALE_FAST_BACKEND", "torch")
    comparison = wsf.compare(plain_run(network), train(network))
    assert not comparison.same
    first, advice, *_ = str(comparison).splitlines()
    assert "as equal weights do if another kind of processor or backend adds them" in first
    assert advice == "  to look past the order of additions, give a tolerance of 1e-06"
    changed = train(network, inside=nudge(LAYERS[network], 7, 0.001))
    assert wsf.compare(plain_run(network), train(network), tolerance=1e-6).same
    comparison = wsf.compare(plain_run(network), changed, tolerance=1e-6)
    assert (comparison.beyond_step, comparison.leaders) == (7, (LAYERS[network],))


# Growth, leaders, noise


def test_growth_is_held_against_repeats():
    rng = np.random.default_rng(1)
    a = noisy(100, 3)
    repeat = make_history(a * np.exp(rng.normal(0, 0.01, a.shape)), names=NAMES)
    grown = a * np.exp2(np.minimum(1e-6 * 1.5 ** np.arange(100), 0.5))[:, None]
    comparison = wsf.compare(make_history(a, names=NAMES), make_history(grown, names=NAMES), repeat)
    assert comparison.growth.late_size == pytest.approx(0.5)
    assert comparison.growth.late_floor == pytest.approx(0.01, abs=0.01)
    assert 20 <= comparison.growth.reached <= 27
    assert [comparison.steps[row] for row in comparison.growth.shown_rows] == [1, 11]
    assert "a factor of 1.41 at the end" in str(comparison)
    assert "noise, A against 1 repeat: 0.00" in str(comparison)


def test_who_leads_and_who_follows():
    a, b = noisy(50, 3), noisy(50, 3)
    b[9:, 2] *= 1.001  # not visible yet
    b[20:, 1] *= 1.5
    b[30:, 2] *= 1.5
    comparison = wsf.compare(make_history(a, names=NAMES), make_history(b, names=NAMES))
    assert (comparison.first.step, comparison.first.layers) == (10, ("head.weight",))
    assert (comparison.beyond_step, comparison.leaders) == (21, ("fc.weight",))
    assert "then 1 layer after it, the last head.weight at step 31; 1 layer never" in str(comparison)
    assert [comparison.names[i] for i in comparison.order] == ["fc.weight", "head.weight", "conv.weight"]


def test_equal_again():
    a, b = noisy(50, 3), noisy(50, 3)
    b[9:20] *= 1.5
    comparison = wsf.compare(make_history(a, names=NAMES), make_history(b, names=NAMES))
    assert comparison.same_from == 21
    assert "from step 21 on, all rows have the same bits again" in str(comparison)


def test_what_is_not_finite():
    a, b = noisy(20, 3), noisy(20, 3)
    a[5:, 0] = b[5:, 0] = np.nan
    assert wsf.compare(make_history(a, names=NAMES), make_history(b, names=NAMES)).same_bits
    b[8, 1] = np.nan
    b[9, 1] = np.inf
    comparison = wsf.compare(make_history(a, names=NAMES), make_history(b, names=NAMES), tolerance=0.99)
    assert (comparison.first.step, comparison.first.layers) == (9, ("fc.weight",))
    assert not comparison.same
    json.loads(comparison.to_json(), parse_constant=pytest.fail)


def test_within_a_tolerance():
    a = noisy(20, 3)
    comparison = wsf.compare(make_history(a, names=NAMES), make_history(a * 1.001, names=NAMES), tolerance=0.01)
    assert comparison.same
    assert not comparison.same_bits
    assert str(comparison).startswith("The same within 0.01: the largest relative difference is 0.001, in")


# Alignment


def test_layers_by_pattern():
    b = history(names=["model." + name for name in NAMES])
    comparison = wsf.compare(history(), b, layer_map={"^": "model."})
    assert comparison.same_bits
    assert comparison.names == tuple(NAMES)
    assert comparison.pairs.only_a == ()


def test_layers_without_a_partner_are_listed():
    b = history(names=["conv.weight", "new.weight", "head.weight"])
    b.numel[2] = 7
    comparison = wsf.compare(history(), b)
    assert comparison.names == ("conv.weight",)
    assert (comparison.pairs.only_a, comparison.pairs.only_b) == (("fc.weight",), ("new.weight",))
    assert comparison.pairs.resized == ("head.weight",)
    assert "of another size in B, and not compared: head.weight" in str(comparison)


def test_layers_in_another_order():
    a = history()
    b = replace(a, names=a.names[::-1], delta_l1=a.delta_l1[:, ::-1], prev_l1=a.prev_l1[:, ::-1])
    assert wsf.compare(a, b).same_bits


def test_only_common_steps_count():
    a = history(20)
    comparison = wsf.compare(a, a.select(steps=slice(5, 12)))
    assert comparison.same_bits
    assert comparison.steps.tolist() == list(range(6, 13))
    assert "7 rows that both have; 13 of A and 0 of B have no partner" in str(comparison)


@pytest.mark.parametrize(
    ("key", "values", "by"), [("batch_size", (64, 32), "samples"), ("steps_per_epoch", (5, 10), "epoch")]
)
def test_aligned_by_samples_or_epochs(key, values, by):
    a, b = (history(20, settings={key: value}) for value in values)
    comparison = wsf.compare(a, b)
    assert comparison.pairs.by == by
    assert comparison.steps.tolist() == list(range(1, 11))
    assert comparison.pairs.rows_b.tolist() == list(range(1, 20, 2))
    assert "already at step 1 of A (2 of B)" in str(comparison)
    assert f"the rows are aligned by {by}, so their steps are of other batches" in str(comparison)
    assert wsf.compare(a, b, align="step").same_bits
    b.prev_l1[:] = 2
    assert "their weights before the step are not equal (prev_l1)" in str(wsf.compare(a, b))


def test_rows_of_one_step_each_are_compared_whatever_every_is():
    a = history(20)
    b = replace(a.select(steps=a.steps % 4 == 0), every=4, baseline="before_step")
    comparison = wsf.compare(a, b)
    assert comparison.same_bits
    assert len(comparison.steps) == 5
    assert "A has baseline='last_row' and B 'before_step'" in str(comparison)


def test_another_definition_is_compared_by_the_norm_ratio():
    a = history(20)
    b = replace(a, definition="mean_ratio", ratio_sum=a.delta_l1 * 5)
    comparison = wsf.compare(a, b)
    assert comparison.same_bits
    assert (comparison.log2 == 0).all()
    assert "so the RWC is compared by norm_ratio" in str(comparison)


# Wrong input


@pytest.mark.parametrize(
    ("b", "options", "message"),
    [
        (history(names=["x", "y", "z"]), {}, "have a layer in common, but A has conv.weight.*B has x, y, z: give"),
        (history(numel=np.full(3, 7)), {}, "must have a layer of the same size in common"),
        (history(steps=np.arange(31, 51)), {}, "must have a row at the same step, but A has 20 rows"),
        (history(every=2), {}, "spans 1 in A and 2 in B: record both with the same every="),
        (history(settings={"unit": "epoch"}), {}, "rows of A are optimizer steps and those of B epochs"),
        (history().select(steps=slice(0, 0)), {}, "both runs must have rows, but B has none"),
        (history(), {"align": "batch"}, "align must be one of 'auto', 'step'"),
        (history(), {"align": "samples"}, "align='samples' needs settings.'batch_size'. in both runs, got None"),
        (history(), {"tolerance": 1}, "tolerance must be a relative difference, 0 or more and below 1, got 1"),
        (history(), {"layer_map": {"(": ""}}, "layer_map must replace regular expressions, got '\\('"),
        (history(), {"layer_map": {".*": "x"}}, "several layers of A become x"),
        (history(), {"noise": history(names=["x", "y", "z"])}, "noise must be repeats of A, and repeat 1 is none"),
    ],
)  # fmt: skip
def test_wrong_input(b, options, message):
    with pytest.raises(ValueError, match=message):
        wsf.compare(history(), b, **options)


def test_what_is_no_run():
    with pytest.raises(TypeError, match="must be an RWCHistory, the path of a run folder or an RWCMonitor, got int"):
        wsf.compare(history(), 3)
