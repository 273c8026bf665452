"""Copies of the weights that part: found on two real processes with Gloo, at the right row; clean training is silent.

One launch runs all cases, because a launch takes longer than any case. Each rank prints a line per case.
"""

import functools
import json

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from tests.test_sharding import output_of, start
from weightscale_fast.distributed.bits import ON_CPU, Checksums, multipliers
from weightscale_fast.distributed.twins import _factor, differing

needs_processes = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")

WORKER = """
    import json, os, warnings
    import torch, torch.distributed as dist
    from torch import nn
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel as DDP
    import weightscale_fast as wsf
    from weightscale_fast.record import record as recording

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.set_num_threads(1)

    def batch(step):
        return torch.randn(4, 20, generator=torch.Generator().manual_seed(2 * step + rank))

    def net():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 1))

    def stack(layers, wrap=DDP):
        torch.manual_seed(0)
        model = nn.Sequential(*[nn.Linear(6, 6) for _ in range(layers)])
        return wrap(model) if wrap else model

    def hand(model, steps, change, close=True, **arguments):
        # Each step multiplies all weights. `change` then changes them on rank 1 alone.
        heard, layers = [], list(getattr(model, "module", model).parameters())
        monitor = wsf.RWCMonitor(model, on_finding=lambda f: heard.append([f.kind, f.layer, f.step]), **arguments)
        for step in range(1, steps + 1):
            with torch.no_grad():
                for p in layers:
                    p.mul_(1.001)
                if rank == 1:
                    change(step, layers)
            monitor.record()
        if close:
            monitor.close()
        return monitor, heard

    def train(model, steps, forward, optimizer=None, accumulate=False, **arguments):
        heard = []
        optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=1e-2)
        monitor = wsf.RWCMonitor(
            model, optimizer, on_finding=lambda f: heard.append([f.kind, f.layer, f.step, f.value]), **arguments)
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            if accumulate:
                with model.no_sync():
                    forward(step)(batch(-step)).square().mean().backward()
            forward(step)(batch(step)).square().mean().backward()
            optimizer.step()
        monitor.close()
        return monitor, heard

    def bypassed():
        model = DDP(net())
        return train(model, 300, lambda step: model if step < 41 else model.module, run_dir=folder + "/bypassed")

    def bypassed_late():
        recording.arrives_late = lambda device: True  # as on a GPU
        try:
            model = DDP(net())
            return train(model, 1100, lambda step: model if step < 301 else model.module)
        finally:
            recording.arrives_late = arrives_late

    def unsynchronized_states():
        model = DDP(net())
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.5 + 0.1 * rank)
        return train(model, 20, lambda step: model, optimizer)

    def clean(buffers):
        torch.manual_seed(0)
        inner = nn.Sequential(nn.Linear(20, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 1))
        model = DDP(inner, broadcast_buffers=buffers)
        result = train(model, 1000, lambda step: model, torch.optim.AdamW(model.parameters()), accumulate=not buffers)
        means = [torch.zeros(30), torch.zeros(30)]
        dist.all_gather(means, inner[1].running_mean)
        assert buffers or not torch.equal(*means)
        return result

    def clean_with_buffers():
        return clean(True)

    def clean_without_buffers():
        return clean(False)

    def fsdp2():
        model = fully_shard(net())
        result = train(model, 40, lambda step: model)
        assert result[0]._record.store.replicas is None  # nothing is held twice
        return result

    def hsdp():
        model = fully_shard(net(), mesh=init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard")))
        def change(step, layers):
            if step == 7:
                layers[2]._local_tensor[0, 5:] *= 1.5
        return hand(model, 9, change)

    def reloaded():
        def change(step, layers):
            if step == 23:
                layers[2].copy_(torch.ones(6, 6))  # a weight; the biases are no layers
        return hand(stack(3), 40, change)

    def reloaded_every_5():
        def change(step, layers):
            if step == 23:
                layers[2].copy_(torch.ones(6, 6))
        return hand(stack(3), 40, change, every=5)

    def unequal_at_the_start():
        model = stack(2, wrap=None)
        with torch.no_grad():
            if rank == 1:
                model[1].weight.copy_(model[1].weight.flip(0, 1))  # the sums when the monitor is made are equal
        return hand(model, 3, lambda *_: None, process_group=dist.group.WORLD)

    def one_of_many_layers():
        def change(step, layers):
            if step == 23:
                layers[2 * 70] += 1
        return hand(stack(200), 40, change)

    def all_of_many_layers():
        def change(step, layers):
            if step == 23:
                for p in layers:
                    p += 1
        return hand(stack(200), 40, change)

    def at_new_addresses():
        def change(step, layers):
            if step == 23:
                layers[2] += 1
        model = stack(3)
        for p in model.module.parameters():
            p.mul_ = lambda factor, p=p: setattr(p, "data", p.data * factor)
        return hand(model, 40, change)

    def a_warning_that_raises():
        def change(step, layers):
            if step == 3:
                layers[0][:] = 0.5
        monitor, heard = hand(stack(2), 4, change, close=False)
        monitor.load_state_dict(monitor.state_dict())  # so that it is found again, in `close`
        monitor.record()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                monitor.close()
            except UserWarning:
                assert rank == 0
            else:
                assert rank == 1
        assert monitor.history().steps.tolist() == [1, 2, 3, 4, 5]  # no row is lost
        return monitor, heard

    def few_weights():
        def change(step, layers):
            if step == 23:
                layers[0][0, 0] = -layers[0][0, 0]  # not among the sampled weights, so only the whole read finds it
        torch.manual_seed(0)
        return hand(DDP(nn.Sequential(nn.Linear(100, 100), nn.Linear(5, 5))), 257, change)

    def few_weights_and_sixteen_bits():
        def change(step, layers):
            if step == 23:
                layers[4][3, 3] += 1
        model = nn.Sequential(
            nn.Linear(3, 3).bfloat16(), nn.Linear(70, 70), nn.Linear(31, 31).half(), nn.Linear(9, 9).double())
        torch.manual_seed(0)
        for p in model.parameters():
            nn.init.normal_(p)
        return hand(model, 257, change, process_group=dist.group.WORLD)

    def told_again_after_a_load():
        def change(step, layers):
            if step == 3:
                layers[0][:] = 0.5
        monitor, heard = hand(stack(2), 4, change, close=False)
        state = monitor.state_dict()
        first = monitor._record.parted
        assert first.step == 3 and heard[-1] == ["replicas", "0.weight", 3], heard
        monitor.record()
        monitor.flush()
        assert len(heard) == 1  # and only once
        monitor.load_state_dict(state)
        assert monitor._record.parted is None
        monitor.record()
        monitor.close()
        return monitor, heard[1:]

    arrives_late = recording.arrives_late
    folder = {folder!r}
    for name in {cases!r}:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            monitor, heard = globals()[name]()
        parted = monitor._record.parted
        told = [str(w.message) for w in caught if "copies of the weights" in str(w.message)]
        print("RESULT", json.dumps([name, parted, told, heard]), flush=True)
    dist.barrier()
    os._exit(0)
"""

