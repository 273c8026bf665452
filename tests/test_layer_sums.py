"""The sums of every backend against float64: sizes, dtypes, memory layouts, special values."""

import math

import pytest
import torch

import weightscale_fast as wsf
from weightscale_fast.ops import plan as plan_module
from weightscale_fast.ops import tuning
from weightscale_fast.ops.backends import run_plan
from weightscale_fast.ops.plan import CHUNK, build_plan
from weightscale_fast.ops.sums import DELTA_MAX, DELTA_SQ, PREV_SQ
from weightscale_fast.ratios import l2_ratio, mean_ratio, norm_ratio

from .oracle import TOLERANCE, layer_sums_in_order, module_of, nudge, oracle_of, oracle_sums

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# around a register, a block of registers, and a chunk
SIZES = [1, 2, 7, 15, 16, 17, 31, 33, 63, 65, 127, 128, 129, 255, 257, 1023, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5]


def check_sums(model, before, *, backend, update=True):
    """Check the sums of `model` against its weights `before`, and the snapshot after the pass."""
    prev = wsf.snapshot(module_of(*before), layers="all")
    sums = layer_sums_in_order(model, prev, update=update, backend=backend)
    expected = oracle_of(model.parameters(), before)
    torch.testing.assert_close(sums, expected, rtol=TOLERANCE, atol=0, equal_nan=True)
    left = list(model.parameters()) if update else before
    for stored, weights in zip(prev.state_dict().values(), left, strict=True):
        torch.testing.assert_close(stored, weights.detach(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("update", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_size(dtype, update, backend):
    before = [torch.randn(n).to(dtype) for n in SIZES]
    model = module_of(*[w.clone() for w in before])
    nudge(model, 1e-2)
    check_sums(model, before, backend=backend, update=update)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unaligned(dtype, backend):
    storage = torch.randn(40_000).to(dtype)
    before = [storage[start : start + 4_999] for start in range(1, 35_000, 5_001)]
    model = module_of(*[torch.cat([w, w])[3 : 3 + len(w)] for w in before])
    before = [w.detach().clone() for w in model.parameters()]
    nudge(model)
    check_sums(model, before, backend=backend)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tiny_layers_at_every_address_touch_no_neighbour(dtype, backend):
    """Layers that end before their first 16-byte boundary or just after it, at every start address."""
    vector = 16 // dtype.itemsize
    flat_cur, flat_prev = torch.randn(4_000).to(dtype), torch.randn(4_000).to(dtype)
    spans, end = [], 0
    for phase in range(vector):
        for n in range(1, 2 * vector + 2):
            start = -(-end // vector) * vector + phase
            spans.append(slice(start, start + n))
            end = start + n + 1
    assert end < 4_000
    cur, prev = [flat_cur[span] for span in spans], [flat_prev[span] for span in spans]
    before = flat_prev.clone()
    expected = oracle_of(cur, [p.clone() for p in prev])
    plan = build_plan(cur, prev)
    out = torch.zeros(1, 7, len(cur), dtype=torch.float64)
    run_plan(plan, cur, out, plan.zero, True, backend)
    torch.testing.assert_close(out[0], expected, rtol=TOLERANCE, atol=0)
    for span in spans:
        before[span] = flat_cur[span]
    assert torch.equal(flat_prev, before)


@pytest.mark.parametrize("cursor", [5, 2, -1, -4])
def test_the_row_of_the_cursor_is_filled_and_no_other(cursor, backend):
    """The row is the cursor modulo 3, as in Python. A negative cursor must not write before the first row."""
    before = [torch.randn(9, 9), torch.randn(5, 3, dtype=torch.float64), torch.randn(2, 2)]
    cur = [w * 1.5 for w in before]
    plan = build_plan(cur, [w.clone() for w in before])
    room = torch.full((9, 3, 3), -1.0, dtype=torch.float64)
    out = room[3:6]
    run_plan(plan, cur, out, torch.tensor([cursor]), True, backend)
    assert (room[:5] == -1).all()
    assert (room[6:] == -1).all()
    torch.testing.assert_close(out[2], oracle_of(cur, before, 3), rtol=TOLERANCE, atol=0)


@pytest.mark.parametrize("launch", ["few", "some", "many"])
def test_more_chunks_in_a_layer_than_stage_2_takes_at_once(launch, backend, monkeypatch):
    """Each launch of stage 2, in a group that also has a layer of few chunks and an empty layer.

    CUDA's takes 4,096 chunks at once where there are many. Triton's interpreter is slow, so it is told that 300 are.
    """
    chunks = {"few": 63, "some": 300, "many": 4_200 if backend == "cuda_on_cpu" else 300}[launch]
    monkeypatch.setattr(tuning, "MANY_CHUNKS", 200 if launch == "many" else 1_000)
    monkeypatch.setattr(plan_module, "CHUNK", 16)
    before = [torch.randn(16 * chunks + 3), torch.randn(3), torch.randn(0)]
    cur = [w * torch.linspace(0.5, 1.5, len(w)) for w in before]
    plan = build_plan(cur, [w.clone() for w in before])
    assert plan.groups[0].most_chunks == chunks + 1
    out, rwc = torch.zeros(1, 7, 3, dtype=torch.float64), torch.full((3,), -1.0)
    run_plan(plan, cur, out, plan.zero, False, backend, rwc)
    torch.testing.assert_close(out[0], oracle_of(cur, before), rtol=TOLERANCE, atol=0)
    assert torch.equal(rwc, mean_ratio(out[0, 6], plan.numel).float())


@pytest.mark.parametrize("sums", [3, 4, 6, 7])
def test_every_number_of_sums(sums, backend):
    """Each is another kernel: with and without the L2 sums, with and without the ratios."""
    storage = torch.randn(9_000)
    before = [torch.randn(CHUNK + 5), storage[1:4_001], torch.randn(70).bfloat16(), torch.randn(0), torch.randn(3)]
    cur = [w * 1.25 for w in before]
    plan = build_plan(cur, [w.clone() for w in before])
    out = torch.full((2, sums, len(cur)), -1.0, dtype=torch.float64)
    run_plan(plan, cur, out, torch.tensor([1]), True, backend)
    torch.testing.assert_close(out[1], oracle_of(cur, before, sums), rtol=TOLERANCE, atol=0)
    assert (out[0] == -1).all()


@pytest.mark.parametrize("sums", [3, 4, 6, 7])
def test_the_ratio_of_the_pass_is_that_of_its_sums(sums, backend):
    """The bits are those of ratios.py: zeros that move, zeros that stay, NaN, inf, empty layers, two dtypes."""
    nan, inf = float("nan"), float("inf")
    before = [torch.randn(40_000), torch.zeros(3), torch.zeros(3), torch.tensor([nan, 1.0]), torch.tensor([inf, 1.0])]
    before += [torch.randn(0), torch.randn(70, 3).double()]
    cur = [w * 1.25 for w in before]
    cur[1] = torch.ones(3)
    plan = build_plan(cur, [w.clone() for w in before])
    out, rwc = torch.zeros(2, sums, len(cur), dtype=torch.float64), torch.full((len(cur),), -1.0)
    run_plan(plan, cur, out, torch.tensor([3]), True, backend, rwc)
    row = out[1]
    expected = norm_ratio(row[0], row[1]) if sums == 3 else mean_ratio(row[-1], plan.numel)
    if sums == 6:
        expected = l2_ratio(row[DELTA_SQ].sqrt(), row[PREV_SQ].sqrt())
    torch.testing.assert_close(rwc, expected.float(), rtol=0, atol=0, equal_nan=True)
    assert rwc[1] == inf
    assert rwc[5] == 0


def test_neighbours_of_a_view_are_untouched(backend):
    """Weights in the middle of a buffer: the pass must write neither the buffer nor past its own copy."""
    buffer = torch.full((3_000,), 7.0)
    model = module_of(buffer[1_001:2_000])
    prev = {"w0": torch.full((3_000,), -7.0)[501:1_500]}
    with pytest.raises(ValueError, match="no layer"):  # a parameter of one dimension is not a layer
        wsf.fast_rwc(model, prev)
    model = module_of(buffer[1_001:2_000].view(27, 37))
    surroundings = torch.full((3_000,), -7.0)
    prev = {"w0": surroundings[501:1_500].view(27, 37)}
    assert wsf.fast_rwc(model, prev, backend=backend) == 2.0
    assert (buffer == 7).all()
    assert (surroundings[:501] == -7).all()
    assert (surroundings[1_500:] == -7).all()
    assert (surroundings[501:1_500] == 7).all()


def test_memory_layouts(backend):
    shape = (6, 5, 4, 3)
    storages = [torch.randn(n) for n in (shape, shape, shape[::-1], (6, 5, 1, 3), (6, 5, 4, 7))]
    storages[1] = storages[1].to(memory_format=torch.channels_last)
    permuted, expanded, sliced = storages[2].permute(3, 2, 1, 0), storages[3].expand(shape), storages[4][..., :3]
    model = module_of(*storages[:2], permuted, expanded, sliced)
    prev = wsf.snapshot(model)
    before = [w.detach().clone() for w in model.parameters()]
    for storage in storages:
        storage.mul_(1.5)
    sums = layer_sums_in_order(model, prev, backend=backend)
    torch.testing.assert_close(sums, oracle_of(model.parameters(), before), rtol=TOLERANCE, atol=0)
    assert wsf.fast_rwc(model, prev, backend=backend).sum() == 0  # prev was updated in every layout


def test_dict_of_clones_in_another_order(backend):
    model = module_of(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    before = model.w0.detach().clone(memory_format=torch.contiguous_format)
    prev = {"w0": before.clone()}
    nudge(model)
    sums = layer_sums_in_order(model, prev, backend=backend)[:, 0]
    torch.testing.assert_close(sums, oracle_sums(model.w0, before), rtol=TOLERANCE, atol=0)
    assert torch.equal(prev["w0"], model.w0)


def test_special_values(backend):
    """NaN, inf, zeros and subnormals pass through by IEEE rules, each in its own layer."""
    nan, inf = float("nan"), float("inf")
    before = [
        torch.tensor([1.0, nan]),
        torch.tensor([1.0, inf]),
        torch.tensor([0.0, 0.0]),
        torch.tensor([0.0, 2.0]),
        torch.tensor([1e-40, 2e-40]),
        torch.tensor([-0.0, 1.0]),
    ]
    after = [
        torch.tensor([2.0, 1.0]),
        torch.tensor([1.0, 1.0]),
        torch.tensor([0.0, 0.0]),
        torch.tensor([1.0, 2.0]),
        torch.tensor([2e-40, 2e-40]),
        torch.tensor([0.0, 1.0]),
    ]
    check_sums(module_of(*after), before, backend=backend)
    prev = wsf.snapshot(module_of(*before), layers="all")
    rwc = wsf.fast_rwc(module_of(*after), prev, backend=backend)
    expected = torch.tensor([nan, nan, 0.0, 0.5, 1e-40 / 3e-40, 0.0])
    torch.testing.assert_close(rwc, expected, equal_nan=True, rtol=1e-4, atol=0)


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("depth", [8, 64])
def test_the_worst_rounding(lanes, depth, backend):
    """Each of `lanes` float32 sums gets 1, and then numbers that just vanish in it, until it is `depth` numbers old."""
    block = torch.full((depth, lanes), 2.0**-24 * (1 - 2**-20))
    block[0] = 1.0
    weights = block.reshape(-1).repeat(256)
    check_sums(module_of(weights), [torch.zeros_like(weights)], backend=backend)


@pytest.mark.parametrize("n", [7, 15, 16, 17, 300])
def test_a_ratio_too_large_for_float32_is_infinite_at_every_place(n, backend):
    """Of one weight among n: it may be in a register, or among the last few that fill none."""
    before = torch.ones(n)
    before[n - 1] = 1e-40
    prev = wsf.snapshot(module_of(before), layers="all")
    sums = wsf.layer_sums(module_of(torch.ones(n)), prev, ratio_sum=True, backend=backend)
    assert sums.ratio_sum.item() == math.inf


@pytest.mark.parametrize("place", [500, 999], ids=["in a register", "after the last register"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_special_values_amid_others(dtype, place, backend):
    """NaN and inf in a layer that fills whole registers, and among the few weights that fill none."""
    nan, inf = float("nan"), float("inf")
    before = [torch.randn(1_000).to(dtype) for _ in range(4)]
    after = [w * 2 for w in before]
    for i, (was, becomes) in enumerate([(nan, nan), (1.0, nan), (inf, inf), (1.0, -inf)]):
        before[i][place], after[i][place] = was, becomes
    check_sums(module_of(*after), before, backend=backend)


@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_squares_of_tiny_and_huge_weights(dtype, size, backend):
    """Their float32 squares would be 0, or infinite."""
    before = [(torch.randn(n) * size).to(dtype) for n in (5, 1_000, CHUNK + 3)]
    after = [w * 1.5 for w in before]
    check_sums(module_of(*after), before, backend=backend)
    prev = wsf.snapshot(module_of(*before), layers="all")
    rwc = wsf.fast_rwc(module_of(*after), prev, definition="l2_ratio", backend=backend)
    torch.testing.assert_close(rwc, torch.full((3,), 0.5), rtol=1e-2 if dtype == torch.bfloat16 else 1e-6, atol=0)


def test_the_largest_change_wherever_it_is(backend):
    """In each of two chunks, in a register and after the last one; NaN is above infinity, in any order."""
    n = CHUNK + 101
    before, after = [], []
    for places in ([0], [77], [CHUNK - 1], [CHUNK], [n - 1], [3, n - 1], [n - 1, 3]):
        w = torch.randn(n)
        before.append(w.clone())
        for change, place in zip((-9.0, 8.0), places, strict=False):
            w[place] += change
        after.append(w)
    for first, second in ((math.nan, math.inf), (math.inf, math.nan)):
        w = torch.randn(n)
        before.append(w.clone())
        w[5], w[n - 2] = first, second
        after.append(w)
    prev = wsf.snapshot(module_of(*before), layers="all")
    largest = wsf.layer_sums(module_of(*after), prev, l2=True, backend=backend).delta_max
    torch.testing.assert_close(largest[:7], torch.full((7,), 9.0, dtype=torch.float64), rtol=1e-6, atol=0)
    assert largest[7:].isnan().all()


def test_layer_sums_has_what_was_requested(backend):
    model = module_of(torch.ones(2, 2))
    prev = wsf.snapshot(module_of(torch.tensor([[1.0, -2.0], [1.0, 1.0]])))
    plain = wsf.layer_sums(model, prev, update=False, backend=backend)
    assert plain[3:] == (None,) * 4
    sums = wsf.layer_sums(model, prev, l2=True, backend=backend)
    assert sums.ratio_sum is None
    assert sums.delta_l1 == sums.delta_l2 == sums.delta_max == 3
    torch.testing.assert_close(sums.prev_l2, torch.tensor([7.0], dtype=torch.float64).sqrt())


def test_l2_ratio_has_the_rules_of_norm_ratio(backend):
    before = [torch.zeros(3, 3), torch.zeros(3, 3), torch.full((2, 2), math.nan), torch.full((2, 2), 3.0)]
    after = [torch.ones(3, 3), torch.zeros(3, 3), torch.ones(2, 2), torch.full((2, 2), 6.0)]
    after[3][0] = 3.0  # a half of the weights doubles
    prev = wsf.snapshot(module_of(*before))
    rwc = wsf.fast_rwc(module_of(*after), prev, definition="l2_ratio", backend=backend)
    expected = torch.tensor([math.inf, 0.0, math.nan, math.sqrt(0.5)])
    torch.testing.assert_close(rwc, expected, equal_nan=True)


# Triton's interpreter is numpy.
@pytest.mark.filterwarnings("ignore:overflow encountered in reduce:RuntimeWarning")
def test_a_layer_that_runs_away_does_not_look_still(backend):
    """Weights so large that float32 lanes overflow: the ratio is right, or it is no number; it is never 0."""
    for size in (1e30, 1e34, 1e36, 1e37, 1e38):
        before = torch.full((300, 300), size)
        prev = wsf.snapshot(module_of(before))
        rwc = wsf.fast_rwc(module_of(before * 1.1), prev, backend=backend).item()
        assert rwc == pytest.approx(0.1, rel=1e-3) or not math.isfinite(rwc)
        assert size > 1e36 or math.isfinite(rwc)


def test_norm_ratio_of_zeros_that_move_is_inf(backend):
    prev = wsf.snapshot(module_of(torch.zeros(3, 3), torch.zeros(3, 3)))
    rwc = wsf.fast_rwc(module_of(torch.ones(3, 3), torch.zeros(3, 3)), prev, backend=backend)
    assert rwc.tolist() == [float("inf"), 0.0]


def test_mean_ratio_is_plain_ieee(backend):
    before = [torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 2.0]])]
    after = [torch.tensor([[1.5, 2.0]]), torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 3.0]])]
    prev = wsf.snapshot(module_of(*before))
    rwc = wsf.fast_rwc(module_of(*after), prev, definition="mean_ratio", backend=backend)
    torch.testing.assert_close(rwc, torch.tensor([0.25, float("inf"), float("nan")]), equal_nan=True)


@pytest.mark.parametrize("ratio", [norm_ratio, mean_ratio, l2_ratio])
def test_ratio_of_arrays_is_that_of_tensors(ratio):
    nan, inf = float("nan"), float("inf")
    above = torch.tensor([1.0, 0.0, 2.0, 0.0, nan, inf], dtype=torch.float64)
    below = torch.tensor([4.0, 0.0, 0.0, 3.0, 2.0, 5.0], dtype=torch.float64)
    if ratio is mean_ratio:
        below = below.long()  # numbers of weights
    found = ratio(above.numpy(), below.numpy())
    torch.testing.assert_close(torch.from_numpy(found), ratio(above, below), rtol=0, atol=0, equal_nan=True)
    assert ratio(above[0].numpy(), below[0].numpy()) == 0.25  # a single layer


def test_empty_and_single_element_layers(backend):
    before = [torch.randn(0, 3), torch.randn(1, 1), torch.randn(5, 0), torch.randn(2, 2)]
    model = module_of(*[w.clone() for w in before])
    nudge(model)
    check_sums(model, before, backend=backend)
    prev = wsf.snapshot(module_of(*before))
    for definition in ("norm_ratio", "mean_ratio", "l2_ratio"):
        rwc = wsf.fast_rwc(model, prev, definition=definition, update=False, backend=backend)
        assert rwc[0] == rwc[2] == 0
        assert rwc[1] > 0


def test_only_empty_layers(backend):
    model = module_of(torch.empty(0, 3))
    assert wsf.fast_rwc(model, wsf.snapshot(model), backend=backend).tolist() == [0.0]


def test_mixed_dtypes_keep_their_columns(backend):
    before = [torch.randn(9, 9).to(DTYPES[i % 4]) for i in range(12)]
    model = module_of(*[w.clone() for w in before])
    nudge(model, 0.1)
    check_sums(model, before, backend=backend)


def test_16_bit_weights_that_round_back_have_not_moved(backend):
    """A step below half a unit in the last place does not change a bfloat16 weight: RWC uses the stored weights."""
    model = module_of(torch.ones(8, 8, dtype=torch.bfloat16))
    prev = wsf.snapshot(model)
    with torch.no_grad():
        model.w0.add_(1e-3)
    sums = wsf.layer_sums(model, prev, backend=backend)
    assert sums.moved == 0
    assert sums.delta_l1 == 0


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_same_bits_twice_and_for_any_number_of_threads(backend):
    """Also of weights that are not dense: every second column, and a slice of a transposed matrix."""
    before = [torch.randn(n) for n in (5, 70_001, 1_000_003, 40)]
    model = module_of(*[w.clone() for w in before], torch.randn(900, 999)[:, ::2], torch.randn(600, 900).t()[:, :500])
    before += [torch.randn(900, 500), torch.randn(900, 500)]
    nudge(model)
    prev = wsf.snapshot(module_of(*before), layers="all")
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 1, 2):
            torch.set_num_threads(count)
            results.append(layer_sums_in_order(model, prev, update=False, backend=backend))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_hundred_million_weights(dtype):
    """A case in which `norm(p=1)` in float32 loses whole per cents."""
    before = torch.randn(100_000_000, dtype=torch.float32).to(dtype).view(10_000, 10_000)
    model = module_of(before.clone())
    with torch.no_grad():
        model.w0.mul_(1.01)
    prev = wsf.snapshot(module_of(before))
    sums = layer_sums_in_order(model, prev, update=False, backend="cpu")[:, 0]
    expected = torch.zeros(7, dtype=torch.float64)
    for rows in range(0, 10_000, 1_000):
        part = oracle_sums(model.w0[rows : rows + 1_000], before[rows : rows + 1_000])
        largest = torch.maximum(expected[DELTA_MAX], part[DELTA_MAX])
        expected += part
        expected[DELTA_MAX] = largest
    torch.testing.assert_close(sums[:6], expected[:6], rtol=TOLERANCE, atol=0)
