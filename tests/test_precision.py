"""RWCMonitor and numbers: 16-bit weights, master weights, autocast, 8-bit optimizers, NaN."""

import copy
import operator
import sys

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf

DATA = torch.randn(32, 4, generator=torch.Generator().manual_seed(7))


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2)).to(dtype)


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(DATA.to(model[0].weight.dtype)).square().mean().backward()
        optimizer.step()


def test_bfloat16_updates_that_round_away_have_not_moved():
    """A step of 2e-5 is below half a unit in the last place of weights above 0.01, so that only small ones move."""
    fractions = {}
    for dtype in (torch.bfloat16, torch.float32):
        model = network(dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        monitor = wsf.RWCMonitor(model, optimizer)
        before = model[0].weight.detach().clone()
        train(model, optimizer, 1)
        history = monitor.history()
        assert history.moved[0, 0] == (model[0].weight != before).sum()
        fractions[dtype] = history.moved_fraction[0, 0]
    assert fractions[torch.bfloat16] < 0.2
    assert fractions[torch.float32] > 0.8


class MasterSGD(torch.optim.Optimizer):
    """SGD on 16-bit parameters that keeps float32 ones in its state from the first step on, as mixed precision does."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                master = self.state[p].setdefault("master_param", p.detach().float())
                master.sub_(p.grad.float(), alpha=group["lr"])
                p.copy_(master)


class TestMasterWeights:
    def training(self):
        model = network(torch.bfloat16)
        return model, MasterSGD(model.parameters(), lr=1e-3)

    def test_they_show_what_16_bits_round_away(self):
        model, optimizer = self.training()
        train(model, optimizer, 1)
        masters = wsf.master_weights(model, lambda p: optimizer.state[p]["master_param"])
        monitor, rounded = wsf.RWCMonitor(masters, optimizer), wsf.RWCMonitor(model, optimizer)
        before = optimizer.state[model[0].weight]["master_param"].clone()
        train(model, optimizer, 1)
        history = monitor.history()
        assert history.names == ("0.weight", "2.weight")
        after = optimizer.state[model[0].weight]["master_param"]
        np.testing.assert_allclose(history.delta_l1[0, 0], (after - before).double().abs().sum(), rtol=1e-6)
        assert history.moved_fraction[0, 0] > 0.8
        assert rounded.history().moved_fraction[0, 0] < 0.2

    def test_a_state_that_is_loaded_replaces_them(self):
        model, optimizer = self.training()
        train(model, optimizer, 1)
        monitor = wsf.RWCMonitor(wsf.master_weights(model, lambda p: optimizer.state[p]["master_param"]), optimizer)
        state = copy.deepcopy(optimizer.state_dict())
        state["state"] = {k: {"master_param": v["master_param"] * 2} for k, v in state["state"].items()}
        optimizer.load_state_dict(state)
        for p in model.parameters():  # torch casts what it loads to the parameter's dtype
            optimizer.state[p]["master_param"] = optimizer.state[p]["master_param"].float()
        with pytest.warns(UserWarning, match="moved after this monitor was made and before the next step"):
            train(model, optimizer, 2)
        assert monitor.history().rwc[0] == pytest.approx(1, rel=0.02)  # twice the weights
        assert (monitor.history().rwc[1] > 0).all()

    def test_masters_that_the_optimizer_holds_as_parameters(self):
        model = network(torch.bfloat16)
        masters = {p: nn.Parameter(p.detach().float()) for p in model.parameters()}
        optimizer = torch.optim.SGD(masters.values(), lr=1e-3)
        monitor = wsf.RWCMonitor(wsf.master_weights(model, masters.get), optimizer)
        model(DATA.bfloat16()).square().mean().backward()
        for p, master in masters.items():
            master.grad = p.grad.float()
        optimizer.step()
        assert monitor.history().moved_fraction[0, 0] > 0.8
        with pytest.raises(ValueError, match=r"none of the parameters of this SGD is in this Sequential"):
            wsf.RWCMonitor(model, optimizer)

    def test_they_are_trained_where_the_model_is(self):
        model, optimizer = self.training()
        train(model, optimizer, 1)
        masters = wsf.master_weights(model, lambda p: optimizer.state[p]["master_param"])
        for trained in (False, True):
            model[2].requires_grad_(trained)
            masters.refresh()
            assert [p.requires_grad for p in masters.parameters()] == [True, trained]

    def test_a_layer_that_is_replaced_or_removed(self):
        model = network(torch.bfloat16)
        masters = {p: p.detach().float() for p in model.parameters()}
        monitor = wsf.RWCMonitor(wsf.master_weights(model, masters.get))
        model[2] = nn.Linear(64, 2, dtype=torch.bfloat16)
        masters[model[2].weight] = model[2].weight.detach().float()
        monitor.record()
        moved = monitor.history().moved_fraction
        assert moved[0, 0] == 0
        assert moved[0, 1] > 0.9
        del model[2].weight
        with pytest.raises(wsf.WeightScaleError, match=r"Sequential has no parameter '2.weight'.*layer was removed"):
            monitor.record()

    def test_a_step_calls_no_python_for_each_layer(self):
        """But for `find`, which here is in C."""

        def calls(layers):
            model = nn.Sequential(*[nn.Linear(2, 2, bias=False) for _ in range(layers)]).bfloat16()
            for p in model.parameters():
                p.master = p.detach().float()
            masters, seen = wsf.master_weights(model, operator.attrgetter("master")), []
            sys.setprofile(lambda frame, event, argument: seen.append(event == "call"))
            try:
                masters.refresh()
            finally:
                sys.setprofile(None)
            return sum(seen)

        assert calls(100) == calls(10)

    def test_before_the_first_step_there_are_none(self):
        model, optimizer = self.training()
        with pytest.raises(wsf.WeightScaleError, match=r"layer '0.weight' has no master weight.*in their first step"):
            wsf.master_weights(model, lambda p: optimizer.state[p]["master_param"])
        with pytest.raises(wsf.WeightScaleError, match=r"layer '0.weight' has no master weight, find gave NoneType"):
            wsf.master_weights(model, {}.get)


def test_autocast_records_the_float32_weights():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    monitor, prev = wsf.RWCMonitor(model, optimizer), wsf.snapshot(model)
    expected = []
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = model(DATA)
            assert output.dtype == torch.bfloat16
            output.square().mean().backward()
            optimizer.step()
            expected.append(wsf.fast_rwc(model, prev))
    assert expected[0].dtype == torch.float32
    history = monitor.history()
    np.testing.assert_allclose(history.rwc, torch.stack(expected), rtol=1e-6)
    assert history.moved_fraction[0, 0] > 0.8


@pytest.mark.filterwarnings("ignore:OptimState8bit does not implement:UserWarning")  # torchao's, of torch's cache
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_8_bit_optimizer_of_torchao():
    optim = pytest.importorskip("torchao.optim", reason="needs torchao: pip install 'weightscale_fast[integrations]'")
    torch.manual_seed(0)
    model = nn.Linear(64, 64)
    optimizer = optim.AdamW8bit(model.parameters(), lr=1e-3)
    monitor, before = wsf.RWCMonitor(model, optimizer), []
    for _ in range(3):
        before.append(model.weight.detach().clone())
        optimizer.zero_grad()
        model(torch.randn(4, 64)).square().mean().backward()
        optimizer.step()
    assert type(optimizer.state[model.weight]["exp_avg"]).__name__ == "OptimState8bit"
    moves = [(b - a).double().abs().sum() for a, b in zip(before, before[1:] + [model.weight.detach()], strict=True)]
    np.testing.assert_allclose(monitor.history().delta_l1[:, 0], moves, rtol=1e-6)


def test_nan_stays_in_its_layer(backend, monkeypatch):
    monkeypatch.setenv("WEIGHTSCALE_FAST_BACKEND", backend)
    model = nn.ParameterList([nn.Parameter(torch.ones(3, 5)) for _ in range(4)])
    monitor = wsf.RWCMonitor(model, definition="mean_ratio")
    for step in range(4):
        with torch.no_grad():
            for parameter in model:
                parameter.mul_(2)
            if step == 1:
                model[2][1, 1] = float("nan")
            if step == 2:
                model[2].fill_(1)  # it heals
        monitor.record()
    expected = np.ones((4, 4))
    expected[1:3, 2] = np.nan
    rwc = monitor.history().rwc
    np.testing.assert_array_equal(np.isnan(rwc), np.isnan(expected))
    np.testing.assert_allclose(rwc, expected, rtol=1e-6)
    assert (monitor.history().moved == 15).all()


def test_nan_from_a_loss_reaches_the_layers_it_trains_and_no_others():
    model = network()
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    monitor = wsf.RWCMonitor(model, optimizer)
    (model(DATA).sum() * float("nan")).backward()
    optimizer.step()
    rwc = monitor.history().rwc
    assert np.isnan(rwc[0, 1])
    assert rwc[0, 0] == 0


def test_master_weights_with_other_strides_at_the_same_address():
    model = nn.Linear(4, 4, bias=False).bfloat16()
    flat = torch.randn(4, 4)
    masters = {model.weight: flat}
    module = wsf.master_weights(model, masters.get)
    prev = wsf.snapshot(module)
    wsf.fast_rwc(module, prev)
    masters[model.weight] = flat.t()
    rwc = (flat.t() - flat).abs().sum() / flat.abs().sum()
    torch.testing.assert_close(wsf.fast_rwc(module, prev).squeeze(), rwc)
