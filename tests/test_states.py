"""States that are damaged, hostile or of something else: ValueError with one sentence, and nothing is loaded."""

import errno
import os

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.record.run_folder import RunFolder


def recorded(run_dir=None, every=1, count=4, **options):
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    monitor = wsf.RWCMonitor(model, run_dir=run_dir, every=every, **options)
    for _ in range(count):
        with torch.no_grad():
            model[0].weight.add_(0.1)
        monitor.record()
    return monitor


def assert_refused(monitor, state, match):
    """The monitor refuses the state, and stays as it was."""
    before = monitor.state_dict()
    with pytest.raises(ValueError, match=match) as caught:
        monitor.load_state_dict(state)
    assert "\n" not in str(caught.value)
    after = monitor.state_dict()
    assert (after["step"], after["rows"]) == (before["step"], before["rows"])
    assert all(torch.equal(after["weights"][name], weights) for name, weights in before["weights"].items())


STEPS = [-1, -200, 1.5, 4.0, float("nan"), 2**63, 2**80, "4", None, True, [4], np.float64(4), np.int64(-4)]


@pytest.mark.parametrize("step", STEPS, ids=repr)
@pytest.mark.parametrize("part", ["step", "written"])
@pytest.mark.parametrize("to_folder", [False, True], ids=["memory", "folder"])
def test_a_step_that_is_none(tmp_path, part, step, to_folder):
    """A negative step made the pass write before its buffer."""
    with recorded(tmp_path / "run" if to_folder else None) as monitor:
        state = monitor.state_dict()
        assert_refused(monitor, {**state, part: step}, f"its {part} is no whole number of steps, 0 or more")


def test_numpy_steps_are_steps():
    monitor = recorded()
    monitor.load_state_dict({**monitor.state_dict(), "step": np.int64(4)})
    assert monitor.step == 4


@pytest.mark.parametrize("state", [{}, {"model": 1}, None, [], "state"])
def test_no_state(state):
    assert_refused(
        recorded(), state, r"the state must be what a monitor's state_dict\(\) returned, (got|but it has no)"
    )


@pytest.mark.parametrize("part", ["step", "every", "definition", "names", "weights", "written", "rows"])
def test_a_missing_part(part):
    monitor = recorded()
    state = monitor.state_dict()
    del state[part]
    assert_refused(monitor, state, f"but it has no '{part}'")


WRONG = {
    "names": [None, "ab", [1, 2], {"a": 1}],
    "weights": [[], 5, {"0.weight": 1, "1.weight": 2}],
    "rows": ["x", 5, torch.zeros(3)],
}


@pytest.mark.parametrize(("part", "value"), [(part, value) for part, values in WRONG.items() for value in values])
def test_a_part_of_another_type(part, value):
    monitor = recorded()
    assert_refused(monitor, {**monitor.state_dict(), part: value}, f"its {part} have another type")


@pytest.mark.parametrize("weights", [{}, {"0.weight": torch.zeros(2, 3)}])
def test_weights_of_another_model(weights):
    monitor = recorded()
    assert_refused(monitor, {**monitor.state_dict(), "weights": weights}, "other layers than the snapshot")


def test_rows_that_do_not_fit():
    monitor = recorded()
    state = monitor.state_dict()
    for rows in (b"", b"x" * 100, state["rows"][:-8]):
        assert_refused(
            monitor, {**state, "rows": rows}, "does not fit this monitor, or is damaged: its rows are damaged"
        )
    assert_refused(monitor, {**state, "step": 0}, "its rows end at step 4, and it is of step 0")
    assert_refused(monitor, {**state, "step": 3}, "its rows end at step 4, and it is of step 3")
    by_ratio = recorded(definition="mean_ratio").state_dict()
    assert_refused(monitor, {**state, "rows": by_ratio["rows"]}, "or is damaged: expected .* for 2 layers")
    other = wsf.RWCMonitor(nn.Linear(2, 2))
    other.record()
    assert_refused(monitor, {**state, "rows": other.state_dict()["rows"]}, "or is damaged: expected .* for 2 layers")
    by_two = recorded(every=2)
    assert_refused(by_two, {**by_two.state_dict(), "rows": recorded(count=3).state_dict()["rows"]}, "with every=2")


