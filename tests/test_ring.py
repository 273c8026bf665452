"""Ring: the order of rows, wrapping around, late rows, and rows that only the device counted."""

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast import graph_capture
from weightscale_fast.record import baseline
from weightscale_fast.record import record as recording
from weightscale_fast.record.ring import RING_ROWS, SHARD_ROWS, Ring
from weightscale_fast.record.row_sum import SHARD_SECONDS, LocalSum


def ring_with(count, ring=None, late=False):
    """A ring after `count` rows that hold their own number."""
    ring = ring or Ring(3, 2, device=torch.device("cpu"), dtype=torch.float64, late=late)
    for _ in range(count):
        ring.rows[int(ring.cursor) % RING_ROWS] = float(ring.cursor)
        ring.advance()
    return ring


def take(ring, wait):
    """The rows of the next take. They are released, as the store does it."""
    taken = []
    for step in (ring.arrived, lambda: ring.take(wait=wait)):
        parts = step()
        ring.release(max((part.first + len(part.sums) for part in parts), default=0))
        taken += parts
    return taken


def numbers(parts):
    return [(part.first, part.sums[:, 0, 0].tolist()) for part in parts]


def test_rows_leave_once_and_in_order():
    ring = ring_with(3)
    assert numbers(take(ring, wait=True)) == [(0, [0, 1, 2])]
    assert take(ring, wait=True) == []
    assert numbers(take(ring_with(2, ring), wait=True)) == [(3, [3, 4])]


def test_rows_stay_until_they_are_released():
    """So Ctrl-C between `take` and the place where the rows are stored loses none."""
    ring = ring_with(3)
    assert numbers(ring.take(wait=True)) == numbers(ring.take(wait=True)) == [(0, [0, 1, 2])]
    ring.release(2)
    assert numbers(ring.take(wait=True)) == [(2, [2])]


@pytest.mark.parametrize(("layers", "rows"), [(1, 512), (5_000, 512), (10_000, 256), (44_000, 32), (10**7, 4)])
def test_a_ring_for_many_layers_has_fewer_rows(layers, rows):
    ring = Ring(3, layers, device=torch.device("meta"), dtype=torch.float64)
    assert len(ring.rows) == len(ring.skipped) == 2 * ring.half == rows
    assert ring.rows.nbytes <= 64 * 2**20 or rows == 4