STACK = [f"{i}.weight" for i in range(200)]
# {case: (first step, last equal step, layers)}; None if nothing is to be found.
CASES = {
    "bypassed": (41, 40, ["0.weight", "2.weight"]),
    "bypassed_late": (301, 300, ["0.weight", "2.weight"]),
    "unsynchronized_states": (2, 1, ["0.weight", "2.weight"]),  # the first step has no momentum
    "clean_with_buffers": None,
    "clean_without_buffers": None,
    "fsdp2": None,
    "hsdp": (7, 6, ["2.weight"]),
    "reloaded": (23, 22, ["1.weight"]),
    "reloaded_every_5": (25, 20, ["1.weight"]),
    "unequal_at_the_start": (1, 0, ["1.weight"]),
    "one_of_many_layers": (23, 19, ["70.weight"]),  # four turns: it is read at steps 19, 23, 27, ...
    "all_of_many_layers": (23, 19, STACK),
    "at_new_addresses": (23, 22, ["1.weight"]),
    "a_warning_that_raises": (5, 4, ["0.weight"]),
    "few_weights": (256, 16, ["0.weight"]),
    "few_weights_and_sixteen_bits": (256, 16, ["2.weight"]),
    "told_again_after_a_load": (5, 4, ["0.weight"]),
}


@functools.cache
def results(folder):
    ranks = start(WORKER.format(folder=str(folder), cases=list(CASES)))
    outputs = [output_of(rank) for rank in ranks]
    found = [
        {name: rest for name, *rest in (json.loads(line[7:]) for line in output.splitlines() if line[:7] == "RESULT ")}
        for output in outputs
    ]
    return found, outputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("replicas")


@needs_processes
@pytest.mark.parametrize("case", CASES)
def test_two_processes(case, folder):
    found, outputs = results(folder)
    for rank in range(2):
        assert case in found[rank], f"rank {rank} did not finish this case:\n{outputs[rank][-4000:]}"
        parted, told, heard = found[rank][case]
        heard = [finding for finding in heard if finding[0] == "replicas"]
        if CASES[case] is None:
            assert (parted, told, heard) == (None, [], [])
            continue
        step, equal, layers = CASES[case]
        assert parted == [step, equal, step - equal == (5 if "every_5" in case else 1), layers, [1]]  # on every rank
        if case == "a_warning_that_raises":
            continue
        if case != "told_again_after_a_load":  # which was told twice
            assert len(told) == (rank == 0)
        if case == "bypassed":  # with a run folder only rank 0 keeps rows
            assert heard == ([] if rank else [["replicas", "0.weight", 41, 2]])
        else:
            assert [finding[:3] for finding in heard] == [["replicas", layers[0], step]]


