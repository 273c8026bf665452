"""The learning rate and the weight decay of each layer, in each row."""

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.record.rates import Rates, join
from weightscale_fast.record.ring import SHARD_ROWS


def network(layers=3):
    return nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(layers)))


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()


def groups_of(model):
    return [
        {"params": [model[0].weight], "lr": 0.1, "weight_decay": 0.01},
        {"params": [model[1].weight], "lr": 0.2},
    ]  # the last layer is in no group


def test_each_layer_has_the_rates_of_its_group():
    model = network()
    optimizer = torch.optim.SGD(groups_of(model), lr=1.0)
    monitor = wsf.RWCMonitor(model, optimizer)
    for _ in range(3):
        step(model, optimizer)
    history = monitor.history()
    np.testing.assert_array_equal(history.lr, [[0.1, 0.2, np.nan]] * 3)
    np.testing.assert_array_equal(history.weight_decay, [[0.01, 0.0, np.nan]] * 3)
    change = history.delta_l1 / history.numel
    np.testing.assert_allclose(history.step_per_lr[:, :2], change[:, :2] / [0.1, 0.2])
    assert np.isnan(history.step_per_lr[:, 2]).all()


@pytest.mark.parametrize("folder", [False, True])
def test_a_schedule_is_followed_row_by_row(folder, tmp_path):
    """Also over several shards: the rate of a row is the one that its step used."""
    model = network(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    monitor = wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run" if folder else None)
    used = []
    for _ in range(SHARD_ROWS + 44):
        used.append(optimizer.param_groups[0]["lr"])
        step(model, optimizer)
        scheduler.step()
    history = monitor.history()
    np.testing.assert_array_equal(history.lr, np.stack([used, used], axis=1))
    assert monitor.recent(after=SHARD_ROWS + 40).lr[:, 0].tolist() == used[-4:]
    if folder:
        monitor.close()
        np.testing.assert_array_equal(wsf.RWCHistory.load(tmp_path / "run").lr, history.lr)
    selected = history.select(layers="^1", steps=slice(5, 8))
    assert selected.lr.tolist() == [[rate] for rate in used[5:8]]


@pytest.mark.parametrize("every", [1, 3])
def test_a_group_that_is_added_and_a_parameter_that_is_replaced(every):
    model = network()
    optimizer = torch.optim.SGD(groups_of(model), lr=1.0)
    monitor = wsf.RWCMonitor(model, optimizer, every=every)
    for i in range(12):
        if i == 3:
            optimizer.add_param_group({"params": [model[2].weight], "lr": 0.4})
        if i == 6:
            weight = nn.Parameter(model[0].weight.detach().clone())
            model[0].weight = optimizer.param_groups[0]["params"][0] = weight
        if i == 9:
            optimizer.param_groups[1]["lr"] = torch.tensor(0.5)
        step(model, optimizer)
    lr = monitor.history().lr
    expected = np.array([[0.1, 0.2, np.nan]] * 3 + [[0.1, 0.2, 0.4]] * 6 + [[0.1, 0.5, 0.4]] * 3)
    np.testing.assert_array_equal(lr, expected[every - 1 :: every])


def test_a_tensor_that_is_written_in_place():
    model = network(1)
    rate = torch.tensor(0.25)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    monitor = wsf.RWCMonitor(model, optimizer)
    for _ in range(3):
        step(model, optimizer)
        rate.mul_(0.5)
    assert monitor.history().lr.tolist() == [[0.25], [0.125], [0.0625]]


def test_rates_that_are_no_numbers_are_not_known():
    model = network(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["lr"] = None
    monitor = wsf.RWCMonitor(model)
    monitor.record()
    assert np.isnan(monitor.history().lr).all()
    watching = wsf.RWCMonitor(model, optimizer)
    watching._record.store.rates.read(0)
    assert np.isnan(watching._record.store.rates.rates(0, 1).lr).all()


def test_a_resumed_record_has_the_rates_of_both_parts():
    model = network(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = wsf.RWCMonitor(model, optimizer)
    for _ in range(3):
        step(model, optimizer)
    state = monitor.state_dict()
    monitor.close()
    optimizer.param_groups[0]["lr"] = 0.2
    monitor = wsf.RWCMonitor(model, optimizer)
    monitor.load_state_dict(state)
    step(model, optimizer)
    assert monitor.history().lr.tolist() == [[0.1, 0.1]] * 3 + [[0.2, 0.2]]


def test_master_weights_have_the_rates_of_the_model():
    model = network(2).bfloat16()
    optimizer = torch.optim.SGD([{"params": [model[1].weight], "lr": 0.1}, {"params": [model[0].weight]}], lr=0.3)
    masters = {p: p.detach().float() for p in model.parameters()}
    monitor = wsf.RWCMonitor(wsf.master_weights(model, masters.get), optimizer)
    step_once = model(torch.ones(2, 4, dtype=torch.bfloat16)).square().sum()
    step_once.backward()
    optimizer.step()
    assert monitor.history().lr.tolist() == [[0.3, 0.1]]


class TestJoined:
    def dense(self, rates):
        return rates.of_layers(rates.lr), rates.of_layers(rates.weight_decay)

    def some(self, n, columns, rate_of, start=0.0):
        values = start + np.arange(n * columns, dtype=float).reshape(n, columns)
        return Rates(values, -values, np.array(rate_of, np.int32))

    @pytest.mark.parametrize("other", [[0, 0, 1, 1], [0, 1, 2, 0], [1, 1, 1, 0]])
    def test_layers_in_other_groups(self, other):
        parts = [self.some(2, 3, [0, 1, 2, 2]), self.some(3, max(other) + 1, other, 50), Rates.unknown(1, 4)]
        joined = join(parts)
        for got, wanted in zip(self.dense(joined), zip(*map(self.dense, parts), strict=True), strict=True):
            np.testing.assert_array_equal(got, np.concatenate(wanted))

    def test_files_are_the_same_however_the_rates_were_put_together(self):
        whole = self.some(4, 2, [1, 0, 0])
        unused = Rates(
            np.insert(whole.lr, 1, 7.0, axis=1), np.insert(whole.weight_decay, 1, 7.0, axis=1), whole.rate_of * 2
        )
        for other in (join([whole[:1], whole[1:]]), unused):
            for name, array in whole.arrays().items():
                np.testing.assert_array_equal(other.arrays()[name], array)

    def test_a_file_gives_the_rates_back(self):
        rates = join([self.some(2, 2, [1, 0, 0]), Rates.unknown(1, 3)])
        back = Rates.from_arrays(rates.arrays(), 3, 3)
        np.testing.assert_array_equal(self.dense(back), self.dense(rates))

    @pytest.mark.parametrize(
        "change",
        [
            {"lr": np.zeros((4, 1))},
            {"rate_of": np.array([0, 0, 5], np.int32)},
            {"rate_of": np.array([0, 0, -1], np.int32)},
            {"weight_decay": np.zeros((3, 1), np.float32)},
            {"lr": np.zeros(())},
        ],
    )
    def test_arrays_that_do_not_fit_are_refused(self, change):
        arrays = {**Rates.unknown(3, 3).arrays(), **change}
        with pytest.raises(ValueError, match=r"^expected lr, weight_decay, rate_of of 3 steps for 3 layers, got"):
            Rates.from_arrays(arrays, 3, 3)
