"""The cases that tests/test_sharding.py runs on every rank.

`torchrun --nproc-per-node=N tests/sharding_worker.py RESULTS` runs all cases for N ranks. Each rank writes to RESULTS
how each case ended. If a case fails on one rank only, the other ranks wait for it until the group's short timeout.
"""

import json
import os
import sys
import time
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parents[1]))
import weightscale_fast as wsf
from tests.oracle import TOLERANCE, oracle_sums
from weightscale_fast.record import record as recording
from weightscale_fast.record.ring import SHARD_ROWS
from weightscale_fast.weights.layers import unwrap

CASES = {2: [], 4: []}
STEPS = 4
OUTER, INNER = 203, 257  # 52,171 weights per layer: more than three chunks of the pass, not divisible by 2 or 4 ranks


def case(*sizes):
    """Run the function on each of these numbers of ranks."""

    def add(function):
        for size in sizes:
            CASES[size].append(function)
        return function

    return add


class Block(nn.Module):
    """Layers that divide evenly or not: two large matrices, one with few rows, one with a single weight, a tied one."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(INNER, OUTER)
        self.down = nn.Linear(OUTER, INNER)
        self.few = nn.Linear(INNER, 3, bias=False)
        self.one = nn.Linear(1, 1)
        self.tied = self.few

    def forward(self, x):
        x = self.down(self.up(x).relu())
        return self.one(self.few(x).sum(1, keepdim=True)) + self.tied(x).sum()


LAYERS = ("up.weight", "down.weight", "few.weight", "one.weight")


def block(seed=0):
    torch.manual_seed(seed)
    return Block()


def batch(step):
    return torch.randn(4, INNER, generator=torch.Generator().manual_seed(100 * step + dist.get_rank()))


def whole(model, names=LAYERS):
    """Every layer gathered as a whole tensor. The package itself must never do this."""
    parameters = dict(unwrap(model).named_parameters())
    return {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name in names
        if (p := parameters.get(name)) is not None
    }


def train(model, monitor=None, steps=STEPS, lr=1e-3, then=lambda: None):
    """Train with SGD, on different data on each rank. Returns the float64 sums of all layers: [steps, 7, L]."""
    optimizer = torch.optim.SGD(list(model.parameters()), lr=lr)
    expected = []
    for step in range(steps):
        before = whole(model)
        model(batch(step)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if monitor is not None:
            monitor.record()
        after = whole(model)
        expected.append(torch.stack([oracle_sums(after[name], before[name]) for name in before], dim=1))
        then()
    return torch.stack(expected).numpy()


def check(history, expected, names=LAYERS):
    assert history.names == tuple(names)
    assert history.steps.tolist() == list(range(1, len(expected) + 1))
    np.testing.assert_allclose(history.delta_l1, expected[:, 0], rtol=TOLERANCE)
    np.testing.assert_allclose(history.prev_l1, expected[:, 1], rtol=TOLERANCE)
    assert np.array_equal(history.moved, expected[:, 2])
    if history.ratio_sum is not None:
        np.testing.assert_allclose(history.ratio_sum, expected[:, 6], rtol=TOLERANCE)
    if history.delta_l2 is not None:
        np.testing.assert_allclose(history.delta_l2, expected[:, 3] ** 0.5, rtol=TOLERANCE)
        np.testing.assert_allclose(history.prev_l2, expected[:, 4] ** 0.5, rtol=TOLERANCE)
        np.testing.assert_allclose(history.delta_max, expected[:, 5], rtol=TOLERANCE)
    assert np.isfinite(history.delta_l1).all()
    assert (history.rwc[:1] > 0).all()


def raises(error, *words):
    """A context manager: inside it `error` must be raised, and its message must contain all the words."""

    class Context:
        def __enter__(self):
            return self

        def __exit__(self, kind, value, _):
            assert kind is not None, f"{error.__name__} was not raised"
            if issubclass(kind, error):
                for word in words:
                    assert word in str(value), f"{word!r} is not in: {value}"
            return issubclass(kind, error)

    return Context()


def shared_folder():
    """A new folder for this case, the same on all ranks."""
    name = [f"folder-{time.time_ns()}"]
    dist.broadcast_object_list(name)
    return Path(sys.argv[1]) / name[0]


def mesh(*shape, names=None):
    return init_device_mesh("cpu", shape, mesh_dim_names=names)


@case(2, 4)
def ddp_equals_one_process():
    """The sums over all shares equal those of one process, to 1e-12."""
    model = DistributedDataParallel(block(seed=dist.get_rank()), find_unused_parameters=True)
    shared = wsf.RWCMonitor(model)
    alone = wsf.RWCMonitor(model.module)
    expected = train(model, shared, then=alone.record)
    shared, single = shared.history(), alone.history()
    check(shared, expected)
    for sums in ("delta_l1", "prev_l1", "moved"):
        np.testing.assert_allclose(getattr(shared, sums), getattr(single, sums), rtol=1e-12)
    assert shared.moved_fraction.max() <= 1
    assert shared.kinds == single.kinds
    assert np.array_equal(shared.numel, single.numel)


@case(2, 4)
def ddp_divides_memory():
    model = DistributedDataParallel(nn.Linear(1024, 1024))
    shared, alone = wsf.RWCMonitor(model), wsf.RWCMonitor(model.module)
    assert alone.nbytes / dist.get_world_size() <= shared.nbytes + 1024 <= alone.nbytes / dist.get_world_size() + 4096


@case(2)
def ddp_compiled():
    model = DistributedDataParallel(block(), find_unused_parameters=True)
    monitor = wsf.RWCMonitor(torch.compile(model, backend="aot_eager"))
    expected = train(model, monitor)
    check(monitor.history(), expected)


@case(2)
def ddp_with_the_optimizer_hook_and_more_rows_than_half_of_the_ring():
    """The monitor records by the optimizer's hook, to a folder of rank 0 and to memory."""
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(300, 300))
    weight, bias = model.parameters()
    optimizer = torch.optim.SGD([{"params": [bias], "lr": 2e-3}, {"params": [weight]}], lr=1e-3)
    folder = shared_folder()
    in_folder = wsf.RWCMonitor(model, optimizer, run_dir=folder)
    in_memory = wsf.RWCMonitor(model, optimizer)
    alone = wsf.RWCMonitor(model.module, optimizer)
    for _ in range(SHARD_ROWS + 50):
        model(torch.ones(2, 300)).square().mean().backward()
        optimizer.step()
    in_folder.close()
    kept, expected = in_folder.history(), alone.history()  # after close this is no collective call
    if dist.get_rank() == 0:
        assert kept.steps.tolist() == list(range(1, SHARD_ROWS + 51))
        np.testing.assert_allclose(wsf.RWCHistory.load(folder).rwc, expected.rwc, rtol=1e-12)
        assert (kept.lr == 1e-3).all()
    else:
        assert len(kept) == 0
    np.testing.assert_allclose(in_memory.history().rwc, expected.rwc, rtol=1e-12)
    assert (in_memory.history().lr == 1e-3).all()  # also of layers that this rank does not count


