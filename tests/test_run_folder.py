"""The record on disk: kills, full disks, damaged files and files of other runs."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.record.ring import SHARD_ROWS
from weightscale_fast.record.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    """A run folder with 300 steps of one layer, in two shards."""
    model = nn.Linear(3, 2)
    with wsf.RWCMonitor(model, run_dir=tmp_path / "run") as monitor:
        for _ in range(300):
            with torch.no_grad():
                model.weight.add_(0.01)
            monitor.record()
    return tmp_path / "run"


def shards(run):
    return sorted((run / "rwc").iterdir())


def test_files(run):
    assert [shard.name for shard in shards(run)] == [
        "part-000000001-000000256.safetensors",
        "part-000000257-000000300.safetensors",
    ]
    arrays = safetensors.numpy.load_file(shards(run)[1])
    assert {name: array.shape for name, array in arrays.items()} == {
        "step": (44,),
        "flags": (44,),
        "delta_l1": (44, 1),
        "prev_l1": (44, 1),
        "moved": (44, 1),
    }
    meta = json.loads((run / "meta.json").read_text())
    assert meta["names"] == ["weight"]
    assert {"numel", "kinds", "definition", "every", "settings", "versions"} <= meta.keys()


@pytest.fixture
def counting(tmp_path):
    """A monitor with a run folder, and a function that makes `n` steps and flushes. Step i moves the weights by i."""
    model = nn.Linear(3, 2)
    monitor = wsf.RWCMonitor(model, run_dir=tmp_path / "run")

    def steps(n=1):
        for _ in range(n):
            with torch.no_grad():
                model.weight.fill_((monitor.step + 1) * (monitor.step + 2) / 2)
            monitor.record()
        monitor.flush()

    return monitor, steps


def check(rows, n):
    assert rows.steps.tolist() == list(range(1, n + 1))
    assert (rows.delta_l1[1:, 0] / 6).tolist() == list(range(2, n + 1))


def test_a_history_at_each_step_leaves_a_shard_for_256_rows(tmp_path, counting):
    monitor, steps = counting
    for i in range(1, 301):
        steps()
        if i % 50 == 0:
            check(monitor.history(), i)
    assert [shard.name for shard in shards(tmp_path / "run")] == [
        "part-000000001-000000256.safetensors",
        "part-000000257-000000300.safetensors",
    ]
    monitor.close()
    check(wsf.RWCHistory.load(tmp_path / "run"), 300)


def test_large_and_old_shards_take_no_more_rows(tmp_path, counting, monkeypatch):
    _, steps = counting
    for limit in ("JOINED_BYTES", "JOINED_SECONDS"):
        with monkeypatch.context() as patch:
            patch.setattr(f"weightscale_fast.record.run_folder.{limit}", 0)
            before = len(shards(tmp_path / "run"))
            steps()
            steps()
            assert len(shards(tmp_path / "run")) == before + 2
    check(wsf.RWCHistory.load(tmp_path / "run"), 4)


def test_each_shard_takes_rows_for_a_minute(tmp_path, counting, monkeypatch):
    """And not only the first one: after that each flush left a shard."""
    _, steps = counting
    now = 0.0
    monkeypatch.setattr("weightscale_fast.record.run_folder.time", SimpleNamespace(monotonic=lambda: now))
    for _ in range(12):
        now += 25.0
        steps()
    assert len(shards(tmp_path / "run")) == 4
    check(wsf.RWCHistory.load(tmp_path / "run"), 12)


def test_rows_that_are_written_twice_appear_once(tmp_path, counting):
    """So it is if Ctrl-C comes between the writing and the place where the store forgets the rows."""
    monitor, steps = counting
    steps(3)
    steps(2)
    folder = monitor._record.store._run
    rows = folder.rows()
    folder.append(rows.where(rows.steps > 3))
    check(folder.rows(), 5)
    assert len(shards(tmp_path / "run")) == 1


def test_a_reader_finds_rows_that_were_joined_with_later_ones(tmp_path, counting):
    _, steps = counting
    steps(3)
    reader = RunFolder.open(tmp_path / "run")
    steps(2)
    steps(2)
    check(reader.rows(), 3)
    check(RunFolder.open(tmp_path / "run").rows(), 7)


def test_a_checkpoint_inside_a_joined_shard(tmp_path, counting):
    monitor, steps = counting
    steps(3)
    state = monitor.state_dict()
    steps(2)
    monitor.load_state_dict(state)
    steps(1)
    steps(3)
    check(monitor.history(), 7)
    monitor.close()
    check(wsf.RWCHistory.load(tmp_path / "run"), 7)


def test_shards_without_flags(run):
    for shard in shards(run):
        arrays = safetensors.numpy.load_file(shard)
        del arrays["flags"]
        shard.write_bytes(safetensors.numpy.save(arrays))
    history = wsf.RWCHistory.load(run)
    assert len(history) == 300
    assert not history.flags.any()


class TestReadErrors:
    def test_no_run(self, tmp_path):
        for path, why in ((tmp_path, "is not a run folder: it has no meta.json"), (tmp_path / "no", "does not exist")):
            with pytest.raises(wsf.WeightScaleError, match=why):
                wsf.RWCHistory.load(path)

    @pytest.mark.parametrize("text", ['{"format": "other"}', "[]", "{"])
    def test_a_meta_file_of_something_else(self, tmp_path, text):
        (tmp_path / "meta.json").write_text(text)
        with pytest.raises(wsf.WeightScaleError, match="not a run folder|cannot be read"):
            wsf.RWCHistory.load(tmp_path)

    def test_a_damaged_shard(self, run):
        shard = shards(run)[1]
        shard.write_bytes(shard.read_bytes()[:-100])
        with pytest.raises(wsf.WeightScaleError, match=r"part-000000257-000000300.* is damaged.*move it away"):
            wsf.RWCHistory.load(run)
        shard.rename(run / "damaged")
        assert len(wsf.RWCHistory.load(run)) == 256

    def test_a_shard_of_another_run(self, run):
        shard = shards(run)[1]
        arrays = safetensors.numpy.load_file(shard)
        arrays["moved"] = np.zeros((44, 2), dtype=np.int64)
        shard.write_bytes(safetensors.numpy.save(arrays))
        with pytest.raises(wsf.WeightScaleError, match=r"part-000000257.* does not belong to this run: .*for 1 layers"):
            wsf.RWCHistory.load(run)

    def test_a_shard_under_another_name(self, run):
        shards(run)[1].rename(run / "rwc" / "part-000000301-000000344.safetensors")
        with pytest.raises(wsf.WeightScaleError, match="does not belong to this run"):
            wsf.RWCHistory.load(run)


class TestWriteErrors:
    def test_a_file_has_the_name_of_the_folder(self, tmp_path):
        (tmp_path / "run").write_text("")
        with pytest.raises(wsf.WeightScaleError, match="exists"):
            wsf.RWCMonitor(nn.Linear(2, 2), run_dir=tmp_path / "run")

    def test_no_permission(self):
        with pytest.raises(wsf.WeightScaleError, match=r"run folder /proc/run cannot be written"):
            wsf.RWCMonitor(nn.Linear(2, 2), run_dir="/proc/run")

    def test_an_empty_folder_is_no_error(self, tmp_path):
        wsf.RWCMonitor(nn.Linear(2, 2), run_dir=tmp_path).close()
        assert len(wsf.RWCHistory.load(tmp_path)) == 0


def test_a_full_disk_neither_stops_the_training_nor_loses_a_row(tmp_path):
    """A limit of the operating system lets the process write files of at most 8 KB."""
    script = f"""
