"""RWCMonitor in training loops: what it records, when, and how it resumes."""

import gc
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.record.ring import SHARD_ROWS


def training(seed=0, **optimizer_arguments):
    """A small network, its optimizer, and one step of training."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, **optimizer_arguments)
    data = torch.randn(64, 4, generator=torch.Generator().manual_seed(7))

    def step():
        optimizer.zero_grad()
        model(data).square().mean().backward()
        optimizer.step()

    return model, optimizer, step


def test_records_after_each_step_of_the_optimizer():
    model, optimizer, step = training()
    prev = wsf.snapshot(model)
    monitor = wsf.RWCMonitor(model, optimizer)
    expected = []
    for _ in range(5):
        step()
        expected.append(torch.stack(wsf.layer_sums(model, prev)[:3]))
    history = monitor.history()
    assert history.steps.tolist() == [1, 2, 3, 4, 5]
    assert history.names == ("0.weight", "2.weight")
    assert history.kinds == ("linear", "linear")
    recorded = np.stack([history.delta_l1, history.prev_l1, history.moved], axis=1)
    assert np.array_equal(recorded, torch.stack(expected).numpy())
    assert history.moved_fraction.max() == 1


def test_record_by_hand_equals_the_hook():
    histories = []
    for by_hand in (False, True):
        model, optimizer, step = training()
        monitor = wsf.RWCMonitor(model, None if by_hand else optimizer)
        for _ in range(3):
            step()
            if by_hand:
                monitor.record()
        histories.append(monitor.history())
    assert np.array_equal(histories[0].rwc, histories[1].rwc)


def test_accumulated_gradients_make_one_row():
    model, optimizer, _ = training()
    monitor = wsf.RWCMonitor(model, optimizer)
    for micro_batch in range(6):
        model(torch.randn(8, 4)).square().mean().backward()
        if micro_batch % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
    assert monitor.history().steps.tolist() == [1, 2]


def test_every_is_the_horizon():
    model, optimizer, step = training()
    horizon = wsf.snapshot(model)
    monitor = wsf.RWCMonitor(model, optimizer, every=4)
    for _ in range(4):
        step()
    expected = wsf.fast_rwc(model, horizon)
    for _ in range(3):
        step()
    history = monitor.history()
    assert history.steps.tolist() == [4]
    np.testing.assert_allclose(history.rwc[0], expected, rtol=1e-6)


def test_mean_ratio_records_its_sum():
    model, optimizer, step = training()
    prev = wsf.snapshot(model)
    monitor = wsf.RWCMonitor(model, optimizer, definition="mean_ratio")
    step()
    np.testing.assert_allclose(monitor.history().rwc[0], wsf.fast_rwc(model, prev, definition="mean_ratio"), rtol=1e-6)


def test_more_rows_than_the_ring_holds(tmp_path):
    """The history is the same in memory and in a folder."""
    model, optimizer, step = training()
    in_memory = wsf.RWCMonitor(model, optimizer)
    in_folder = wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run")
    for _ in range(2 * SHARD_ROWS + 10):
        step()
    in_folder.close()
    loaded = wsf.RWCHistory.load(tmp_path / "run")
    assert loaded.steps.tolist() == list(range(1, 2 * SHARD_ROWS + 11))
    assert np.array_equal(loaded.rwc, in_memory.history().rwc)
    assert len(list((tmp_path / "run" / "rwc").iterdir())) == 3


def test_close_stops_recording_and_keeps_the_history():
    model, optimizer, step = training()
    with wsf.RWCMonitor(model, optimizer) as monitor:
        step()
    step()
    monitor.close()
    assert monitor.history().steps.tolist() == [1]
    by_hand = wsf.RWCMonitor(model)
    by_hand.close()
    with pytest.raises(wsf.WeightScaleError, match="monitor is closed"):
        by_hand.record()


def test_rows_reach_the_folder_without_close(tmp_path):
    model, _, step = training()
    monitor = wsf.RWCMonitor(model, run_dir=tmp_path / "run")
    step()
    monitor.record()
    del monitor
    gc.collect()
    assert len(wsf.RWCHistory.load(tmp_path / "run")) == 1


def test_settings_stay_with_the_record(tmp_path):
    model, _, _ = training()
    wsf.RWCMonitor(model, run_dir=tmp_path / "run", settings={"lr": 0.1}).close()
    assert wsf.RWCHistory.load(tmp_path / "run").settings == {"lr": 0.1}


@pytest.mark.parametrize("to_folder", [False, True], ids=["memory", "folder"])
def test_resume_equals_the_uninterrupted_run(tmp_path, to_folder):
    """Save at step 300, continue to 320, resume from 300: no hole, no double row, no false first value."""

    def run_dir(name):
        return tmp_path / name if to_folder else None

    model, optimizer, step = training()
    unbroken = wsf.RWCMonitor(model, optimizer, run_dir=run_dir("unbroken"))
    for _ in range(330):
        step()

    model, optimizer, step = training()
    monitor = wsf.RWCMonitor(model, optimizer, run_dir=run_dir("broken"))
    for _ in range(300):
        step()
    torch.save([model.state_dict(), optimizer.state_dict(), monitor.state_dict()], tmp_path / "checkpoint")
    for _ in range(20):
        step()
    monitor.close()

    model, optimizer, step = training(seed=1)
    model_state, optimizer_state, monitor_state = torch.load(tmp_path / "checkpoint")
    monitor = wsf.RWCMonitor(model, optimizer, run_dir=run_dir("broken"), resume=to_folder)
    model.load_state_dict(model_state)
    optimizer.load_state_dict(optimizer_state)
    monitor.load_state_dict(monitor_state)
    for _ in range(30):
        step()
    resumed, expected = monitor.history(), unbroken.history()
    assert resumed.steps.tolist() == expected.steps.tolist()
    assert np.array_equal(resumed.rwc, expected.rwc)


def test_a_failed_record_does_not_count_as_a_step():
    model, optimizer, step = training()
    monitor = wsf.RWCMonitor(model, optimizer)
    step()
    model.double()
    with pytest.raises(ValueError, match="expected dtype"):
        monitor._after_step()
    model.float()
    step()
    assert monitor.step == 2
    assert monitor.history().steps.tolist() == [1, 2]


def test_slow_steps_reach_the_folder_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr("weightscale_fast.record.row_sum.SHARD_SECONDS", 0.0)
    model, _, step = training()
    monitor = wsf.RWCMonitor(model, run_dir=tmp_path / "run")
    for count in (1, 2, 3):
        step()
        monitor.record()
        assert len(wsf.RWCHistory.load(tmp_path / "run")) == count


def test_a_relative_folder_does_not_follow_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    model, _, step = training()
    with wsf.RWCMonitor(model, run_dir="run") as monitor:
        monkeypatch.chdir(tmp_path / "elsewhere")
        step()
        monitor.record()
    assert len(wsf.RWCHistory.load(tmp_path / "run")) == 1


def test_a_record_in_memory_continues_in_a_folder(tmp_path):
    model, _, step = training()
    monitor = wsf.RWCMonitor(model)
    step()
    monitor.record()
    in_folder = wsf.RWCMonitor(model, run_dir=tmp_path / "run")
    in_folder.load_state_dict(monitor.state_dict())
    step()
    in_folder.record()
    in_folder.close()
    assert wsf.RWCHistory.load(tmp_path / "run").steps.tolist() == [1, 2]


def test_resume_without_a_checkpoint_continues_after_the_last_row(tmp_path):
    model, _, step = training()
    monitor = wsf.RWCMonitor(model, run_dir=tmp_path / "run")
    step()
    monitor.record()
    monitor.close()
    monitor = wsf.RWCMonitor(model, run_dir=tmp_path / "run", resume=True)
    step()
    monitor.record()
    assert monitor.history().steps.tolist() == [1, 2]


def test_resume_into_a_folder_that_lacks_rows_gives_a_warning(tmp_path):
    model, _, step = training()
    monitor, other = (wsf.RWCMonitor(model, run_dir=tmp_path / name) for name in ("run", "other"))
    for _ in range(5):
        step()
        monitor.record()
    state = monitor.state_dict()
    with pytest.warns(UserWarning, match=r"other ends at step 0, but when the checkpoint was saved it had step 5"):
        other.load_state_dict(state)
    monitor.load_state_dict(state)


def test_resume_into_a_folder_that_lacks_the_last_row_gives_a_warning(tmp_path):
    model, _, step = training()
    for count in (4, 1):
        with wsf.RWCMonitor(model, run_dir=tmp_path / "run", resume=True) as monitor:
            for _ in range(count):
                step()
                monitor.record()
            state = monitor.state_dict()
    (tmp_path / "run/rwc/part-000000005-000000005.safetensors").unlink()
    resumed = wsf.RWCMonitor(model, run_dir=tmp_path / "run", resume=True)
    with pytest.warns(UserWarning, match=r"ends at step 4, but when the checkpoint was saved it had step 5"):
        resumed.load_state_dict(state)
    resumed.close()


@pytest.mark.parametrize("to_folder", [False, True], ids=["memory", "folder"])
def test_going_back_to_step_0_forgets_every_row(tmp_path, to_folder):
    model, _, step = training()
    monitor = wsf.RWCMonitor(model, run_dir=tmp_path / "run" if to_folder else None)
    state = monitor.state_dict()
    for flushed in (False, True):
        step()
        monitor.record()
        if flushed:
            monitor.flush()
        monitor.load_state_dict(state)
        assert len(monitor.history()) == monitor.step == 0
    monitor.record()
    history = monitor.history()
    assert history.steps.tolist() == [1]
    assert history.flags.tolist() == [0]  # it follows no other row
    monitor.close()


def test_a_monitor_that_is_made_in_inference_mode_records():
    model, optimizer, step = training()
    with torch.inference_mode():
        monitor = wsf.RWCMonitor(model, optimizer)
    step()
    with torch.inference_mode():
        assert len(monitor.history()) == 1
    step()
    history = monitor.history()
    assert history.steps.tolist() == [1, 2]
    assert (history.delta_l1 > 0).all()


def test_weights_that_are_nan_and_stay_so_have_not_moved():
    model, optimizer, _ = training()
    with torch.no_grad():
        model[0].weight[0, 0] = np.nan
    monitor = wsf.RWCMonitor(model, optimizer)
    assert len(monitor.history()) == 0  # without a warning that the optimizer made no step


def test_an_optimizer_that_trains_other_weights_is_told_once():
    model, optimizer, step = training()
    with wsf.RWCMonitor(model, optimizer) as monitor, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            for layer in (model[0], model[2]):
                layer.weight = nn.Parameter(layer.weight.detach().clone())
                layer.bias = nn.Parameter(layer.bias.detach().clone())
            step()
        assert len(monitor.history()) == 3
    assert len(caught) == 1, [str(warning.message) for warning in caught]
    assert "no parameter of the Adam that this monitor watches is in the model any more" in str(caught[0].message)


class TestWrongArguments:
    def test_model(self):
        pytest.importorskip("torch.distributed.fsdp")  # if it is imported, the monitor looks for FSDP2 modules first
        with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got str"):
            wsf.RWCMonitor("model")

    @pytest.mark.parametrize("every", [0, -1, 1.5, "2"])
    def test_every(self, every):
        with pytest.raises(ValueError, match="every must be a whole number of steps, 1 or more"):
            wsf.RWCMonitor(training()[0], every=every)

    def test_optimizer(self):
        with pytest.raises(TypeError, match=r"optimizer must be a torch.optim.Optimizer or None, got Sequential"):
            wsf.RWCMonitor(training()[0], training()[0])

    def test_definition(self):
        with pytest.raises(ValueError, match="definition must be one of"):
            wsf.RWCMonitor(training()[0], definition="l2")

    def test_record_in_addition_to_an_optimizer(self):
        model, optimizer, _ = training()
        with pytest.raises(wsf.WeightScaleError, match="remove this call or the optimizer argument"):
            wsf.RWCMonitor(model, optimizer).record()

    def test_resume_needs_a_folder(self):
        with pytest.raises(ValueError, match="resume=True needs run_dir"):
            wsf.RWCMonitor(training()[0], resume=True)

    def test_run_folder_exists(self, tmp_path):
        model = training()[0]
        with wsf.RWCMonitor(model, run_dir=tmp_path / "run") as monitor:
            monitor.record()
        with pytest.raises(wsf.WeightScaleError, match=r"run folder .*run exists and holds the rows of a run: choose"):
            wsf.RWCMonitor(model, run_dir=tmp_path / "run")

    @pytest.mark.parametrize(
        ("sizes", "options", "difference"),
        [
            ([3, 3, 3, 3], {}, "it lacks '2.weight'"),
            ([3, 3], {}, "it has '1.weight', which this monitor does not record"),
            ([3, 4, 3], {}, "its layer '0.weight' has 9 weights, and this monitor's has 12"),
            ([3, 3, 3], {"layers": "0"}, "it has '1.weight', which this monitor does not record"),
            ([3, 3, 3], {"layers": "all"}, "it lacks '0.bias', '1.bias'"),
            ([3, 3, 3], {"every": 2}, "it has every=1, and this monitor has 2"),
            ([3, 3, 3], {"definition": "mean_ratio"}, "it has definition='norm_ratio', and this monitor has"),
        ],
    )
    def test_run_folder_of_another_run(self, tmp_path, sizes, options, difference):
        def network(sizes):
            return nn.Sequential(*map(nn.Linear, sizes, sizes[1:]))

        with wsf.RWCMonitor(network([3, 3, 3]), run_dir=tmp_path / "run") as monitor:
            monitor.record()
        with pytest.raises(wsf.WeightScaleError) as error:
            wsf.RWCMonitor(network(sizes), run_dir=tmp_path / "run", resume=True, **options)
        assert f"belongs to another run: {difference}" in str(error.value)
        assert str(error.value).endswith("; choose another name")

    def test_state_that_does_not_fit(self, tmp_path):
        model, _, step = training()
        state = wsf.RWCMonitor(model).state_dict()
        with pytest.raises(ValueError, match="the state is of a monitor with every=1, this monitor has 2"):
            wsf.RWCMonitor(model, every=2).load_state_dict(state)
        with pytest.raises(ValueError, match="definition='norm_ratio', this monitor has 'mean_ratio'"):
            wsf.RWCMonitor(model, definition="mean_ratio").load_state_dict(state)
        with wsf.RWCMonitor(model, run_dir=tmp_path / "run") as monitor:
            step()
            monitor.record()
            with pytest.raises(ValueError, match="the state's rows are in its run folder"):
                wsf.RWCMonitor(model).load_state_dict(monitor.state_dict())

    def test_on_finding(self):
        with pytest.raises(TypeError, match="on_finding must be callable with a finding, such as print; got bool"):
            wsf.RWCMonitor(nn.Linear(2, 2), on_finding=True)

    def test_state_of_another_model(self):
        state = wsf.RWCMonitor(nn.Linear(2, 2)).state_dict()
        with pytest.raises(ValueError, match="other layers: its layer 0 is 'weight', here it is '0.weight'"):
            wsf.RWCMonitor(training()[0]).load_state_dict(state)


def state_with_rows(model):
    monitor = wsf.RWCMonitor(model)
    for _ in range(3):
        monitor.record()
    return monitor.state_dict()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", -200),
        ("step", 1.5),
        ("step", float("nan")),
        ("step", 2**63),
        ("step", "x"),
        ("step", True),
        ("step", 0),
        ("written", -1),
        ("rows", b"damaged"),
        ("rows", "text"),
        ("weights", 5),
        ("names", None),
    ],
)
def test_a_state_that_was_changed_is_refused_and_nothing_is_loaded(key, value):
    model = nn.Sequential(nn.Linear(3, 2))
    state = state_with_rows(model)
    monitor = wsf.RWCMonitor(model)
    monitor.record()
    with pytest.raises(ValueError, match="^the state "):
        monitor.load_state_dict({**state, key: value})
    assert monitor.history().steps.tolist() == [1]


def test_rows_of_other_layers_and_a_state_without_parts_are_refused():
    model = nn.Sequential(nn.Linear(3, 2))
    other = state_with_rows(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)))
    monitor = wsf.RWCMonitor(model)
    with pytest.raises(ValueError, match="^the state does not fit this monitor, or is damaged"):
        monitor.load_state_dict({**state_with_rows(model), "rows": other["rows"]})
    with pytest.raises(ValueError, match="but it has no 'step' and no 'every'"):
        monitor.load_state_dict({})
    with pytest.raises(ValueError, match=r"must be what a monitor's state_dict\(\) returned, got list"):
        monitor.load_state_dict([])


def test_a_monitor_prints_on_one_line():
    monitor = wsf.RWCMonitor(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    monitor.record()
    assert repr(monitor) == "RWCMonitor(Sequential, 2 layers, recording, step 1)"
    monitor.close()
    assert repr(monitor) == "RWCMonitor(Sequential, 2 layers, closed, step 1)"
