"""Only one monitor writes a run folder: in one process, in two, in forked children, in a folder that is replaced."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.record.run_folder import RunFolder


def network():
    torch.manual_seed(0)
    return nn.Linear(4, 4, bias=False)


def steps(monitor, count, by=1.0):
    for _ in range(count):
        with torch.no_grad():
            monitor.model.weight.add_(by)
        monitor.record()


class TestInOneProcess:
    def test_the_second_monitor_is_refused_with_the_way_out(self, tmp_path):
        first = wsf.RWCMonitor(network(), run_dir=tmp_path / "run")
        steps(first, 5)
        first.flush()
        for options in ({"resume": True}, {"exist": "overwrite"}):
            with pytest.raises(
                wsf.WeightScaleError, match=r"another monitor of this process still .*call its close\(\)"
            ):
                wsf.RWCMonitor(network(), run_dir=tmp_path / "run", **options)
        first.close()
        with wsf.RWCMonitor(network(), run_dir=tmp_path / "run", resume=True) as second:
            assert second.step == 5

    def test_also_if_no_row_is_written_yet(self, tmp_path):
        first = wsf.RWCMonitor(network(), run_dir=tmp_path / "run")
        with pytest.raises(wsf.WeightScaleError, match="another monitor of this process"):
            wsf.RWCMonitor(network(), run_dir=tmp_path / "run")
        steps(first, 1)
        first.close()
        assert len(wsf.RWCHistory.load(tmp_path / "run")) == 1

    def test_a_monitor_that_nobody_holds_is_no_writer(self, tmp_path):
        monitor = wsf.RWCMonitor(network(), run_dir=tmp_path / "run")
        del monitor
        gc.collect()
        wsf.RWCMonitor(network(), run_dir=tmp_path / "run").close()

    def test_a_monitor_that_could_not_start_is_no_writer(self, tmp_path):
        class NoHooks(torch.optim.SGD):
            register_step_post_hook = property()

        model = network()
        with pytest.raises(wsf.WeightScaleError, match="has no hooks") as caught:
            wsf.RWCMonitor(model, NoHooks(model.parameters(), lr=0.1), run_dir=tmp_path / "run")
        wsf.RWCMonitor(model, run_dir=tmp_path / "run").close()
        del caught  # until here its traceback held the first monitor, as a notebook does

    def test_a_saved_history_can_be_continued(self, tmp_path):
        with wsf.RWCMonitor(network()) as monitor:
            steps(monitor, 3)
        monitor.history().save(tmp_path / "run")
        with wsf.RWCMonitor(network(), run_dir=tmp_path / "run", resume=True) as monitor:
            assert monitor.step == 3


HOLD = """
import sys, time, torch, weightscale_fast as wsf
from torch import nn
monitor = wsf.RWCMonitor(nn.Linear(4, 4, bias=False), run_dir=sys.argv[1])
monitor.record()
monitor.flush()
print("ready", flush=True)
time.sleep(600)
"""


class TestTwoProcesses:
    @pytest.fixture
    def other(self, tmp_path):
        process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()
        process.communicate()

    def test_the_second_is_refused_until_the_first_is_killed(self, tmp_path, other):
        with pytest.raises(wsf.WeightScaleError, match=rf"process {other.pid} writes to .*run: end it, or choose"):
            wsf.RWCMonitor(network(), run_dir=tmp_path / "run", resume=True)
        assert len(wsf.RWCHistory.load(tmp_path / "run")) == 1  # reading needs no lock
        other.send_signal(signal.SIGKILL)
        other.wait()
        with wsf.RWCMonitor(network(), run_dir=tmp_path / "run", resume=True) as monitor:
            assert monitor.step == 1

    def test_next_leaves_the_folder_to_the_other(self, tmp_path, other):
        with wsf.RWCMonitor(network(), run_dir=tmp_path / "run", exist="next") as monitor:
            assert monitor.run_dir == tmp_path / "run-2"


def in_child(work):
    """Run `work` in a forked child, and return its exit status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