import resource, sys, warnings, torch, weightscale_fast as wsf
from torch import nn
model = nn.Linear(3, 2)
monitor = wsf.RWCMonitor(model, run_dir={str(tmp_path / "run")!r})
def steps(n):
    for _ in range(n):
        with torch.no_grad():
            model.weight.add_(0.01)
        monitor.record()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    steps({SHARD_ROWS})
    assert not caught
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, hard))
    steps(3 * {SHARD_ROWS})
    assert len(caught) == 1, caught
    assert "stay in memory" in str(caught[0].message), caught[0].message
    assert len(wsf.RWCHistory.load({str(tmp_path / "run")!r})) == {SHARD_ROWS}
    assert len(monitor.history()) == 4 * {SHARD_ROWS}
    if sys.argv[1] == "lifted":
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    monitor.close()
    assert len(caught) == (1 if sys.argv[1] == "lifted" else 2), [str(w.message) for w in caught]
"""
    for end, rows in (("lifted", 4 * SHARD_ROWS), ("full", SHARD_ROWS)):
        done = subprocess.run([sys.executable, "-c", script, end], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        history = wsf.RWCHistory.load(tmp_path / "run")
        assert history.steps.tolist() == list(range(1, rows + 1))
        (tmp_path / "run").rename(tmp_path / end)


def test_kill_9_at_random_moments(tmp_path):
    """50 processes are killed while they record as fast as they can. Complete shards load and are right."""
    script = f"""
