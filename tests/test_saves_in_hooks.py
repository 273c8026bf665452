"""Where a loop may save: in a hook of the optimizer's step, and around `record()`. A resumed run misses no step."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import weightscale_fast as wsf

RESUME = """
import sys, torch, weightscale_fast as wsf
torch.manual_seed(1)
model = torch.nn.Linear(2, 2, bias=False)
optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
state, folder = torch.load(sys.argv[1]), sys.argv[2]
monitor = wsf.RWCMonitor(model, optimizer, run_dir=folder, resume=True)
model.load_state_dict(state["model"])
monitor.load_state_dict(state["monitor"])
for i in range(state["monitor"]["step"] + 1, 9):
    model.weight.grad = torch.full_like(model.weight, float(i))
    optimizer.step()
monitor.close()
"""


def descent(optimizer_class=torch.optim.SGD):
    """A model whose weights move by i at step i, its optimizer, and the step."""
    model = nn.Linear(2, 2, bias=False)
    optimizer = optimizer_class(model.parameters(), lr=1.0)

    def step(i):
        model.weight.grad = torch.full_like(model.weight, float(i))
        optimizer.step()

    return model, optimizer, step


def moves(history):
    return (history.delta_l1[:, 0] / 4).tolist()


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("call", ["state_dict", "checkpoint_state", "load_state_dict"])
def test_a_hook_that_comes_before_the_row_is_told(every, call):
    """The state had the weights of this step and the rows up to the one before: the resumed run merged two steps."""
    model, optimizer, step = descent()
    seen = []

    def hook(*_):
        with pytest.raises(wsf.WeightScaleError, match=rf"a hook of SGD.step\(\) called {call}\(\) before") as error:
            getattr(monitor, call)(*arguments)
        seen.append(str(error.value))

    optimizer.register_step_post_hook(hook)
    monitor = wsf.RWCMonitor(model, optimizer, every=every)
    arguments = [monitor.state_dict()] if call == "load_state_dict" else []
    for i in range(1, 7):
        step(i)
    assert len(seen) == 6
    assert "register that hook after the monitor is made" in seen[0]
    assert monitor.history().steps.tolist() == [i for i in range(1, 7) if i % every == 0]
    monitor.close()


@pytest.mark.parametrize("register", ["of the optimizer", "of all optimizers"])
def test_a_save_in_a_hook_that_comes_after_the_row(tmp_path, register):
    """A second process resumes from it, and its record is that of an unbroken run."""
    model, optimizer, step = descent()
    monitor = wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run")

    def save(*_):
        if monitor.step == 4:
            torch.save({"model": model.state_dict(), "monitor": monitor.state_dict()}, tmp_path / "saved")

    if register == "of the optimizer":
        handle = optimizer.register_step_post_hook(save)
    else:
        handle = register_optimizer_step_post_hook(save)
    try:
        for i in range(1, 7):
            step(i)
    finally:
        handle.remove()
    monitor.close()
    subprocess.run([sys.executable, "-c", RESUME, tmp_path / "saved", tmp_path / "run"], check=True)
    history = wsf.RWCHistory.load(tmp_path / "run")
    assert history.steps.tolist() == list(range(1, 9))
    assert moves(history) == pytest.approx(range(1, 9))


def test_a_save_in_a_closure_is_one_before_the_step():
    """So Lightning calls a training step."""
    model, optimizer, step = descent()
    monitor = wsf.RWCMonitor(model, optimizer)
    step(1)
    states = []

    def closure():
        states.append((monitor.state_dict(), model.weight.detach().clone()))

    optimizer.step(closure)
    state, weights = states[0]
    assert state["step"] == 1
    assert torch.equal(state["weights"]["weight"], weights)
    monitor.close()


class Twice(torch.optim.SGD):
    """It changes the weights once more after `super().step()`."""

    def step(self, closure=None):
        super().step(closure)
        with torch.no_grad():
            self.param_groups[0]["params"][0].add_(1.0)


def test_a_hook_of_the_inner_of_two_steps():
    """It runs twice: after `super().step()` there is no row yet."""
    torch.optim.SGD([nn.Parameter(torch.ones(1))])  # PyTorch puts its hooks into both classes
    model, optimizer, step = descent(Twice)
    monitor = wsf.RWCMonitor(model, optimizer)
    saved = []

    def save(*_):
        try:
            saved.append(monitor.state_dict()["step"])
        except wsf.WeightScaleError:
            saved.append(None)

    optimizer.register_step_post_hook(save)
    step(1)
    step(2)
    assert saved == [None, 1, None, 2]
    monitor.close()


def test_a_callback_may_save():
    model, optimizer, step = descent()
    states = []
    monitor = wsf.RWCMonitor(model, optimizer, on_finding=lambda _: states.append(monitor.state_dict()))
    for _ in range(40):
        step(0.5)
    for _ in range(300):
        step(float("nan"))
    assert states
    assert states[0]["step"] in (256, 340)
    monitor.close()


@pytest.mark.parametrize("call", ["state_dict", "checkpoint_state"])
def test_a_save_between_a_step_and_its_record(call):
    model, _, step = descent()
    monitor = wsf.RWCMonitor(model)
    step(1)
    with pytest.warns(UserWarning, match=r"moved since step 0 was recorded, .* call record\(\) first"):
        getattr(monitor, call)()
    monitor.record()
    assert getattr(monitor, call)()["step"] == 1
    monitor.close()
    step(2)
    monitor.state_dict()