@case(2, 4)
def baseline_before_step():
    """What changes the weights between two steps is in no row, under DDP and under FSDP2."""
    for model in (DistributedDataParallel(block(), find_unused_parameters=True), fully_shard(block())):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        monitor = wsf.RWCMonitor(model, optimizer, every=2, baseline="before_step")
        expected = []
        for step in range(6):
            before = whole(model)
            model(batch(step)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            assert monitor.nbytes == 0
            if step % 2:
                after = whole(model)
                expected.append(torch.stack([oracle_sums(after[name], before[name]) for name in before], dim=1))
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(0.9)
        history, expected = monitor.history(), torch.stack(expected).numpy()
        assert history.steps.tolist() == [2, 4, 6]
        np.testing.assert_allclose(history.delta_l1, expected[:, 0], rtol=TOLERANCE)
        np.testing.assert_allclose(history.prev_l1, expected[:, 1], rtol=TOLERANCE)
        assert np.array_equal(history.moved, expected[:, 2])


@case(2, 4)
def sums_of_the_optimizer():
    """Each rank's optimizer adds up the sums of all that it steps. A weight that two ranks hold is counted once."""
    for model in (DistributedDataParallel(block(), find_unused_parameters=True), fully_shard(block())):
        unwrap(model).few.weight.requires_grad_(False)  # a layer that the step does not move
        optimizer = wsf.optim.AdamW(model.parameters(), lr=1e-3)
        monitor = wsf.RWCMonitor(model, optimizer)
        assert monitor.nbytes == 0
        expected = []
        for step in range(STEPS):
            before = whole(model)
            model(batch(step)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            after = whole(model)
            expected.append(torch.stack([oracle_sums(after[name], before[name]) for name in before], dim=1))
        history, expected = monitor.history(), torch.stack(expected).numpy()
        assert (history["few.weight"] == 0).all()
        np.testing.assert_allclose(history.delta_l1, expected[:, 0], rtol=TOLERANCE)
        np.testing.assert_allclose(history.prev_l1, expected[:, 1], rtol=TOLERANCE)
        assert np.array_equal(history.moved, expected[:, 2])


@case(2)
def ddp_health():
    """Findings and summaries come from the sums over all ranks. Only ranks that keep rows get findings."""
    model = DistributedDataParallel(nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300), nn.Linear(300, 300)))
    heard, heard_of_folder = [], []
    in_memory = wsf.RWCMonitor(model, on_finding=heard.append)
    in_folder = wsf.RWCMonitor(model, run_dir=shared_folder(), on_finding=heard_of_folder.append)
    for _ in range(70):
        with torch.no_grad():
            for layer in (model.module[0], model.module[2]):
                layer.weight.mul_(1.001)
        in_memory.record()
        in_folder.record()
    for summary in (in_memory.summary(), in_folder.summary()):
        assert (summary.first, summary.last, summary.weights) == (1, 70, 270_000)
        assert [(finding.kind, finding.layer) for finding in summary.findings] == [("still", "1.weight")], summary
    in_memory.close()
    in_folder.close()
    assert [(finding.kind, finding.layer) for finding in heard] == [("still", "1.weight")], heard
    assert heard_of_folder == [] if dist.get_rank() else [f.layer for f in heard_of_folder] == ["1.weight"]


