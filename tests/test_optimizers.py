"""Every optimizer of PyTorch and timm: the rows are the changes between the ends of its steps, and nothing warns."""

import inspect

import pytest
import timm.optim
import torch
from torch import nn

import weightscale_fast as wsf

from .test_training_loops import DATA, ByHand

OF_TORCH = sorted(
    name
    for name, cls in vars(torch.optim).items()
    if inspect.isclass(cls) and issubclass(cls, torch.optim.Optimizer) and name not in ("Optimizer", "SparseAdam")
)
VARIANTS = [
    (name, variant)
    for name in OF_TORCH
    for variant in ("", "foreach", "fused")
    if not variant or variant in inspect.signature(getattr(torch.optim, name)).parameters
]
STEPS = 5  # past the comparisons at the first steps


def matrices():
    """A network without biases, which every optimizer takes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.Tanh(), nn.Linear(8, 2, bias=False))


def check(model, optimizer):
    monitor, by_hand = wsf.RWCMonitor(model, optimizer), ByHand(model)
    brief = wsf.RWCMonitor(model, optimizer, baseline="before_step")
    second_order = getattr(optimizer, "is_second_order", False)

    def closure():
        optimizer.zero_grad()
        loss = model(DATA).square().mean()
        loss.backward(create_graph=second_order)
        return loss

    for _ in range(STEPS):
        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        by_hand.row()
    by_hand.check(monitor.history())
    by_hand.check(brief.history())  # nothing moves between two steps here
    monitor.close()
    brief.close()


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_of_torch(name, variant):
    model = matrices()
    arguments = {variant: True} if variant else {}
    check(model, getattr(torch.optim, name)(model.parameters(), lr=0.01, **arguments))


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning", "ignore:It is highly recommended:UserWarning")
@pytest.mark.parametrize("name", [*timm.optim.list_optimizers(), "lookahead_adamw"])
def test_of_timm(name):
    model = matrices()
    try:
        optimizer = timm.optim.create_optimizer_v2(model, opt=name, lr=0.01)
    except (AssertionError, ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot make it here: {type(error).__name__}")
    check(model, optimizer)