class TestForkedChildren:
    def test_a_child_that_trains_on_records_nothing_and_says_so_once(self, tmp_path):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

        def train(count, gradient):
            for _ in range(count):
                model.weight.grad = torch.full_like(model.weight, gradient)
                optimizer.step()

        monitor = wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run")
        train(200, 1.0)

        def work():
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                train(300, 50.0)
                monitor.flush()
                monitor.close()
            assert len(caught) == 1, caught
            assert "was forked from the one that made the monitor" in str(caught[0].message)

        assert in_child(work) == 0
        assert len(wsf.RWCHistory.load(tmp_path / "run")) == 0
        train(100, 1.0)
        monitor.close()
        history = wsf.RWCHistory.load(tmp_path / "run")
        assert history.steps.tolist() == list(range(1, 301))
        np.testing.assert_allclose(history.delta_l1, 16.0, rtol=1e-4)

    def test_a_child_deletes_no_rows(self, tmp_path):
        monitor = wsf.RWCMonitor(network(), run_dir=tmp_path / "run")
        state = monitor.state_dict()
        steps(monitor, 5)
        monitor.flush()

        def work():
            with pytest.raises(wsf.WeightScaleError, match="only in the process that made it"):
                monitor.load_state_dict(state)

        assert in_child(work) == 0
        assert len(monitor.history()) == 5
        monitor.close()

    def test_a_child_may_record_to_its_own_folder(self, tmp_path):
        monitor = wsf.RWCMonitor(network(), run_dir=tmp_path / "run")

        def work():
            with wsf.RWCMonitor(network(), run_dir=tmp_path / "child") as own:
                steps(own, 3)

        assert in_child(work) == 0
        assert len(wsf.RWCHistory.load(tmp_path / "child")) == 3
        monitor.close()

    def test_a_child_that_lives_on_does_not_hold_the_folder(self, tmp_path):
        script = f"""
import os, time, weightscale_fast as wsf
from torch import nn
monitor = wsf.RWCMonitor(nn.Linear(4, 4, bias=False), run_dir={str(tmp_path / "run")!r})
monitor.record()
monitor.flush()
child = os.fork()
if child == 0:
    time.sleep(600)
print(child, flush=True)
time.sleep(600)
"""
        process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script], stdout=subprocess.PIPE, text=True)
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        try:
            with wsf.RWCMonitor(network(), run_dir=tmp_path / "run", resume=True) as monitor:
                assert monitor.step == 1
        finally:
            os.kill(child, signal.SIGKILL)
            process.stdout.close()


class TestFoldersThatAreReplaced:
    def test_another_run_does_not_take_the_rows(self, tmp_path):
        run = tmp_path / "run"
        first = wsf.RWCMonitor(network(), run_dir=run)
        steps(first, 10)
        first.flush()
        shutil.rmtree(run)
        with wsf.RWCMonitor(network(), run_dir=run) as second:
            steps(second, 3)
            steps(first, 5)
            with pytest.warns(UserWarning, match=r"cannot be written to .*is the folder of another run now"):
                first.flush()
            with pytest.warns(UserWarning, match="only the rows that are still in memory are left"):
                assert first.history().steps.tolist() == [11, 12, 13, 14, 15]
        with pytest.warns(UserWarning, match="5 recorded steps could not be written"):
            first.close()
        assert wsf.RWCHistory.load(run).steps.tolist() == [1, 2, 3]

    def test_another_run_keeps_its_rows_when_the_first_goes_back(self, tmp_path):
        run = tmp_path / "run"
        first = wsf.RWCMonitor(network(), run_dir=run)
        state = first.state_dict()
        shutil.rmtree(run)
        with wsf.RWCMonitor(network(), run_dir=run) as second:
            steps(second, 3)
        with pytest.raises(wsf.WeightScaleError, match="cannot go back to step 0: .*is the folder of another run now"):
            first.load_state_dict(state)
        first.close()
        assert len(wsf.RWCHistory.load(run)) == 3

    def test_a_deleted_folder_is_not_made_again(self, tmp_path):
        monitor = wsf.RWCMonitor(network(), run_dir=tmp_path / "run")
        shutil.rmtree(tmp_path / "run")
        steps(monitor, 2)
        with pytest.warns(UserWarning, match="was deleted"):
            monitor.flush()
        with pytest.warns(UserWarning, match="2 recorded steps could not be written"):
            monitor.close()
        assert not (tmp_path / "run").exists()


def test_a_state_of_another_run_deletes_nothing(tmp_path):
    """With exist="next" the folder of the first run and that of the second have like names."""
    with wsf.RWCMonitor(network(), run_dir=tmp_path / "run") as monitor:
        steps(monitor, 10)
    with wsf.RWCMonitor(network(), run_dir=tmp_path / "run", exist="next") as monitor:
        steps(monitor, 4)
        state = monitor.state_dict()
    with wsf.RWCMonitor(network(), run_dir=tmp_path / "run", resume=True) as monitor:
        with pytest.raises(ValueError, match="the state is of another run than the one in run_dir"):
            monitor.load_state_dict(state)
        assert monitor.step == 10
    assert len(wsf.RWCHistory.load(tmp_path / "run")) == 10
    with wsf.RWCMonitor(network(), run_dir=tmp_path / "run-2", resume=True) as monitor:
        monitor.load_state_dict(state)