@case(2, 4)
def recent_rows_are_sums_over_all_ranks():
    """This holds for rows that were added up already and for others. `recent` does not change the record."""
    model = DistributedDataParallel(nn.Sequential(nn.Linear(3, 3), nn.Linear(300, 300)))
    shared = wsf.RWCMonitor(model, every=2, run_dir=shared_folder())
    alone = wsf.RWCMonitor(model.module, every=2)
    assert len(shared.recent(after=0)) == 0
    for step in range(2 * SHARD_ROWS + 100):
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1 + 1e-4 * (step % 7))
        shared.record()
        alone.record()
        if step == 30:
            assert shared.recent(after=12).steps.tolist() == list(range(14, 31, 2))
    for after in (2 * SHARD_ROWS + 90, 2 * SHARD_ROWS - 40, 3, -1, 10**6):
        recent, expected = shared.recent(after=after), alone.recent(after=after)
        assert recent.steps.tolist() == expected.steps.tolist()
        np.testing.assert_allclose(recent.rwc, expected.rwc, rtol=1e-12)
    history = shared.history()
    if dist.get_rank() == 0:
        assert history.steps.tolist() == alone.history().steps.tolist()
    shared.close()
    assert shared.recent(after=600).steps.tolist() == list(range(602, 613, 2))  # after close: no collective call
    assert shared.summary().last == 612


@case(2)
def on_finding_may_not_make_collective_calls():
    """With a run folder only rank 0 calls on_finding. A collective call in it would wait for the other ranks."""
    model = DistributedDataParallel(nn.Linear(8, 8))
    told = []

    def summarize(finding):
        with raises(wsf.WeightScaleError, "on_finding is called on rank 0 alone"):
            monitor.summary()
        told.append(finding)

    monitor = wsf.RWCMonitor(model, run_dir=shared_folder(), on_finding=summarize)
    with torch.no_grad():
        model.module.weight[0, 0] = torch.nan
    monitor.record()
    monitor.flush()
    assert len(told) == (dist.get_rank() == 0)
    assert monitor.summary().last == 1
    monitor.close()


@case(2)
def checkpoint_state_of_rank_0_fits_every_rank():
    """Every rank loads the state that rank 0 saved, also between two rows, and records the same rows as before."""
    for wrap in (DistributedDataParallel, fully_shard):
        model = wrap(nn.Linear(300, 299))
        monitor = wsf.RWCMonitor(model, every=3)
        state, weights = [None], None
        for step in range(9):
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(1.01 + 0.01 * step)
            monitor.record()
            if step == 4:
                state = [monitor.checkpoint_state()]
                weights = {name: p.detach().clone() for name, p in model.named_parameters()}
            if step == 5:
                assert monitor.checkpoint_state()["weights"] is None
        expected = monitor.history()
        dist.broadcast_object_list(state)
        model.load_state_dict(weights)
        monitor.load_state_dict(state[0])
        for step in range(5, 9):
            with torch.no_grad():
                for p in model.parameters():
                    p.mul_(1.01 + 0.01 * step)
            monitor.record()
        resumed = monitor.history()
        assert resumed.steps.tolist() == expected.steps.tolist() == [3, 6, 9]
        np.testing.assert_allclose(resumed.rwc, expected.rwc, rtol=1e-6)


