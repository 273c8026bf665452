"""A record is whole whatever comes between: Ctrl-C at any line, other threads, and readers while it is written."""

import os
import signal
import sys
import threading
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.analysis.curve_files import load_curves
from weightscale_fast.record import record as recording
from weightscale_fast.record import shards
from weightscale_fast.record.run_folder import RunFolder

PACKAGE = str(Path(wsf.__file__).parent)


def counting():
    """A model whose weights move by i at step i, and its step."""
    model = nn.Linear(2, 2, bias=False)
    nn.init.ones_(model.weight)

    def step(monitor, i):
        with torch.no_grad():
            model.weight.add_(float(i))
        monitor.record()

    return model, step


def interrupt_at(number, call):
    """Run `call`, with KeyboardInterrupt at the given line of the package that it executes; whether it came so far."""
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            lines += 1
            if lines == number:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("to_folder", [False, True], ids=["memory", "folder"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the shard that was being written
def test_ctrl_c_in_a_flush_loses_no_row(tmp_path, to_folder, late, monkeypatch):
    monkeypatch.setattr(recording, "arrives_late", lambda device: late)
    number, interrupted = 0, True
    while interrupted:
        number += 1
        model, step = counting()
        monitor = wsf.RWCMonitor(model, run_dir=tmp_path / str(number) if to_folder else None)
        for i in range(1, 5):
            step(monitor, i)
        interrupted = interrupt_at(number, monitor.flush)
        for i in range(5, 9):
            step(monitor, i)
        history = monitor.history()
        monitor.close()
        assert history.steps.tolist() == list(range(1, 9)), number
        assert (history.delta_l1[:, 0] / 4).tolist() == list(range(1, 9)), number
        if to_folder:
            assert wsf.RWCHistory.load(tmp_path / str(number)).steps.tolist() == list(range(1, 9)), number
    assert number > 20


@pytest.mark.parametrize(("late", "at"), [(False, 4), (True, 8)])
@pytest.mark.filterwarnings("ignore:KeyboardInterrupt came while step")  # see the next test
def test_ctrl_c_in_a_step_that_moves_rows_loses_none(late, at, monkeypatch):
    """This row takes the others out of the ring. It is itself recorded, or its movement is lost or in the next row."""
    number, interrupted = 0, True
    monkeypatch.setattr("weightscale_fast.record.ring.RING_ROWS", 8)
    monkeypatch.setattr(recording, "arrives_late", lambda device: late)
    while interrupted:
        number += 1
        model, step = counting()
        monitor = wsf.RWCMonitor(model)
        for i in range(1, at):
            step(monitor, i)
        interrupted = interrupt_at(number, partial(step, monitor, at))
        for i in range(at + 1, at + 5):
            step(monitor, i)
        history = monitor.history()
        moved = (history.delta_l1[:, 0] / 4).tolist()
        assert history.steps.tolist() == list(range(1, len(moved) + 1)), number
        assert moved[: at - 1] == list(range(1, at)), number
        assert moved[-3:] == [at + 2, at + 3, at + 4], number
    assert number > 20


@pytest.mark.parametrize("every", [1, 3])
def test_ctrl_c_that_loses_the_movement_of_a_step_is_told(every):
    """It came after the pass had renewed the previous weights and before the row counted, and nobody said so.

    And with `every` above 1, one that came just before the step was counted moved all later rows by one step.
    """
    number, told, interrupted = 0, 0, True
    while interrupted:
        number += 1
        model, step = counting()
        monitor = wsf.RWCMonitor(model, every=every)
        for i in range(1, 3 * every):
            step(monitor, i)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            interrupted = interrupt_at(number, partial(step, monitor, 3 * every))
        for _ in range(every):
            step(monitor, 100)
        rows = (monitor.history().delta_l1[:, 0] / 4).tolist()
        if warned:
            told += 1
            assert f"KeyboardInterrupt came while step {3 * every} was recorded" in str(warned[0].message)
            assert len(rows) == 3
        elif len(rows) == 3:  # the interrupted step had not begun to be recorded, and the next row has both
            assert rows[2] == sum(range(2 * every + 1, 3 * every + 1)) + 100, number
        else:
            assert rows[2:] == [sum(range(2 * every + 1, 3 * every + 1)), 100 * every], number
        monitor.close()
    assert told > 10


def call_at(number, call, inner):
    """Run `call`, and `inner` at the given line of the package that it executes, as a signal handler would."""
    lines = 0

    def trace(frame, event, _):
        nonlocal lines
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            lines += 1
            if lines == number:
                inner()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines >= number


@pytest.mark.parametrize("inner", ["flush", "history", "close"])
@pytest.mark.parametrize(("late", "to_folder"), [(False, False), (True, False), (False, True)])
def test_a_signal_handler_in_a_step_that_moves_rows(tmp_path, to_folder, late, inner, monkeypatch):
    """What the handler calls while rows move neither loses a row nor doubles one."""
    number, came = 0, True
    at = 8 if late else 4
    monkeypatch.setattr("weightscale_fast.record.ring.RING_ROWS", 8)
    monkeypatch.setattr(recording, "arrives_late", lambda device: late)
    while came:
        number += 2 if to_folder else 1
        model, step = counting()
        monitor = wsf.RWCMonitor(model, run_dir=tmp_path / str(number) if to_folder else None)
        for i in range(1, at):
            step(monitor, i)
        try:
            came = call_at(number, partial(step, monitor, at), getattr(monitor, inner))
        except wsf.WeightScaleError:  # it was closed before record() looked
            if inner != "close":
                raise
        if inner != "close":
            for i in range(at + 1, at + 3):
                step(monitor, i)
        moved = (monitor.history().delta_l1[:, 0] / 4).tolist()
        monitor.close()
        assert moved == list(range(1, len(moved) + 1)), number
        assert len(moved) >= at - 1 if inner == "close" else len(moved) == at + 2, number
        if to_folder:
            saved = wsf.RWCHistory.load(tmp_path / str(number)).steps.tolist()
            assert saved == list(range(1, len(moved) + 1)), number
    assert number > 20


def test_a_signal_handler_saves_no_half_step():
    model, step = counting()
    monitor = wsf.RWCMonitor(model)
    state = monitor.state_dict()

    def handler():
        for call in (monitor.state_dict, partial(monitor.load_state_dict, state)):
            with pytest.raises(wsf.WeightScaleError, match=r"a signal handler called .*state_dict\(\) in the middle"):
                call()

    monitor._record.within(handler)
    step(monitor, 1)
    assert monitor.state_dict()["step"] == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_while_another_thread_records(tmp_path):
    """The lock that this thread held stayed locked in the child, which hung at its end."""
    model, step = counting()
    monitor = wsf.RWCMonitor(model)
    step(monitor, 1)
    held, done = threading.Event(), threading.Event()

    def hold():
        with monitor._record.lock, monitor._record.snapshot.lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        monitor._record.history()
        monitor.close()
        os._exit(0)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("where", ["write", "advance"])
def test_ctrl_c_after_a_row_is_in_the_ring_counts_the_step(tmp_path, where, monkeypatch):
    """With `every` above 1 a step that was not counted moved all later rows by one step."""
    model, step = counting()
    monitor = wsf.RWCMonitor(model, run_dir=tmp_path / "run", every=3)
    monkeypatch.setattr("weightscale_fast.record.row_sum.SHARD_SECONDS", 0.0)  # each row is written at once
    for i in range(1, 6):
        step(monitor, i)
    with monkeypatch.context() as patch:
        if where == "write":
            patch.setattr(RunFolder, "_write", interrupted)
        else:
            patch.setattr(monitor._record._ring, "cursor", InterruptedCursor(monitor._record._ring.cursor))
        with pytest.raises(KeyboardInterrupt):
            step(monitor, 6)
    assert monitor.step == 6
    for i in range(7, 13):
        step(monitor, i)
    monitor.close()
    history = monitor.history()
    assert history.steps.tolist() == [3, 6, 9, 12]
    assert (history.delta_l1[:, 0] / 4).tolist() == [1 + 2 + 3, 4 + 5 + 6, 7 + 8 + 9, 10 + 11 + 12]


def interrupted(*_):
    raise KeyboardInterrupt


class InterruptedCursor(torch.Tensor):
    """A cursor during whose next move Ctrl-C comes: it has moved, and then the signal is seen."""

    @staticmethod
    def __new__(cls, cursor):
        return torch.Tensor._make_subclass(cls, cursor)

    def add_(self, number):
        self.as_subclass(torch.Tensor).add_(number)
        raise KeyboardInterrupt


@pytest.mark.parametrize("to_folder", [False, True], ids=["memory", "folder"])
def test_a_history_from_another_thread_loses_no_row(tmp_path, to_folder):
    model, step = counting()
    monitor = wsf.RWCMonitor(model, run_dir=tmp_path / "run" if to_folder else None)
    done, errors = threading.Event(), []

    def watch():
        while not done.is_set():
            try:
                steps = monitor.history().steps
                assert steps.tolist() == list(range(1, len(steps) + 1))
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=watch) for _ in range(2)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for i in range(1500):
            step(monitor, 1 + i % 7)
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(before)
    assert not errors, errors
    history = monitor.history()
    monitor.close()
    assert history.steps.tolist() == list(range(1, 1501))
    assert (history.delta_l1[:, 0] / 4).tolist() == [1 + i % 7 for i in range(1500)]


class TestReadingWhileWriting:
    @pytest.fixture
    def run(self, tmp_path, monkeypatch):
        """A run that goes on, with three shards so far."""
        monkeypatch.setattr("weightscale_fast.record.run_folder.JOINED_SECONDS", -1)  # each flush begins a shard
        model, step = counting()
        with wsf.RWCMonitor(model, run_dir=tmp_path / "run") as monitor:
            for i in range(1, 10):
                step(monitor, i)
                if i % 3 == 0:
                    monitor.flush()
            yield monitor, step

    def test_curves_of_a_run_that_gets_a_shard_meanwhile(self, run, monkeypatch):
        """They count the rows before they read them."""
        monitor, step = run
        parts = RunFolder.parts

        def slow(folder):
            yield from parts(folder)
            step(monitor, monitor.step + 1)
            step(monitor, monitor.step + 1)
            monitor.flush()

        monkeypatch.setattr(RunFolder, "parts", slow)
        curves = load_curves(monitor.run_dir).curves
        assert curves.shape == (1, 9)
        assert (curves > 0).all()

    @pytest.mark.parametrize("hidden", ["000000004", "000000007"], ids=["the second shard", "the last shard"])
    def test_a_listing_that_misses_a_shard_is_done_again(self, run, monkeypatch, hidden):
        """A folder that changes while it is listed may hide a shard. The last one is renamed as it grows."""
        monitor, _ = run
        listdir, calls = os.listdir, []

        def hiding(path):
            calls.append(path)
            return [name for name in listdir(path) if len(calls) > 1 or hidden not in name]

        monkeypatch.setattr(shards.os, "listdir", hiding)
        assert wsf.RWCHistory.load(monitor.run_dir).steps.tolist() == list(range(1, 10))

    def test_a_shard_that_was_moved_away_is_not_looked_for_for_ever(self, run):
        monitor, _ = run
        sorted((monitor.run_dir / "rwc").iterdir())[1].unlink()
        assert wsf.RWCHistory.load(monitor.run_dir).steps.tolist() == [1, 2, 3, 7, 8, 9]

    def test_a_run_that_goes_back_meanwhile(self, run, monkeypatch):
        monitor, _ = run
        read = shards.read_shard
        state = monitor.state_dict()

        def racing(shard, meta):
            monkeypatch.setattr("weightscale_fast.record.run_folder.read_shard", read)
            monitor.load_state_dict({**state, "step": 4, "written": 4, "last_row": None})
            return read(shard, meta)

        monkeypatch.setattr("weightscale_fast.record.run_folder.read_shard", racing)
        assert wsf.RWCHistory.load(monitor.run_dir).steps.tolist() == [1, 2, 3, 4]

    @pytest.mark.parametrize("seconds", [-1, 60], ids=["a shard a flush", "joined"])
    def test_a_reader_of_a_fast_writer(self, run, seconds, monkeypatch):
        monkeypatch.setattr("weightscale_fast.record.run_folder.JOINED_SECONDS", seconds)
        monitor, step = run
        done, errors, loads = threading.Event(), [], []

        def read():
            while not done.is_set() or not loads:
                try:
                    steps = wsf.RWCHistory.load(monitor.run_dir).steps
                    np.testing.assert_array_equal(steps, np.arange(1, len(steps) + 1))
                    loads.append(load_curves(monitor.run_dir).curves.shape)
                except BaseException as error:
                    errors.append(error)
                    return

        reader = threading.Thread(target=read)
        reader.start()
        for i in range(60):
            step(monitor, i)
            monitor.flush()
        done.set()
        reader.join()
        assert not errors, errors
        assert loads


def test_a_signal_handler_that_closes_the_monitor_breaks_no_step():
    """It came between the question whether the monitor records and the call."""
    number, closed = 0, True
    while closed:
        number += 1
        model = nn.Linear(2, 2, bias=False)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        monitor, lines = wsf.RWCMonitor(model, optimizer), 0
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()

        def trace(frame, event, _, number=number, monitor=monitor):
            nonlocal lines
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            lines += event == "line"
            if event == "line" and lines == number:
                sys.settrace(None)
                monitor.close()
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            optimizer.step()
        finally:
            sys.settrace(before)
        closed = lines >= number
        monitor.close()
        assert len(monitor.history()) in (1, 2)
    assert number > 20
