"""Frozen layers that have a gradient: an optimizer still moves them if it is stale, and the record says so."""

import warnings

import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.record import new_gradient
from weightscale_fast.record.host_copy import HostCopy


def network():
    return nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))


def train(model, optimizer, steps):
    """The loop zeroes the gradients of what it trains."""
    for _ in range(steps):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = None
        model(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()


@pytest.fixture(params=["at once", "at the end"])
def answer(request, monkeypatch):
    """Whether a gradient is 0 is known at once, as on the CPU, or only when somebody waits, as on a slow GPU."""

    class Slow(HostCopy):
        here = False

        def has_arrived(self):
            return self.here

        def wait(self):
            self.here = True

    if request.param == "at the end":
        monkeypatch.setattr(new_gradient, "HostCopy", Slow)


@pytest.mark.usefixtures("answer")
@pytest.mark.parametrize(("before", "told"), [(0, 1), (10, 12)], ids=["from the start", "later"])
def test_a_stale_gradient_that_moves_a_frozen_layer(before, told):
    """A gradient that is not 0 was taken for a sign of training between two rows."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model(torch.ones(2, 4)).square().sum().backward()
    if not before:
        model[0].weight.requires_grad_(False)
    monitor = wsf.RWCMonitor(model, optimizer)
    if before:
        train(model, optimizer, before)
        model[0].weight.requires_grad_(False)
    train(model, optimizer, 20)
    with pytest.warns(UserWarning, match=rf"^'0.weight' at step {told} moved while frozen"):
        history = monitor.history()
    assert (history.delta_l1[:, 0] > 0).all()
    monitor.close()


@pytest.mark.usefixtures("answer")
@pytest.mark.parametrize("before_step", [True, False])
def test_a_layer_that_is_trained_between_the_rows_has_a_new_gradient(before_step):
    """The new gradient may lie where the old one was."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monitor = wsf.RWCMonitor(model)
    for _ in range(30):
        model.requires_grad_(True)
        optimizer.zero_grad()
        model(torch.ones(2, 4)).square().sum().backward()
        model[0].weight.requires_grad_(not before_step)
        optimizer.step()
        model[0].weight.requires_grad_(False)
        monitor.record()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor.close()