def test_a_state_between_two_rows_fits():
    monitor = recorded(every=3, count=7)
    again = wsf.RWCMonitor(monitor.model, every=3)
    again.load_state_dict(monitor.state_dict())
    assert (again.step, again.history().steps.tolist()) == (7, [3, 6])


def test_a_folder_that_cannot_go_back_changes_nothing(tmp_path):
    monitor = recorded(tmp_path / "run")
    state = monitor.state_dict()
    (tmp_path / "run" / "meta.json").unlink()
    with pytest.raises(wsf.WeightScaleError, match="cannot go back to step 4: run folder .* was deleted"):
        monitor.load_state_dict(state)
    assert monitor.step == 4
    with pytest.warns(UserWarning, match="was deleted"):
        monitor.history()
    monitor.close()


def fail(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("weights", ["of the state", "of the model"])
def test_a_full_disk_at_the_way_back_changes_nothing(tmp_path, weights, monkeypatch):
    """The later shards were deleted and the weights loaded before the shortened shard was written."""
    monkeypatch.setattr("weightscale_fast.record.run_folder.JOINED_SECONDS", -1)  # each flush begins a shard
    monitor = recorded(tmp_path / "run", count=2)
    state = monitor.state_dict()
    for _ in range(2):
        for _ in range(3):
            with torch.no_grad():
                monitor.model[0].weight.add_(0.1)
            monitor.record()
        monitor.flush()
    before = monitor.state_dict()
    with torch.no_grad():
        monitor.model[0].weight.add_(0.1)
    back = {**state, "step": 1, "weights": state["weights"] if weights == "of the state" else None}
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_write", fail)
        with pytest.raises(wsf.WeightScaleError, match="cannot go back to step 1: .*No space left"):
            monitor.load_state_dict(back)
    with pytest.warns(UserWarning, match="the weights moved since step 8 was recorded"):
        after = monitor.state_dict()
    assert after["step"] == before["step"] == 8
    assert all(torch.equal(after["weights"][name], weights) for name, weights in before["weights"].items())
    monitor.record()
    history = monitor.history()
    assert history.steps.tolist() == list(range(1, 10))
    np.testing.assert_allclose(history.delta_l1[:, 0], 0.6, rtol=1e-5)
    monitor.close()


def test_a_kill_on_the_way_back_leaves_no_hole(tmp_path, monkeypatch):
    monkeypatch.setattr("weightscale_fast.record.run_folder.JOINED_SECONDS", -1)
    monitor = recorded(tmp_path / "run", count=2)
    state = {**monitor.state_dict(), "step": 1, "written": 1, "last_row": None}
    for _ in range(3):
        monitor.record()
        monitor.flush()
    unlink, left = os.unlink, []

    def killed(path, **options):
        unlink(path, **options)
        if str(path).endswith(".safetensors"):
            left.append(wsf.RWCHistory.load(tmp_path / "run").steps.tolist())

    monkeypatch.setattr(os, "unlink", killed)
    monitor.load_state_dict(state)
    assert left == [[1, 2, 3, 4], [1, 2, 3], [1, 2], [1]]
    monitor.close()


def test_a_full_disk_on_the_way_back_loses_no_row(tmp_path, monkeypatch):
    """The short copy of a shard could not be written: then the shard is still there."""
    monitor = recorded(tmp_path / "run")
    state = {**monitor.state_dict(), "step": 2, "written": 2, "last_row": None}

    def no_space(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(RunFolder, "_write", no_space)
        with pytest.raises(wsf.WeightScaleError, match="cannot go back to step 2: .*No space left"):
            monitor.load_state_dict(state)
    assert wsf.RWCHistory.load(tmp_path / "run").steps.tolist() == [1, 2, 3, 4]
    monitor.load_state_dict(state)
    assert wsf.RWCHistory.load(tmp_path / "run").steps.tolist() == [1, 2]
    monitor.close()


def test_weights_that_do_not_fit_delete_no_row(tmp_path):
    monitor = recorded(tmp_path / "run")
    state = {**monitor.state_dict(), "step": 1}
    assert_refused(monitor, {**state, "weights": {"0.weight": torch.zeros(2, 3)}}, "other layers than the snapshot")
    assert len(monitor.history()) == 4
    monitor.close()