@pytest.mark.parametrize("late", [False, True])
def test_a_small_ring_records_every_row(tmp_path, monkeypatch, late):
    monkeypatch.setattr("weightscale_fast.record.ring.RING_BYTES", 8 * 3 * 2 * 8)  # 8 rows of 2 layers
    monkeypatch.setattr("weightscale_fast.record.run_folder.JOINED_SECONDS", -1)  # no shard takes later rows
    monkeypatch.setattr(recording, "arrives_late", lambda device: late)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    weights = [p for p in model.parameters() if p.dim() > 1]
    with wsf.RWCMonitor(model, run_dir=tmp_path / "run") as monitor:
        for step in range(1, 31):
            with torch.no_grad():
                for weight in weights:
                    weight.fill_(step * (step + 1) / 2)
            monitor.record()
            if step == 13:
                assert monitor.recent(after=0).steps.tolist() == list(range(6, 14))
    history = monitor.history()
    assert history.steps.tolist() == list(range(1, 31))
    assert (history.delta_l1[1:, 1] / 4).tolist() == list(range(2, 31))
    assert len(list((tmp_path / "run" / "rwc").iterdir())) == -(-30 // 4)


def test_a_late_part_stays_until_it_is_released():
    ring = ring_with(3, late=True)
    ring.take(wait=False)
    assert numbers(ring.arrived()) == numbers(ring.arrived()) == [(0, [0, 1, 2])]
    ring.release(3)
    assert ring.arrived() == []
    assert ring.waiting == 0


def test_rows_wrap_around():
    ring = ring_with(RING_ROWS - 2)
    take(ring, wait=True)
    assert numbers(take(ring_with(5, ring), wait=True)) == [(RING_ROWS - 2, list(range(RING_ROWS - 2, RING_ROWS + 3)))]


def test_taken_rows_are_copies():
    ring = ring_with(1)
    part = take(ring, wait=True)[0]
    ring.rows.fill_(-1)
    assert np.array_equal(part.sums, np.zeros((1, 3, 2)))


def test_rows_that_were_overwritten_are_reported():
    ring = ring_with(RING_ROWS + 7)
    with pytest.warns(UserWarning, match="7 rows were overwritten"):
        parts = take(ring, wait=True)
    assert numbers(parts) == [(7, list(range(7, RING_ROWS + 7)))]


def test_skipped_steps_count_for_the_next_row():
    ring = ring_with(1)
    for found_inf in (1.0, 0.0, 2.0):
        ring.count_skipped(torch.tensor(found_inf))
    ring_with(2, ring)
    ring.count_skipped(torch.tensor(float("inf")))
    ring.restart(1)
    parts = take(ring, wait=True) + take(ring_with(1, ring), wait=True)
    assert [part.skipped.tolist() for part in parts] == [[0]]
    ring.count_skipped(torch.tensor(1.0))
    assert take(ring_with(RING_ROWS, ring), wait=True)[0].skipped.tolist() == [1] + [0] * (RING_ROWS - 1)


def test_restart_sets_the_number_of_the_next_row():
    ring = ring_with(5)
    ring.restart(2)
    assert numbers(take(ring_with(1, ring), wait=True)) == [(2, [2])]


def test_a_late_ring_returns_each_part_at_the_next_take():
    ring = ring_with(16, late=True)
    assert take(ring, wait=False) == []
    ring_with(SHARD_ROWS - 16, ring)
    assert ring.waiting == SHARD_ROWS
    assert numbers(take(ring, wait=False)) == [(0, list(range(16)))]
    ring_with(3, ring)
    ring.rows[20] = -1  # these rows have been copied
    rest = take(ring, wait=True)
    assert numbers(rest) == [
        (16, list(range(16, SHARD_ROWS))),
        (SHARD_ROWS, [SHARD_ROWS, SHARD_ROWS + 1, SHARD_ROWS + 2]),
    ]
    assert ring.waiting == 0


def test_rows_that_arrived_are_in_the_folder_when_the_device_fails(tmp_path, monkeypatch):
    def fail():
        raise RuntimeError("device-side assert triggered")

    monkeypatch.setattr(recording, "arrives_late", lambda device: True)
    found = []
    monitor = wsf.RWCMonitor(nn.Linear(2, 2), run_dir=tmp_path / "run", on_finding=found.append)
    for _ in range(SHARD_ROWS + 10):
        monitor.record()
    with monkeypatch.context() as broken:
        broken.setattr(monitor._record._ring, "_wait_for_device", fail)
        for waits in (monitor.flush, lambda: monitor.recent(after=0)):
            with pytest.raises(RuntimeError, match="device-side assert"):
                waits()
    assert wsf.RWCHistory.load(tmp_path / "run").steps.tolist() == list(range(1, SHARD_ROWS + 1))
    assert found == []
    monitor.close()
    assert [(finding.kind, finding.step) for finding in found] == [("still", 1)]  # close checks these rows too
    assert len(monitor.history()) == SHARD_ROWS + 10


@pytest.mark.parametrize("captured", [True, False])
def test_memory_of_a_captured_graph_outlives_the_monitor(captured, monkeypatch):
    monkeypatch.setattr(graph_capture, "_replayed", [])
    monitor = wsf.RWCMonitor(nn.Linear(2, 2))
    for module in (recording, baseline):
        monkeypatch.setattr(module, "is_capturing", lambda device: captured)
    monitor.record()
    held = monitor._record
    memory = [weakref.ref(owner) for owner in (held._ring, held.baseline.plan, *held.baseline.plan.prev)]
    del held
    with torch.no_grad():
        monitor.model.weight.set_(torch.ones(2, 2))  # at another address, so the monitor builds another plan
    for module in (recording, baseline):
        monkeypatch.setattr(module, "is_capturing", lambda device: False)
    monitor.record()
    del monitor
    gc.collect()
    assert [owner() is not None for owner in memory] == [captured] * len(memory)


def test_rows_leave_the_ring_once_a_minute(monkeypatch):
    """And not at each step after the first minute."""
    now = 0.0
    monkeypatch.setattr("weightscale_fast.record.row_sum.time", SimpleNamespace(monotonic=lambda: now))
    sums, taken = LocalSum(256), []
    for row in range(1, 200):
        now += 1.0
        if sums.due(row):
            taken.append(row)
            sums.start(row)
    assert taken == [SHARD_SECONDS + 1, 2 * (SHARD_SECONDS + 1), 3 * (SHARD_SECONDS + 1)]
