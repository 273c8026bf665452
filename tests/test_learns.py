"""assert_learns: a test of a training loop names each layer that does not move, and why."""

import pytest
import torch
from torch import nn

import weightscale_fast as wsf


class Loop:
    """A network of three layers and one training step of it, which a test may break."""

    def __init__(self, optimizer=torch.optim.SGD, trained=None):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
        parameters = (trained or (lambda model: model.parameters()))(self.model)
        self.optimizer = optimizer(parameters, lr=0.05)

    def loss(self, x):
        return (self.model(x) - x.sum(1, keepdim=True)).square().mean()

    def step(self):
        self.optimizer.zero_grad()
        self.loss(torch.randn(16, 4)).backward()
        self.optimizer.step()


def message(loop, step=None, **options):
    with pytest.raises(AssertionError) as raised:
        wsf.assert_learns(loop.model, step or loop.step, **options)
    return str(raised.value)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_a_network_that_learns_passes(optimizer):
    loop = Loop(optimizer)
    before = loop.model[0].weight.detach().clone()
    assert wsf.assert_learns(loop.model, loop.step) is None
    assert not torch.equal(before, loop.model[0].weight)


def test_frozen_layers_need_not_move():
    loop = Loop()
    loop.model[0].requires_grad_(False)
    wsf.assert_learns(loop.model, loop.step)


def test_a_layer_that_is_not_in_the_optimizer():
    text = message(Loop(trained=lambda model: model[:4].parameters()))
    assert text.splitlines()[0] == "1 of 3 layers did not move in 20 steps:"
    assert "4.weight: it is not in the optimizer. Give its parameters" in text


def test_biases_in_the_optimizer_are_of_the_model():
    text = message(Loop(trained=lambda model: [model[0].weight, model[0].bias, model[4].weight]))
    assert "2.weight: it is not in the optimizer" in text


def test_a_layer_that_was_replaced():
    loop = Loop()
    loop.model[4] = nn.Linear(8, 1)
    assert "4.weight: the optimizer has tensors that are not in the model" in message(loop)


def test_no_gradient():
    loop = Loop()
    loop.model.unused = nn.Linear(3, 3)
    loop.optimizer.add_param_group({"params": loop.model.unused.parameters()})
    loop.model.forward = lambda x: loop.model[4](loop.model[3](loop.model[2](loop.model[1](loop.model[0](x)))))
    assert "unused.weight: it had no gradient (grad was None)" in message(loop, steps=3)


def test_a_gradient_of_zero():
    loop = Loop()
    nn.init.constant_(loop.model[2].bias, -1e3)
    text = message(loop)
    assert "0.weight: its gradient was exactly 0" in text
    assert "2.weight: its gradient was exactly 0" in text


def test_steps_that_are_lost_to_rounding():
    loop = Loop()
    loop.optimizer.param_groups[0]["lr"] = 1e-30
    assert "0.weight: its steps are smaller than the spacing of its numbers" in message(loop)


def test_a_rate_of_zero():
    loop = Loop()
    loop.optimizer.param_groups[0]["lr"] = 0.0
    assert "its learning rate is 0" in message(loop)


def test_weight_decay_alone_is_no_learning():
    loop = Loop(torch.optim.AdamW)
    loop.loss = lambda x: (loop.model(x) * 0).sum()
    text = message(loop)
    assert "3 layers moved by weight decay or momentum alone, with a gradient of exactly 0:" in text
    assert "0.weight, 2.weight, 4.weight. Look for dead ReLUs" in text


def test_sparse_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step():
        optimizer.zero_grad()
        model(torch.arange(5)).square().sum().backward()
        optimizer.step()

    wsf.assert_learns(model, step)


def test_no_step():
    loop = Loop()
    text = message(loop, lambda: loop.loss(torch.randn(16, 4)).backward())
    assert "3 of 3 layers did not move" in text
    assert "no optimizer made a step" in text


def test_weights_that_become_nan():
    loop = Loop()
    loop.loss = lambda x: loop.model(x).mean() * float("nan")
    assert "3 layers became NaN or infinite: 0.weight, 2.weight, 4.weight" in message(loop)


def test_a_loop_that_raises_is_heard_no_more():
    loop = Loop()

    def step():
        loop.step()
        raise RuntimeError("out of data")

    with pytest.raises(RuntimeError, match="out of data"):
        wsf.assert_learns(loop.model, step)
    from weightscale_fast.record import listener

    assert not any(reference() and "_Look" in repr(reference()._heard) for reference in listener._listening.values())


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "20"])
def test_a_number_of_steps_that_is_none(steps):
    loop = Loop()
    with pytest.raises(ValueError, match="steps must be a whole number, 1 or more"):
        wsf.assert_learns(loop.model, loop.step, steps)


def test_a_step_that_is_no_function():
    loop = Loop()
    with pytest.raises(TypeError, match="step_function must be a function that makes one training step, got Tensor"):
        wsf.assert_learns(loop.model, torch.zeros(1))
