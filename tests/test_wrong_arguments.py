"""Wrong arguments of the monitor and the history: the message says what was wanted, what came, what to do."""

import numpy as np
import pytest
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.cli import main


@pytest.fixture
def monitor():
    return wsf.RWCMonitor(nn.Linear(2, 2))


@pytest.mark.parametrize("run_dir", [5, True, ["a"], ""])
def test_run_dir_must_be_a_path(run_dir):
    with pytest.raises(TypeError, match="run_dir must be the path of a folder, or None"):
        wsf.RWCMonitor(nn.Linear(2, 2), run_dir=run_dir)


def test_resume_and_every_are_not_guessed(tmp_path):
    with pytest.raises(TypeError, match="resume must be True or False, got 'no'"):
        wsf.RWCMonitor(nn.Linear(2, 2), run_dir=tmp_path, resume="no")
    with pytest.raises(ValueError, match="every must be a whole number of steps, 1 or more, got True"):
        wsf.RWCMonitor(nn.Linear(2, 2), every=True)


def test_recent_takes_a_step(monitor):
    monitor.record()
    assert len(monitor.recent(after=np.int64(0))) == 1
    with pytest.raises(TypeError, match="after must be a step, a whole number, got 'x'"):
        monitor.recent(after="x")


def test_select_says_what_it_takes(monitor):
    monitor.record()
    with pytest.raises(TypeError, match="steps must be a slice of rows, such as"):
        monitor.history().select(steps=3)
    with pytest.raises(TypeError, match="layers must be a regular expression or a predicate on the name, got"):
        monitor.history().select(layers=["weight"])


def test_a_summary_without_rows_tells_of_a_forgotten_record(monitor):
    with pytest.raises(ValueError, match="there is no row to sum up yet"):
        monitor.summary()
    nn.init.ones_(monitor.model.weight)
    with pytest.warns(UserWarning, match="was never called"), pytest.raises(ValueError, match="no row"):
        monitor.summary()


def test_a_short_record_is_not_judged(tmp_path, capsys):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with wsf.RWCMonitor(model, run_dir=tmp_path / "run") as monitor:
        for i in range(64):
            if i == 63:
                assert str(monitor.summary()).endswith("nothing found so far: there are too few rows to judge")
            monitor.record()
        assert "still: not one weight moved" in str(monitor.summary())


def test_steps_without_a_record(tmp_path, capsys):
    with wsf.RWCMonitor(nn.Linear(2, 2), run_dir=tmp_path / "run") as monitor:
        for _ in range(3):
            monitor.record()
    assert main(["analyze", str(tmp_path / "run"), "--steps", "500:600"]) == 2
    assert "--steps 500:600 has no recorded step: the record has steps 1 to 3" in capsys.readouterr().err


def test_a_folder_that_does_not_exist(tmp_path, monitor):
    with pytest.raises(wsf.WeightScaleError, match="nowhere does not exist"):
        wsf.RWCHistory.load(tmp_path / "nowhere")
    monitor.record()
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        monitor.history().to_csv(tmp_path / "nowhere" / "x.csv")
