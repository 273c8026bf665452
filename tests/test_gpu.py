"""The pass and the record on a GPU. Marked `gpu`: skipped where there is none, required by `make gpu-check`."""

import gc

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.ops.backends import choose_backend
from weightscale_fast.ops.plan import CHUNK
from weightscale_fast.record.ring import SHARD_ROWS
from weightscale_fast.train import TrainConfig, train
from weightscale_fast.train.config import recorded_config
from weightscale_fast.train.metrics import read_metrics

from .oracle import TOLERANCE, layer_sums_in_order, module_of, oracle_of, oracle_sums

pytestmark = pytest.mark.gpu
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SIZES = [1, 2, 3, 7, 8, 9, 255, 1023, 1024, 1025, 4097, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5, 1_000_003]


@pytest.fixture(params=["triton", "cuda", "torch"])
def backend(request):
    return request.param


@pytest.fixture(params=["triton", "cuda"])
def fused_backend(request):
    return request.param


def moved(before):
    """A model whose weights are a small step away from `before`, in the same memory layouts."""
    after = [w.clone().add_(torch.randn_like(w), alpha=1e-2) for w in before]
    return module_of(*after)


def check(before, model, backend):
    prev = wsf.snapshot(module_of(*before), layers="all")
    sums = layer_sums_in_order(model, prev, backend=backend)
    expected = oracle_of(model.parameters(), before)
    torch.testing.assert_close(sums, expected, rtol=TOLERANCE, atol=0, equal_nan=True)
    assert wsf.fast_rwc(model, prev, backend=backend).nan_to_num(0).sum() == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_size(dtype, backend):
    before = [torch.randn(n, device="cuda").to(dtype) for n in SIZES]
    check(before, moved(before), backend)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts(dtype, backend):
    """Odd addresses, channels_last, permuted, empty, one element, expanded."""
    flat = torch.randn(60_001, device="cuda").to(dtype)
    before = [flat[start : start + 9_001] for start in (1, 9_003, 20_005)]
    before += [torch.randn(6, 5, 4, 3, device="cuda").to(dtype).to(memory_format=torch.channels_last)]
    before += [torch.randn(7, 6, 5, device="cuda").to(dtype).permute(2, 0, 1)]
    before += [torch.empty(0, 3, device="cuda", dtype=dtype), torch.randn(1, 1, device="cuda").to(dtype)]
    shifted = [torch.cat([w.flatten(), w.flatten()])[3 : 3 + w.numel()].view(w.shape) for w in before[:3]]
    check(shifted, module_of(*[w.mul(1.5) for w in shifted]), backend)
    check(before, moved(before), backend)


def test_special_values(backend):
    nan, inf = float("nan"), float("inf")
    before = [
        torch.tensor(values, device="cuda") for values in ([1, nan], [1, inf], [0.0, 0.0], [0.0, 2.0], [1e-40, 1.0])
    ]
    after = [
        torch.tensor(values, device="cuda") for values in ([2, 1.0], [1, 1.0], [0.0, 0.0], [1.0, 2.0], [2e-40, 1.0])
    ]
    check(before, module_of(*after), backend)


def test_same_bits_twice(backend):
    before = [torch.randn(n, device="cuda") for n in (5, 70_001, 3_000_003)]
    model, prev = moved(before), wsf.snapshot(module_of(*before), layers="all")
    results = [layer_sums_in_order(model, prev, update=False, backend=backend) for _ in range(5)]
    assert all(torch.equal(result, results[0]) for result in results)


def test_triton_and_cuda_agree():
    before = [torch.randn(n, device="cuda", dtype=torch.float64) for n in (5, 70_001, 3_000_003)]
    model, prev = moved(before), wsf.snapshot(module_of(*before), layers="all")
    triton, cuda = (torch.stack(wsf.layer_sums(model, prev, update=False, backend=b)[:3]) for b in ("triton", "cuda"))
    torch.testing.assert_close(triton, cuda, rtol=1e-12, atol=0)