@needs_processes
def test_the_warning_says_what_to_do(folder):
    (found, _), _ = results(folder)
    (exact,), (between,) = found["bypassed"][1], found["few_weights"][1]
    assert "since step 41: 2 layers differ (0.weight, 2.weight), on rank 1" in exact
    assert "not model.module" in exact
    assert "since step 256, or since an earlier one after step 16: 1 layer differs (0.weight)" in between


def test_one_process_compares_nothing():
    with wsf.RWCMonitor(nn.Linear(3, 3)) as monitor:
        monitor.record()
        assert monitor._record.store.replicas is None
        assert monitor._record.parted is None


def checksums(weights, groups=None):
    reader = Checksums(weights, groups or [0] * len(weights))
    return reader.of(reader.start(weights))


SHAPES = [(3, 3), (700, 700), (5,), (65_537,), (2**18 + 3,), (128, 128), (1, 1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_checksum_is_of_the_bits_of_its_layer_alone(dtype):
    torch.manual_seed(0)
    weights = [torch.randn(shape).to(dtype) for shape in SHAPES]
    before = checksums(weights)
    assert len(set(before.tolist())) == len(SHAPES)
    for i, w in enumerate(weights):
        flat = w.view(-1)
        for place in {0, len(flat) // 2, len(flat) - 1}:
            kept = flat[place].clone()
            for changed in (
                -kept,
                torch.nextafter(kept.float(), torch.tensor(9.0)).to(dtype),
                kept * 0,
                kept * torch.nan,
            ):
                flat[place] = changed
                differ = checksums(weights) != before
                assert differ[i] == (not torch.equal(changed, kept))
                assert differ.sum() == differ[i]
            flat[place] = kept
    assert np.array_equal(checksums(weights), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_changes_that_plain_sums_do_not_see(dtype):
    torch.manual_seed(0)
    w = torch.randn(512, 512).to(dtype)
    (before,) = checksums([w])
    swapped, negative = w.clone(), -w
    swapped[[0, 1]] = w[[1, 0]]
    moved = torch.roll(w, 1)
    up_and_down = w.clone()
    up_and_down[0], up_and_down[1] = w[0] * 2, w[1] / 2
    others = [checksums([other])[0] for other in (swapped, negative, moved, up_and_down, w.flip(0), w.t().contiguous())]
    assert len({before, *others}) == 7
    long = torch.randn(2 * ON_CPU).to(dtype)  # read in parts
    assert checksums([long])[0] != checksums([torch.roll(long, ON_CPU)])[0]
    zero = torch.zeros(4).to(dtype)
    assert checksums([zero])[0] != checksums([-zero])[0]


def test_a_checksum_depends_on_no_other_group_and_no_threads():
    torch.manual_seed(0)
    first, second = [torch.randn(40, 40) for _ in range(9)], [torch.randn(900, 900), torch.randn(7)]
    together = checksums([*second, *first], ["b"] * 2 + ["a"] * 9)
    assert np.array_equal(together[2:], checksums(first, ["other name"] * 9))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert np.array_equal(checksums([*second, *first], ["b"] * 2 + ["a"] * 9), together)
    finally:
        torch.set_num_threads(threads)
    last = first[0].to(memory_format=torch.contiguous_format).t()
    assert checksums([last])[0] == checksums([first[0]])[0]  # in memory order


def test_multipliers_are_odd_and_of_64_bits():
    numbers = multipliers(0, ON_CPU)
    assert (numbers & 1).all()
    assert len(set(numbers.tolist())) == len(numbers)
    assert np.array_equal(multipliers(100, 5), numbers[100:105])
    bits = np.unpackbits(numbers.view(np.uint8)).reshape(len(numbers), 64).mean(0)
    assert np.sort(bits)[:-1] == pytest.approx(0.5, abs=0.01)  # all bits but the one that is set


@pytest.mark.parametrize("holders", [2, 3, 8])
def test_factors_add_up_to_0_and_opposite_differences_do_not_cancel(holders):
    factors = [_factor(number, holders) for number in range(holders)]
    assert sum(factors) == 0
    assert len(set(factors[1:])) == holders - 1
    same = {0: (tuple(range(holders)), 5)}
    assert differing([same] * holders) == ([], [])
    assert differing([same] * (holders - 1) + [{0: (tuple(range(holders)), 6)}]) == ([0], [holders - 1])