@case(2)
def a_step_that_a_gradient_scaler_skips_is_flagged():
    """Each rank's scaler checks its own gradients, which are equal after the all-reduce."""
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(8, 8))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    scaler = torch.amp.GradScaler("cpu")
    monitor = wsf.RWCMonitor(model, optimizer)
    for step in range(5):
        optimizer.zero_grad()
        infinite = step == 2 and dist.get_rank() == 1
        scaler.scale(model(torch.ones(2, 8)).square().mean() * (float("inf") if infinite else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
    state = monitor.state_dict()
    monitor.load_state_dict(state)
    optimizer.step()
    history = monitor.history()
    assert history.flags.tolist() == [0, 0, 1, 0, 0, 2]
    assert (history.rwc[2] == 0).all()
    monitor.close()


@case(2)
def replicas_by_an_explicit_group():
    model, total = block(), 0.0
    monitor = wsf.RWCMonitor(model, process_group=dist.group.WORLD)
    alone = wsf.RWCMonitor(model)
    for _ in range(STEPS):
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.01)
        monitor.record()
        alone.record()
        total += alone.history().delta_l1[-1].sum()
    np.testing.assert_allclose(monitor.history().delta_l1, alone.history().delta_l1, rtol=1e-12)
    np.testing.assert_allclose(monitor.history().delta_l1.sum(), total, rtol=1e-12)


@case(2, 4)
def replicas_with_unusual_memory_layouts():
    """Expanded weights cannot be divided, so one rank counts them all. Channels-last weights can be divided."""
    model = nn.Module()
    torch.manual_seed(0)
    model.expanded = nn.Parameter(torch.randn(300, 1).expand(300, 200), requires_grad=False)
    model.last = nn.Parameter(torch.randn(64, 64, 3, 3).to(memory_format=torch.channels_last))
    model.none = nn.Parameter(torch.empty(0, 5))
    monitor = wsf.RWCMonitor(model, process_group=dist.group.WORLD)
    alone = wsf.RWCMonitor(model)
    model.last.data.mul_(1.5)
    monitor.record()
    alone.record()
    np.testing.assert_allclose(monitor.history().rwc, alone.history().rwc, rtol=1e-12)
    np.testing.assert_allclose(monitor.history().rwc[0], [0, 0.5, 0], rtol=1e-6)
    model.last.data = model.last.data.contiguous()
    with raises(ValueError, "layer 'last' has another shape or memory layout"):
        monitor.record()


@case(2, 4)
def fsdp2():
    """Shards are uneven or empty: on four ranks, layers of one row or three rows leave some ranks without weights."""
    model = fully_shard(block())
    monitor = wsf.RWCMonitor(model, definition="mean_ratio", l2=True)
    expected = train(model, monitor)
    assert monitor.nbytes < 3 * OUTER * INNER * 4 / dist.get_world_size() + 4096
    check(monitor.history(), expected)


@case(2)
def the_largest_change_of_a_rank_whose_share_is_nan():
    """The last rank holds the NaN. A maximum over the ranks could lose it."""
    model = fully_shard(block())
    monitor = wsf.RWCMonitor(model, l2=True)
    train(model, monitor)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
        if dist.get_rank() == 1:
            model.up.weight.to_local()[-1, 0] = torch.nan
    monitor.record()
    last = monitor.history().select(steps=slice(-1, None))
    assert np.isnan(last.delta_max[0]).tolist() == [True, False, False, False]
    assert np.isnan(last.delta_l2[0]).tolist() == [True, False, False, False]
    np.testing.assert_allclose(last.delta_max[0, 1:], 1.0, rtol=1e-6)


@case(2)
def fsdp2_in_float64_and_bfloat16():
    model = block()
    model.up.to(torch.bfloat16)
    model.down.double()
    fully_shard(model.up)
    fully_shard(model.down)
    monitor = wsf.RWCMonitor(model, layers=r"(up|down)\.weight", process_group=dist.group.WORLD)
    before = whole(model)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.01)
    monitor.record()
    after, history = whole(model), monitor.history()
    for i, name in enumerate(("up.weight", "down.weight")):
        expected = oracle_sums(after[name], before[name])
        np.testing.assert_allclose(history.delta_l1[0, i], expected[0], rtol=TOLERANCE)
        assert history.moved[0, i] == expected[2]


@case(2)
def fsdp2_with_column_shards_after_a_load():
    model = fully_shard(nn.Linear(256, 10, bias=False), shard_placement_fn=lambda p: Shard(1))
    monitor = wsf.RWCMonitor(model)
    before = whole(model, ["weight"])["weight"]
    model.load_state_dict({"weight": distribute_tensor(before * 3, model.weight.device_mesh, [Shard(1)])}, assign=True)
    monitor.record()
    np.testing.assert_allclose(monitor.history().rwc[0], 2, rtol=1e-6)


@case(2)
def fsdp2_gathered():
    """A forward pass without a backward pass gathers the weights. A monitor can then be made, but not record."""
    model = fully_shard(block())
    model(batch(0))
    assert not isinstance(model.up.weight, DTensor)
    monitor = wsf.RWCMonitor(model)
    check(monitor.history(), np.empty((0, 4, 4)))
    model(batch(0))
    with raises(wsf.WeightScaleError, "layer 'up.weight' was a DTensor", "model.reshard()"):
        monitor.record()
    model.reshard()
    monitor.record()
    assert (monitor.history().rwc == 0).all()


