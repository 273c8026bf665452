"""A monitor that is made twice, as in a notebook cell that runs again; and one that is copied or pickled."""

import copy
import gc
import io
import pickle
import weakref

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import weightscale_fast as wsf


def network():
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))


def make(**options):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, wsf.RWCMonitor(model, optimizer, **options)


def train(model, optimizer, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()


class TestMadeTwice:
    def test_a_warning_names_the_way_out(self):
        model, optimizer, _first = make()
        with pytest.warns(UserWarning, match=r"earlier monitor still records this model .*call close\(\) of the earl"):
            second = wsf.RWCMonitor(model, optimizer)
        train(model, optimizer)
        assert len(second.history()) == 3

    def test_the_same_through_wrappers(self):
        model, optimizer, _first = make()
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
        with pytest.warns(UserWarning, match="earlier monitor still records"):
            wsf.RWCMonitor(nn.DataParallel(model), schedule, run_dir=None)

    def test_another_folder_is_no_other_record(self, tmp_path):
        model, optimizer, _first = make(run_dir=tmp_path / "run")
        with pytest.warns(UserWarning, match="earlier monitor still records"):
            wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run", exist="next")

    @pytest.mark.parametrize("options", [{"layers": "^0"}, {"every": 2}, {"definition": "mean_ratio"}], ids=str)
    def test_monitors_that_differ(self, options):
        model, optimizer, first = make()
        second = wsf.RWCMonitor(model, optimizer, **options)
        train(model, optimizer, 4)
        assert (len(first.history()), len(second.history())) == (4, 2 if "every" in options else 4)

    @pytest.mark.parametrize("end", [wsf.RWCMonitor.close, wsf.RWCMonitor.abandon], ids=["close", "abandon"])
    def test_after_the_first_ended(self, end):
        model, optimizer, first = make()
        end(first)
        wsf.RWCMonitor(model, optimizer)

    def test_another_optimizer_or_another_model(self):
        model, _, _first = make()
        wsf.RWCMonitor(model, torch.optim.SGD(model.parameters(), lr=0.1))
        both = nn.ModuleList([network(), network()])
        optimizer = torch.optim.SGD(both.parameters(), lr=0.1)
        monitors = [wsf.RWCMonitor(part, optimizer) for part in both]
        wsf.RWCMonitor(both)  # without an optimizer it records nothing by itself
        assert len(monitors) == 2

    def test_a_monitor_whose_making_failed_does_not_count(self, tmp_path):
        model, optimizer, first = make()
        first.close()
        (tmp_path / "run").write_text("a file")
        with pytest.raises(wsf.WeightScaleError):
            wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run")
        wsf.RWCMonitor(model, optimizer)

    def test_nothing_is_kept_alive(self):
        model, optimizer, first = make()
        gone = [weakref.ref(thing) for thing in (model, optimizer, first)]
        del model, optimizer, first
        gc.collect()
        assert [thing() for thing in gone] == [None] * 3


class Holder(nn.Module):
    """A model that keeps its monitor."""

    def __init__(self):
        super().__init__()
        self.net = network()
        self.monitor = wsf.RWCMonitor(self)


@pytest.mark.parametrize(
    "take",
    [copy.copy, copy.deepcopy, pickle.dumps, lambda thing: torch.save(thing, io.BytesIO())],
    ids=["copy", "deepcopy", "pickle", "torch.save"],
)
class TestCopies:
    def test_of_a_monitor(self, take):
        model, optimizer, monitor = make()
        train(model, optimizer)
        with pytest.raises(TypeError, match=r"monitor cannot be copied or pickled.*state_dict\(\).*keep the monitor"):
            take(monitor)
        train(model, optimizer)
        assert len(monitor.history()) == 6  # it records on

    def test_of_a_model_that_keeps_it(self, take):
        if take is copy.copy:
            take = AveragedModel
        with pytest.raises(TypeError, match="keep the monitor outside"):
            take(Holder())

    def test_of_what_a_monitor_returns(self, take):
        model, optimizer, monitor = make()
        train(model, optimizer, 40)
        history = monitor.history()
        for thing in (history, monitor.summary(), wsf.check_health(history), monitor.state_dict(), wsf.snapshot(model)):
            take(thing)


def test_what_comes_back_is_equal():
    model, optimizer, monitor = make()
    train(model, optimizer, 40)
    history = pickle.loads(pickle.dumps(monitor.history()))
    assert (history.rwc == monitor.history().rwc).all()
    assert history.names == monitor.history().names
    curves = torch.rand(6, 30).numpy()
    clusters = wsf.cluster_layers(curves)
    again = pickle.loads(pickle.dumps(clusters))
    assert (again.labels == clusters.labels).all()
    assert (copy.deepcopy(clusters).labels == clusters.labels).all()
    finding = wsf.check_health(monitor.history().select(steps=slice(0, 40)))
    assert pickle.loads(pickle.dumps(finding)) == finding