import os, random, signal, sys, time, torch, weightscale_fast as wsf
from torch import nn
torch.set_num_threads(1)
random.seed(0)
for i in range(50):
    run = os.path.join({str(tmp_path)!r}, str(i))
    child = os.fork()
    if child == 0:
        model = nn.Linear(100, 1, bias=False)
        nn.init.ones_(model.weight)
        monitor = wsf.RWCMonitor(model, run_dir=run)
        while True:
            with torch.no_grad():
                model.weight.add_(1)
            monitor.record()
    while not os.path.exists(run):
        time.sleep(0.0005)
    time.sleep(random.uniform(0, 0.1) if i else 0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
    lengths = []
    for i in range(50):
        history = wsf.RWCHistory.load(tmp_path / str(i))
        lengths.append(len(history))
        assert history.steps.tolist() == list(range(1, len(history) + 1))
        np.testing.assert_array_equal(history.delta_l1, np.full((len(history), 1), 100.0))
        np.testing.assert_array_equal(history.prev_l1[:, 0], 100.0 * history.steps)
    assert min(lengths) == 0  # killed before its first shard
    assert max(lengths) > SHARD_ROWS  # killed after several shards


def test_a_killed_resume_leaves_no_double_row(run):
    """`drop_after` writes the shortened shard before it deletes the long one."""
    long = shards(run)[0]
    copy = long.read_bytes()
    folder = RunFolder.open(run)
    folder.drop_after(100)
    assert wsf.RWCHistory.load(run).steps.tolist() == list(range(1, 101))
    long.write_bytes(copy)
    assert wsf.RWCHistory.load(run).steps.tolist() == list(range(1, 257))


def test_a_hundred_thousand_steps_take_no_more_memory_than_ten(tmp_path):
    """Resident memory does not grow, and the files have the computed size."""
    script = f"""
import torch, weightscale_fast as wsf
from torch import nn
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
monitor = wsf.RWCMonitor(model, run_dir={str(tmp_path / "run")!r})
for step in range(100_000):
    monitor.record()
    if step == 10_000:
        before = resident()
monitor.close()
print(resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2_000_000  # 100,000 rows of two layers are 4.8 MB
    sizes = [os.path.getsize(shard) for shard in shards(tmp_path / "run")]
    header = 500  # bytes of JSON in each shard, at most
    rows = 100_000 * (8 + 1 + 2 * 3 * 8)
    assert len(sizes) == -(-100_000 // SHARD_ROWS)
    assert rows < sum(sizes) < rows + len(sizes) * header
    assert len(wsf.RWCHistory.load(tmp_path / "run")) == 100_000