@case(2, 4)
def tensor_parallel():
    """Column shards, row shards, a replicated DTensor, and a layer that is not a DTensor."""
    tp = mesh(dist.get_world_size())
    model = parallelize_module(block(), tp, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    model.few.weight = nn.Parameter(distribute_tensor(model.few.weight.detach(), tp, [Replicate()]))
    monitor = wsf.RWCMonitor(model)
    before = whole(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in (p._local_tensor if isinstance(p, DTensor) else p for p in model.parameters()):
            p.mul_(1.25)
    monitor.record()
    after = whole(model)
    expected = torch.stack([oracle_sums(after[name], before[name]) for name in LAYERS], dim=1)[None].numpy()
    check(monitor.history(), expected)


@case(4)
def hsdp():
    """Each shard is on two ranks, which divide its weights."""
    model = fully_shard(block(), mesh=mesh(2, 2, names=("replicate", "shard")))
    monitor = wsf.RWCMonitor(model)
    expected = train(model, monitor)
    assert monitor.nbytes < 3 * OUTER * INNER * 4 / 4 + 2 * 16 * 1024 * 4
    check(monitor.history(), expected)


@case(4)
def fsdp2_over_tensor_parallel():
    """Some layers are on a 2-D mesh with strided shards, others on one dimension of it."""
    both = mesh(2, 2, names=("dp", "tp"))
    model = parallelize_module(block(), both["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
    fully_shard(model, mesh=both["dp"])
    assert model.up.weight.device_mesh.ndim == 2
    assert model.few.weight.device_mesh.ndim == 1
    monitor = wsf.RWCMonitor(model)
    before = whole(model)
    with torch.no_grad():
        for p in model.parameters():
            p._local_tensor.mul_(1.25)
    monitor.record()
    after = whole(model)
    check(monitor.history(), torch.stack([oracle_sums(after[n], before[n]) for n in LAYERS], dim=1)[None].numpy())


@case(4)
def two_models_on_two_pairs_of_ranks():
    """Each pair trains a model of its own. There are two records, and no pair waits for the other."""
    pairs = mesh(2, 2, names=("independent", "dp"))
    model = fully_shard(block(seed=pairs.get_coordinate()[0]), mesh=pairs["dp"])
    monitor = wsf.RWCMonitor(model)
    expected = train(model, monitor, lr=1e-3 * (1 + pairs.get_coordinate()[0]))
    check(monitor.history(), expected)


@case(4)
def two_models_on_two_meshes_of_two_dimensions():
    cube = mesh(2, 2, 1, names=("independent", "replicate", "shard"))
    model = fully_shard(block(), mesh=cube["replicate", "shard"])  # the models are equal at the start only
    monitor = wsf.RWCMonitor(model)
    expected = train(model, monitor, lr=1e-3 * (1 + cube.get_coordinate()[0]))
    check(monitor.history(), expected)


def stage(number):
    torch.manual_seed(number)
    model = nn.Module()
    model.register_module(f"stage{number}", nn.Linear(200, 200 + number))
    return model


@case(2, 4)
def pipeline():
    """Two stages make one record, in network order. On four ranks there are two replicas of each stage."""
    ranks = dist.get_world_size()
    number = dist.get_rank() * 2 // ranks
    model = stage(number)
    folder = shared_folder()
    monitor = wsf.RWCMonitor(model, pipeline=True, run_dir=folder)
    for _ in range(STEPS):
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.25 + number)
        monitor.record()
    monitor.close()
    if dist.get_rank() == 0:
        history = wsf.RWCHistory.load(folder)
        assert history.names == ("stage0.weight", "stage1.weight")
        assert history.kinds == ("linear", "linear")
        assert history.numel.tolist() == [200 * 200, 200 * 201]
        assert np.array_equal(history.moved, [history.numel] * STEPS)
        np.testing.assert_allclose(history.rwc, [[0.25, 1.25]] * STEPS, rtol=1e-6)


@case(2)
def pipeline_stage_without_a_layer():
    model = stage(0) if dist.get_rank() == 0 else nn.LayerNorm(4)
    monitor = wsf.RWCMonitor(model, pipeline=True)
    monitor.record()
    assert monitor.history().rwc.tolist() == [[0.0]]


@case(2)
def pipeline_of_ranks_with_and_without_a_gpu():
    """Rank 0's rows arrive one part later, as on a GPU. The stages wait for each other at every step."""
    model, folder, gpu = stage(dist.get_rank()), shared_folder(), dist.get_rank() == 0
    real, recording.arrives_late = recording.arrives_late, lambda device: gpu
    try:
        monitor = wsf.RWCMonitor(model, layers="stage0", pipeline=True, run_dir=folder)
    finally:
        recording.arrives_late = real
    activation, steps = torch.zeros(4), SHARD_ROWS + 50
    for step in range(steps):
        for sender in (0, 1):
            if dist.get_rank() == sender:
                dist.send(activation, 1 - sender)
            else:
                dist.recv(activation, sender)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1 + 1e-3 * (step % 7))
        monitor.record()
        if step == 100:
            assert len(monitor.recent(after=90)) == 11
    monitor.close()
    if dist.get_rank() == 0:
        history = wsf.RWCHistory.load(folder)
        assert history.steps.tolist() == list(range(1, steps + 1))
        np.testing.assert_allclose(history.rwc[:, 0], 1e-3 * (np.arange(steps) % 7), rtol=1e-3, atol=1e-9)


@case(2)
def a_flush_makes_one_collective_call_and_a_step_none():
    model = fully_shard(block())
    monitor = wsf.RWCMonitor(model)
    with CommDebugMode() as steps:
        for _ in range(10):
            monitor.record()
    with CommDebugMode() as flush:
        monitor.flush()
    with CommDebugMode() as nothing_new:
        monitor.flush()
    counts = [mode.get_total_counts() for mode in (steps, flush, nothing_new)]
    assert counts == [0, 1, 0], counts


@case(2)
def slow_steps_are_added_up_within_a_minute():
    """All ranks use rank 0's clock, even if their own clocks are wrong."""
    import weightscale_fast.record.row_sum as row_sum

    model = nn.Linear(4, 4)
    torch.nn.init.ones_(model.weight)
    clock, real = [0.0], time.monotonic
    row_sum.time.monotonic = lambda: clock[0]
    try:
        folder = shared_folder()
        monitor = wsf.RWCMonitor(model, process_group=dist.group.WORLD, run_dir=folder)
        rows = []
        for _ in range(40):
            clock[0] += 10.0 if dist.get_rank() == 0 else 3.0  # on rank 0, six steps take a minute
            monitor.record()
            if dist.get_rank() == 0:
                rows.append(len(wsf.RWCHistory.load(folder)))
    finally:
        row_sum.time.monotonic = real
    if dist.get_rank() == 0:
        assert sorted(set(rows)) == [0, 16, 22, 28, 34, 40], rows
    monitor.close()


@case(2)
def resume_with_torch_save():
    resume(save_with_torch, to_folder=True)
    resume(save_with_torch, to_folder=False)


@case(2)
def resume_with_a_distributed_checkpoint():
    resume(save_distributed, to_folder=True)
    resume(save_distributed, to_folder=False)


def save_with_torch(state, path):
    torch.save(state, f"{path}-{dist.get_rank()}")
    return lambda fresh: torch.load(f"{path}-{dist.get_rank()}")


def save_distributed(state, path):
    def load(fresh):
        dcp.load(fresh, checkpoint_id=path)
        return fresh

    dcp.save(state, checkpoint_id=path)
    return load


def resume(save, *, to_folder):
    """Checkpoint at step 20, continue to 24, resume from 20: no hole, no double row, no false first value."""
    folder = shared_folder()
    run_dir = folder / "run" if to_folder else None
    folder.mkdir(exist_ok=True)

    def step(model, monitor, factor):
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(factor)
        monitor.record()

    model = fully_shard(block())
    monitor = wsf.RWCMonitor(model, run_dir=run_dir)
    for i in range(20):
        step(model, monitor, 1 + i / 100)
    load = save({"model": model.state_dict(), "monitor": monitor.state_dict()}, folder / "checkpoint")
    for _ in range(4):
        step(model, monitor, 3)
    monitor.close()

    model = fully_shard(block(seed=5))
    monitor = wsf.RWCMonitor(model, run_dir=run_dir, resume=to_folder)
    state = load({"model": model.state_dict(), "monitor": monitor.state_dict()})
    model.load_state_dict(state["model"])
    monitor.load_state_dict(state["monitor"])
    for i in range(20, 30):
        step(model, monitor, 1 + i / 100)
    monitor.close()
    if dist.get_rank() == 0 or not to_folder:
        history = monitor.history()
        assert history.steps.tolist() == list(range(1, 31))
        np.testing.assert_allclose(history.rwc, np.tile(np.arange(30)[:, None] / 100, (1, 4)), rtol=1e-5, atol=1e-9)


@case(2)
def state_of_other_ranks():
    monitor = wsf.RWCMonitor(fully_shard(block()))
    state = monitor.state_dict()
    state["weights"] = {name.replace("of 2", "of 4"): tensor for name, tensor in state["weights"].items()}
    with raises(ValueError, f"rank {dist.get_rank()} of 2", "of 4)", "with as many ranks"):
        monitor.load_state_dict(state)


@case(2)
def a_state_that_one_rank_refuses_is_refused_by_all():
    """Rank 0 alone knows what is in the run folder. The other went on from the state of another run."""
    states = []
    for name in ("first", "second"):
        model = DistributedDataParallel(nn.Linear(3, 3, bias=False))
        monitor = wsf.RWCMonitor(model, run_dir=shared_folder() / name)
        for _ in range(4):
            with torch.no_grad():
                model.module.weight.add_(1.0)
            monitor.record()
        states.append(monitor.state_dict())
        if name == "first":
            monitor.close()
    refused = {0: (ValueError, "the state is of another run"), 1: (wsf.WeightScaleError, "rank 0 could not load its")}
    with raises(*refused[dist.get_rank()]):
        monitor.load_state_dict(states[0])
    damaged = {**states[1], "step": states[1]["step"] - dist.get_rank() * 9}  # on rank 1 alone
    refused = {0: (wsf.WeightScaleError, "rank 1 could not load its state: ValueError"), 1: (ValueError, "its step is")}
    with raises(*refused[dist.get_rank()]):
        monitor.load_state_dict(damaged)
    with torch.no_grad():
        model.module.weight.add_(1.0)
    monitor.record()
    assert monitor.step == 5
    monitor.load_state_dict({**states[1], "step": 2, "written": 2, "last_row": None})
    assert monitor.step == 2
    monitor.close()
    assert monitor.history().steps.tolist() == ([1, 2] if dist.get_rank() == 0 else [])
    with raises(wsf.WeightScaleError, "the monitor is closed"):
        monitor.load_state_dict(states[1])


@case(2)
def ranks_with_different_models_or_arguments():
    with raises(wsf.WeightScaleError, "rank 1 has another model than rank 0", "lacks '1.weight', ", "pipeline=True"):
        layers = [nn.Linear(3, 3) for _ in range(2 - dist.get_rank())]
        wsf.RWCMonitor(nn.Sequential(*layers), process_group=dist.group.WORLD)
    with raises(wsf.WeightScaleError, "'weight' has shape [3, 3] on rank 0 and [4, 3] on rank 1"):
        wsf.RWCMonitor(nn.Linear(3, 3 + dist.get_rank()), process_group=dist.group.WORLD)
    with raises(wsf.WeightScaleError, "'weight' has dtype float32 on rank 0 and float64 on rank 1"):
        dtype = (torch.float32, torch.float64)[dist.get_rank()]
        wsf.RWCMonitor(nn.Linear(3, 3, dtype=dtype), process_group=dist.group.WORLD)
    torch.manual_seed(dist.get_rank())
    with raises(wsf.WeightScaleError, "'weight' has other weights on rank 1 than on rank 0", "broadcast"):
        wsf.RWCMonitor(nn.Linear(3, 3), process_group=dist.group.WORLD)
    with raises(wsf.WeightScaleError, "'weight' has other weights", "pipeline stages must give each layer its name"):
        wsf.RWCMonitor(nn.Linear(3, 3), pipeline=True)
    with raises(wsf.WeightScaleError, "rank 1 monitors with every=2", "rank 0 with every=1"):
        wsf.RWCMonitor(nn.Linear(3, 3), process_group=dist.group.WORLD, every=1 + dist.get_rank())
    folder = shared_folder()
    with raises(wsf.WeightScaleError, "rank 1 monitors with run_dir=None", "rank 0 with run_dir='a folder': pass"):
        wsf.RWCMonitor(nn.Linear(3, 3), process_group=dist.group.WORLD, run_dir=(folder, None)[dist.get_rank()])
    with raises(wsf.WeightScaleError, "rank 1 monitors with resume=True, rank 0 with resume=False: pass the same"):
        wsf.RWCMonitor(nn.Linear(3, 3), process_group=dist.group.WORLD, run_dir=folder, resume=dist.get_rank() == 1)


@case(2)
def a_model_that_is_wrong_on_one_rank():
    """That rank's error says what is wrong. The error of the other rank names that rank."""
    layers = "weight" if dist.get_rank() == 0 else "("
    expected = (
        raises(wsf.WeightScaleError, "rank 1 could not make its RWCMonitor: ValueError", "regular expression")
        if dist.get_rank() == 0
        else raises(ValueError, "is not a regular expression")
    )
    with expected:
        wsf.RWCMonitor(nn.Linear(2, 2), process_group=dist.group.WORLD, layers=layers)


@case(2)
def run_folder_that_exists():
    folder = shared_folder()
    model = DistributedDataParallel(nn.Linear(4, 4))
    with wsf.RWCMonitor(model, run_dir=folder) as monitor:
        monitor.record()
    with raises(wsf.WeightScaleError, "run folder", "exists and holds the rows of a run"):
        wsf.RWCMonitor(model, run_dir=folder)
    with wsf.RWCMonitor(model, run_dir=folder, exist="next") as monitor:
        assert monitor.run_dir.name == f"{folder.name}-2"  # on every rank


@case(2)
def replicas_without_their_wrapper():
    """They look like single processes. The one that makes its monitor second gets an error that says what to do."""
    model, folder = DistributedDataParallel(nn.Linear(8, 8)), shared_folder()
    if dist.get_rank() == 0:
        with wsf.RWCMonitor(model.module, run_dir=folder) as monitor:
            monitor.record()
    dist.barrier()
    if dist.get_rank() == 1:
        with raises(wsf.WeightScaleError, "exists", "2 processes run", "its DistributedDataParallel wrapper"):
            wsf.RWCMonitor(model.module, run_dir=folder)


@case(2)
def weights_that_are_a_pending_partial_sum():
    model = nn.Linear(4, 4, bias=False)
    partial = DTensor.from_local(torch.ones(4, 4), mesh(2), [Partial()])
    model.weight = nn.Parameter(partial)
    with raises(TypeError, "layer 'weight' is a DTensor with a pending partial sum", "redistribute"):
        wsf.RWCMonitor(model)


@case(2)
def snapshot_and_fast_rwc_refuse_dtensors():
    model = fully_shard(block())
    with raises(TypeError, "layer 'up.weight' is a DTensor", "RWCMonitor"):
        wsf.snapshot(model)
    with raises(TypeError, "RWCMonitor"):
        wsf.fast_rwc(model, {name: p.detach() for name, p in model.named_parameters()})


@case(2)
def wrong_arguments():
    from torch.distributed.fsdp import FullyShardedDataParallel

    with raises(TypeError, "FullyShardedDataParallel keeps its weights in flat parameters", "fully_shard"):
        wsf.RWCMonitor(FullyShardedDataParallel(nn.Linear(2, 2), device_id=torch.device("cpu"), use_orig_params=True))
    with raises(TypeError, "process_group must be a torch.distributed.ProcessGroup", "mesh.get_group()"):
        wsf.RWCMonitor(nn.Linear(2, 2), process_group=mesh(2))
    alone = [dist.new_group([rank]) for rank in range(2)]
    other = alone[1 - dist.get_rank()]
    if isinstance(other, dist.ProcessGroup):
        with raises(ValueError, "is not in process_group"):
            wsf.RWCMonitor(nn.Linear(2, 2), process_group=other)
    assert wsf.RWCMonitor(nn.Linear(2, 2), process_group=alone[dist.get_rank()])._record.snapshot.names == ("weight",)
    with raises(ValueError, "no layer of LayerNorm matches"):
        wsf.RWCMonitor(nn.LayerNorm(3), process_group=dist.group.WORLD)


@case(2, 4)
def ranks_at_different_steps():
    """All ranks get an error, also one whose number of steps equals the average."""
    model = nn.Linear(2, 2)
    torch.nn.init.ones_(model.weight)
    monitor = wsf.RWCMonitor(model, process_group=dist.group.WORLD)
    monitor.record()
    monitor.flush()
    for _ in range(3 + {0: 0, 1: 1, 2: -1, 3: 0}[dist.get_rank()]):
        monitor.record()
    with raises(wsf.WeightScaleError, "could not add up steps 2 to", "after different steps"):
        monitor.flush()
    assert len(monitor.history()) == 1  # the rows that were added up before; this is no collective call
    with raises(wsf.WeightScaleError, "nothing is recorded any more"):
        monitor.record()
    monitor.close()


@case(2)
def an_error_in_the_loop_ends_without_waiting():
    """Rank 1 fails and rank 0 continues to its close. Neither may hang, and the group of the training still works."""
    model = nn.Linear(2, 2)
    torch.nn.init.ones_(model.weight)
    seconds = timedelta(seconds=2)
    group = dist.new_group([0, 1], timeout=seconds)
    folder = shared_folder()
    monitor = wsf.RWCMonitor(model, process_group=group, run_dir=folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start = time.monotonic()
        error = wsf.WeightScaleError if dist.get_rank() == 0 else ZeroDivisionError
        with raises(error), monitor:
            for step in range(20):
                monitor.record()
                if step == 17 and dist.get_rank() == 1:
                    1 / 0  # noqa: B018
        assert time.monotonic() - start < 10
    if dist.get_rank() == 0:
        assert len(wsf.RWCHistory.load(folder)) == 16
    assert not [w for w in caught if w.category is UserWarning and dist.get_rank() == 1]
    dist.barrier()


@case(2)
def a_forgotten_close_says_what_is_lost():
    model = nn.Linear(2, 2)
    torch.nn.init.ones_(model.weight)
    monitor = wsf.RWCMonitor(model, process_group=dist.group.WORLD)
    monitor.record()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del monitor
    lost = [str(w.message) for w in caught]
    assert (len(lost) == 1 and "last 1 recorded steps are lost" in lost[0]) if dist.get_rank() == 0 else not lost


@case(2)
def join_stops_the_record_and_not_the_training():
    """Rank 1 has twice as many batches. Nothing hangs, and the rows before `join()` are right."""
    model = nn.parallel.DistributedDataParallel(block())
    monitor = wsf.RWCMonitor(model)
    expected = train(model, monitor)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with model.join():
            for step in range(600 * (1 + dist.get_rank())):
                optimizer.zero_grad()
                model(batch(step)).square().mean().backward()
                optimizer.step()
                monitor.record()
        history = monitor.history()
        monitor.close()
    told = [str(w.message) for w in caught if "join() lets ranks make different numbers" in str(w.message)]
    assert len(told) == 1
    assert f"after step {STEPS}." in told[0]
    check(history, expected)


def main(results):
    dist.init_process_group("gloo", timeout=timedelta(seconds=30))
    print(f"rank {dist.get_rank()} uses {wsf.__file__}", flush=True)
    outcomes = {}
    for function in CASES[dist.get_world_size()]:
        start = time.monotonic()
        try:
            function()
            outcome = None
        except Exception:
            outcome = traceback.format_exc()
        outcomes[function.__name__] = outcome
        path = Path(results) / f"rank-{dist.get_rank()}.json"
        path.write_text(json.dumps(outcomes))
        print(f"{function.__name__} {time.monotonic() - start:.1f} s {outcome or ''}", flush=True)
        dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # after the timeouts that were tested, Gloo may abort while it shuts down


if __name__ == "__main__":
    main(sys.argv[1])