def test_more_than_2_to_the_31_weights(fused_backend):
    before = torch.ones(2**31 // 4096 + 1, 4096, dtype=torch.bfloat16, device="cuda")
    model = module_of(before.clone())
    with torch.no_grad():
        model.w0[-1] = 3
    prev = wsf.snapshot(module_of(before))
    sums = wsf.layer_sums(model, prev, backend=fused_backend)
    assert sums.moved == 4096
    assert sums.delta_l1 == 2 * 4096
    assert sums.prev_l1 == before.numel()
    assert wsf.fast_rwc(model, prev, backend=fused_backend) == 0


@pytest.fixture
def no_waiting():
    """Any wait of the host for the device is an error."""
    mode = torch.cuda.get_sync_debug_mode()
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode(mode)


def training(**optimizer_arguments):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8)).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, **optimizer_arguments)
    data = torch.randn(16, 64, device="cuda")

    def step():
        optimizer.zero_grad(set_to_none=False)
        model(data).square().mean().backward()
        optimizer.step()

    return model, optimizer, step


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_nothing_waits(tmp_path, no_waiting):
    model, optimizer, step = training()
    prev = wsf.snapshot(model)
    monitor = wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run")
    step()
    wsf.fast_rwc(model, prev)
    no_waiting()
    for _ in range(2 * SHARD_ROWS + 100):
        step()
        wsf.fast_rwc(model, prev)
    torch.cuda.set_sync_debug_mode("default")
    monitor.close()
    history = wsf.RWCHistory.load(tmp_path / "run")
    assert history.steps.tolist() == list(range(1, 2 * SHARD_ROWS + 102))
    assert (history.rwc > 0).all()


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_what_a_gradient_scaler_tells_travels_with_the_rows(no_waiting):
    model, optimizer, step = training(fused=True)
    step()
    monitor = wsf.RWCMonitor(model, optimizer)
    found = [torch.tensor(float(i % 7 == 3), device="cuda") for i in range(2 * SHARD_ROWS + 100)]
    optimizer.grad_scale = torch.tensor(1.0, device="cuda")
    no_waiting()
    for optimizer.found_inf in found:
        optimizer.step()
    torch.cuda.set_sync_debug_mode("default")
    history = monitor.history()
    assert np.flatnonzero(history.skipped).tolist() == list(range(3, len(found), 7))
    assert (history.rwc[history.skipped] == 0).all()
    assert (history.rwc[~history.skipped] > 0).all()


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("end", ["step", "flush", "history", "close"])
def test_clipping_after_the_step_is_told_without_waiting(no_waiting, end):
    """The host does not wait for a comparison: a later step tells what it found, or the end of the loop."""
    model, optimizer, step = training()
    monitor = wsf.RWCMonitor(model, optimizer)
    step()
    no_waiting()

    def loop():
        for most in (0.1, 0.09, 0.08, 0.07, 0.06):
            step()
            with torch.no_grad():
                for p in model.parameters():
                    p.clamp_(-most, most)
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
        step() if end == "step" else getattr(monitor, end)()

    with pytest.warns(UserWarning, match=r"0.weight.*1.weight moved after their row was recorded: something wrote"):
        loop()