@pytest.mark.parametrize("to_folder", [False, True], ids=["memory", "folder"])
@pytest.mark.parametrize("count", [5, 25])
def test_a_state_without_rows_in_its_folder_deletes_no_other_run(tmp_path, to_folder, count):
    """A state of another run was refused only if its folder had rows, and a state of a record in memory never was."""
    with wsf.RWCMonitor(network(), run_dir=tmp_path / "first" if to_folder else None, every=10) as monitor:
        steps(monitor, count)
        state = monitor.state_dict()
    with wsf.RWCMonitor(network(), run_dir=tmp_path / "run", every=10) as monitor:
        steps(monitor, 100, by=0.5)
    with wsf.RWCMonitor(network(), run_dir=tmp_path / "run", every=10, resume=True) as monitor:
        with pytest.raises(ValueError, match="the state is of another run than the one in run_dir"):
            monitor.load_state_dict(state)
        assert monitor.step == 100
    assert len(wsf.RWCHistory.load(tmp_path / "run")) == 10


def test_a_state_from_memory_goes_on_in_its_own_folder_twice(tmp_path):
    with wsf.RWCMonitor(network()) as monitor:
        steps(monitor, 5)
        state = monitor.state_dict()
    for resume in (False, True):
        with wsf.RWCMonitor(network(), run_dir=tmp_path / "run", resume=resume) as monitor:
            monitor.load_state_dict(state)
            steps(monitor, 3)
            assert monitor.history().steps.tolist() == list(range(1, 9))


def test_a_closed_monitor_writes_no_more(tmp_path, monkeypatch):
    """Its rows that a full disk kept in memory replaced those of the monitor that took the folder after it."""
    first = wsf.RWCMonitor(network(), run_dir=tmp_path / "run")
    steps(first, 10)
    state = first.state_dict()
    with monkeypatch.context() as full:
        full.setattr(RunFolder, "_write", no_space)
        steps(first, 10, by=2.0)
        with pytest.warns(UserWarning, match="stay in memory|10 recorded steps could not be written"):
            first.close()
    with wsf.RWCMonitor(network(), run_dir=tmp_path / "run", resume=True) as second:
        steps(second, 5, by=3.0)
        second.flush()
        before = sorted((tmp_path / "run" / "rwc").iterdir())
        assert (first.history().delta_l1[:, 0] / 16).round(4).tolist() == [1.0] * 10 + [2.0] * 10
        first.flush()
        first.state_dict()
        with pytest.raises(wsf.WeightScaleError, match="the monitor is closed"):
            first.load_state_dict(state)
        assert sorted((tmp_path / "run" / "rwc").iterdir()) == before
    moved = wsf.RWCHistory.load(tmp_path / "run").delta_l1[:, 0] / 16
    assert moved.round(4).tolist() == [1.0] * 10 + [3.0] * 5


def no_space(*_):
    raise OSError("No space left on device")


def test_a_checkpoint_that_was_saved_while_the_disk_was_full(tmp_path, monkeypatch):
    """The process is killed after that: what the folder lacks then is said at the resume."""
    monitor = wsf.RWCMonitor(network(), run_dir=tmp_path / "run")
    steps(monitor, 10)
    monitor.flush()
    with monkeypatch.context() as full:
        full.setattr(RunFolder, "_write", no_space)
        steps(monitor, 10)
        with pytest.warns(UserWarning, match="stay in memory"):
            state = monitor.state_dict()
        monitor.load_state_dict(state)  # here the rows are in memory, and there is nothing to say
        with pytest.warns(UserWarning, match="10 recorded steps could not be written"):
            monitor.close()
    resumed = wsf.RWCMonitor(network(), run_dir=tmp_path / "run", resume=True)
    with pytest.warns(UserWarning, match="ends at step 10, but when the checkpoint was saved it had step 20"):
        resumed.load_state_dict(state)
    resumed.close()


def test_a_disk_that_is_full_again_is_told_again(tmp_path, monkeypatch):
    monitor = wsf.RWCMonitor(network(), run_dir=tmp_path / "run")
    for _ in range(2):
        with monkeypatch.context() as full:
            full.setattr(RunFolder, "_write", no_space)
            steps(monitor, 1)
            with pytest.warns(UserWarning, match="stay in memory"):
                monitor.flush()
            steps(monitor, 1)
            monitor.flush()  # it says nothing more
        steps(monitor, 1)
        monitor.flush()
    assert len(wsf.RWCHistory.load(tmp_path / "run")) == 6
    monitor.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_does_not_write_what_a_full_disk_left_in_memory(tmp_path, monkeypatch):
    monitor = wsf.RWCMonitor(network(), run_dir=tmp_path / "run")
    steps(monitor, 3)
    with monkeypatch.context() as full:
        full.setattr(RunFolder, "_write", no_space)
        with pytest.warns(UserWarning, match="stay in memory"):
            monitor.flush()

    def work():
        monitor.close()

    assert in_child(work) == 0
    assert len(wsf.RWCHistory.load(tmp_path / "run")) == 0
    monitor.close()
    assert len(wsf.RWCHistory.load(tmp_path / "run")) == 3