def test_a_step_that_is_captured_while_comparisons_pend():
    """Nobody may ask the device for them during the capture."""
    model, optimizer, step = training()
    monitor = wsf.RWCMonitor(model, optimizer)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    monitor._steps.compare()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(10):
        graph.replay()
    assert monitor.history().steps.tolist() == list(range(1, 14))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_gradients_of_frozen_layers_are_not_waited_for(no_waiting):
    """A GAN may zero its gradients in place: they are written to at every step, and only the GPU knows the zeros."""
    model, optimizer, step = training()
    step()
    model[0].weight.requires_grad_(False)
    monitor = wsf.RWCMonitor(model, optimizer)
    no_waiting()
    for _ in range(50):
        step()
    torch.cuda.set_sync_debug_mode("default")
    assert (monitor.history().delta_l1[:, 0] == 0).all()


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("kind", ["before_step", "in the step"])
def test_no_memory_is_held_between_steps(no_waiting, kind):
    """The rows are those of float64, though the loop changes the weights between steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 500), nn.Linear(500, 7)).to("cuda")
    make = torch.optim.AdamW if kind == "before_step" else wsf.optim.AdamW
    optimizer = make(model.parameters(), lr=1e-3)
    monitor = wsf.RWCMonitor(model, optimizer, every=2, baseline="before_step")
    expected = []
    for step in range(6):
        model(torch.ones(4, 300, device="cuda")).square().mean().backward()
        before = [p.detach().clone() for p in model.parameters() if p.dim() > 1]
        if step > 1:  # tables are made in the first row
            no_waiting()
        optimizer.step()
        torch.cuda.set_sync_debug_mode("default")
        assert monitor.nbytes == 0
        if step % 2:
            after = [p for p in model.parameters() if p.dim() > 1]
            expected.append(torch.stack([oracle_sums(w, p) for w, p in zip(after, before, strict=True)], dim=1))
        with torch.no_grad():
            model[0].weight.mul_(0.9)
        optimizer.zero_grad()
    history, sums = monitor.history(), torch.stack(expected).cpu().numpy()
    assert history.steps.tolist() == [2, 4, 6]
    np.testing.assert_allclose(history.delta_l1, sums[:, 0], rtol=TOLERANCE)
    np.testing.assert_allclose(history.prev_l1, sums[:, 1], rtol=TOLERANCE)
    assert np.array_equal(history.moved, sums[:, 2])


def test_a_brief_copy_is_refused_in_a_graph():
    model = nn.Linear(8, 8).to("cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    wsf.RWCMonitor(model, optimizer, baseline="before_step")
    model(torch.ones(2, 8, device="cuda")).sum().backward()
    with pytest.raises(wsf.WeightScaleError, match="before_step.*CUDA graph"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step()


def test_a_graph_records_each_replay():
    """100 replays of a step with record() in it equal 100 eager steps."""
    model, _, step = training()
    eager = wsf.RWCMonitor(model)
    for _ in range(103):
        step()
        eager.record()

    model, _, step = training()
    monitor = wsf.RWCMonitor(model)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
            monitor.record()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
        monitor.record()
    for _ in range(100):
        graph.replay()
    history = monitor.history()
    assert history.steps.tolist() == eager.history().steps.tolist()
    assert np.array_equal(history.delta_l1, eager.history().delta_l1)
    assert monitor.step == 103


def test_rows_that_a_graph_overwrote_are_reported():
    model, _, step = training()
    monitor = wsf.RWCMonitor(model)
    step()
    monitor.record()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        monitor.record()
    for _ in range(2 * SHARD_ROWS + 10):
        graph.replay()
    with pytest.warns(UserWarning, match="11 rows were overwritten"):
        history = monitor.history()
    assert history.steps.tolist() == list(range(12, 2 * SHARD_ROWS + 12))


def test_a_graph_that_outlives_its_monitor_writes_to_no_other_tensor():
    model = nn.Linear(64, 64).cuda()
    monitor = wsf.RWCMonitor(model)
    monitor.record()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        model.weight.add_(1)
        monitor.record()
    del monitor
    gc.collect()
    others = [torch.zeros(512 * n, dtype=torch.uint8, device="cuda") for n in range(1, 65) for _ in range(50)]
    for _ in range(5):
        graph.replay()
    assert not any(other.any() for other in others)


def test_recent_rows_of_another_stream_are_complete():
    model = nn.Linear(64, 64).cuda()
    monitor = wsf.RWCMonitor(model)
    monitor.record()
    monitor.flush()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side), torch.no_grad():
        torch.cuda._sleep(10**9)  # cycles
        model.weight.mul_(2)
        monitor.record()
    recent = monitor.recent(after=1)
    assert recent.steps.tolist() == [2]
    assert recent.rwc.tolist() == [[1.0]]


@pytest.mark.parametrize("definition", ["norm_ratio", "mean_ratio"])
def test_the_first_record_may_be_in_a_graph(definition):
    """What records was compiled and loaded when the monitor was made: a graph cannot hold a first launch."""
    model = module_of(torch.ones(37, 41, device="cuda", dtype=torch.float64), torch.ones(3, 3, device="cuda").half())
    monitor = wsf.RWCMonitor(model, definition=definition)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        model.w0.mul_(2)
        monitor.record()
    for _ in range(3):
        graph.replay()
    assert monitor.history().rwc.tolist() == [[1, 0]] * 3


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("side", [False, True])
def test_a_new_plan_waits_for_nothing(no_waiting, side):
    """Clones as prev make a plan at each call, and a replaced parameter one at the next row."""
    model = module_of(torch.ones(300, 300, device="cuda"))
    prev = {"w0": torch.ones(300, 300, device="cuda")}
    monitor = wsf.RWCMonitor(model)
    wsf.fast_rwc(model, prev)
    monitor.record()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream() if side else torch.cuda.current_stream()
    no_waiting()
    with torch.cuda.stream(stream):
        values = []
        for _ in range(5):
            model.w0 = nn.Parameter(model.w0.detach() * 2)
            values.append(wsf.fast_rwc(model, prev))
            monitor.record()
    torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    assert torch.stack(values).tolist() == [[1.0]] * 5
    assert monitor.history().rwc[1:].tolist() == [[1.0]] * 5


def test_the_ratio_is_that_of_the_sums(fused_backend):
    """Stage 2 writes it, for layers of few chunks and of many."""
    before = [
        torch.randn(3, 3, device="cuda"),
        torch.zeros(2, 2, device="cuda"),
        torch.randn(20_000, 1_000, device="cuda"),
    ]
    model, prev = moved(before), wsf.snapshot(module_of(*before))
    sums = wsf.layer_sums(model, prev, update=False, ratio_sum=True, backend=fused_backend)
    norm = wsf.fast_rwc(model, prev, update=False, backend=fused_backend)
    mean = wsf.fast_rwc(model, prev, update=False, definition="mean_ratio", backend=fused_backend)
    numel = torch.tensor([w.numel() for w in before], device="cuda")
    assert torch.equal(norm, (sums.delta_l1 / sums.prev_l1).float())
    assert torch.equal(mean, (sums.ratio_sum / numel).float())
    squared = wsf.layer_sums(model, prev, update=False, l2=True, backend=fused_backend)
    by_l2 = wsf.fast_rwc(model, prev, update=False, definition="l2_ratio", backend=fused_backend)
    assert torch.equal(by_l2, (squared.delta_l2 / squared.prev_l2).float())


def test_fast_rwc_in_a_graph(fused_backend):
    model = module_of(torch.ones(300, 300, device="cuda"))
    prev = wsf.snapshot(model)
    wsf.fast_rwc(model, prev, backend=fused_backend)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        model.w0.mul_(2)
        rwc = wsf.fast_rwc(model, prev, backend=fused_backend)
    for _ in range(3):
        graph.replay()
        assert rwc.item() == 1


def test_a_gpu_takes_the_triton_backend():
    assert choose_backend(torch.device("cuda", 0)).__name__ == "weightscale_fast.ops.triton"


def test_training_in_bfloat16_and_its_resumption(tmp_path):
    """Autocast, channels_last, events around the record, and a checkpoint that comes back to the device."""
    settings = {
        "model": "resnet18-small",
        "data": "digits",
        "batch_size": 256,
        "image_size": 32,
        "augment": "crop_flip",
    }
    run = train(TrainConfig(**settings, epochs=2, stop_at=0.01), tmp_path / "run")
    (line,) = read_metrics(run)
    assert 0 < line["recording_share"] < 0.5
    config = recorded_config(run)
    assert (config.device, config.precision) == ("cuda", "bfloat16")
    assert len(read_metrics(train(config, run, resume=True))) == 1
    history = wsf.RWCHistory.load(run)
    assert history.rwc.shape == (6, 21)
    assert np.isfinite(history.rwc).all()
