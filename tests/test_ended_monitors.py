"""What a monitor leaves behind when it ends, and monitors that are made and ended in the middle of a step."""

import gc
import sys
import threading

import pytest
import torch
from torch import nn
from torch.optim import optimizer as torch_optimizer

import weightscale_fast as wsf
from weightscale_fast.record import listener, optimizer_hook, recorded_twice


def descent():
    """A model whose weights move by the given number at each step, its optimizer, and the step."""
    model = nn.Linear(2, 2, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def step(by):
        model.weight.grad = torch.full_like(model.weight, float(by))
        optimizer.step()

    return model, optimizer, step


def hooks(model, optimizer):
    """How many there are, by where they are."""
    tables = {
        "before": optimizer._optimizer_step_pre_hooks,
        "after": optimizer._optimizer_step_post_hooks,
        "after all": torch_optimizer._global_optimizer_post_hooks,
        "forward": model._forward_hooks,
        "before forward": model._forward_pre_hooks,
        "backward": model._backward_hooks,
        "listeners": listener._listening,
        "recording": recorded_twice._now,
        "ended": optimizer_hook._ended,
        "waiting": optimizer_hook._waiting.get(optimizer, {}),
    }
    return {name: len(table) for name, table in tables.items()}


@pytest.mark.parametrize("end", [wsf.RWCMonitor.close, wsf.RWCMonitor.abandon], ids=["close", "abandon"])
@pytest.mark.parametrize("watched", [True, False], ids=["hook", "by hand"])
def test_a_monitor_that_ended_hears_nothing(end, watched):
    """Its listener for frozen layers stayed, and each later step called it."""
    gc.collect()
    optimizer_hook._remove_ended()  # those of other tests
    model, optimizer, step = descent()
    before, kept = hooks(model, optimizer), []
    for _ in range(3):
        monitor = wsf.RWCMonitor(model, optimizer if watched else None)
        kept.append(monitor)
        step(1)
        if not watched:
            monitor.record()
        assert hooks(model, optimizer) != before
        end(monitor)
        assert hooks(model, optimizer) == before
    # PyTorch has one hook for all listeners, and keeps it. It is the same for every monitor.
    assert listener._hear in torch_optimizer._global_optimizer_pre_hooks.values()


@pytest.mark.parametrize("kept", [True, False], ids=["in a variable", "not kept"])
def test_a_monitor_that_is_made_in_a_callback(tmp_path, kept):
    """The optimizer went through its hooks then: "OrderedDict mutated during iteration", if another one followed."""
    model, optimizer, step = descent()
    made = []

    def restart(_):
        if not made:
            monitor.close()
            with torch.no_grad():
                model.weight.zero_()
            new = wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "new")
            made.append(new if kept else None)

    monitor = wsf.RWCMonitor(model, optimizer, on_finding=restart)
    optimizer.register_step_post_hook(lambda *_: None)
    for _ in range(40):
        step(1)
    for _ in range(216):
        step(float("nan"))
    assert len(monitor.history()) == 256
    assert made
    for i in range(1, 6):
        step(i)
    gc.collect()
    if kept:
        made[0].close()
        after = hooks(model, optimizer)
        assert (after["before"], after["after"], after["waiting"]) == (0, 1, 0)
    else:
        del model, optimizer, step
        monitor = None
        gc.collect()
    history = wsf.RWCHistory.load(tmp_path / "new")
    assert history.steps.tolist() == [1, 2, 3, 4, 5]
    assert (history.delta_l1[:, 0] / 4).tolist() == [1, 2, 3, 4, 5]


def test_a_monitor_that_is_made_and_closed_in_a_callback():
    model, optimizer, step = descent()
    optimizer.register_step_post_hook(lambda *_: wsf.RWCMonitor(model, optimizer).close())
    optimizer.register_step_post_hook(lambda *_: None)
    for _ in range(3):
        step(1)
        after = hooks(model, optimizer)
        assert (after["before"], after["waiting"]) == (0, 0)


@pytest.mark.parametrize("closure", [False, True])
def test_a_monitor_that_is_made_before_the_weights_move(closure):
    """In a hook before the step it failed: "OrderedDict mutated during iteration", if another hook followed."""
    model, optimizer, _ = descent()
    nn.init.zeros_(model.weight)
    made = []

    def make(*_):
        if not made:
            made.append(wsf.RWCMonitor(model, optimizer))

    if not closure:
        optimizer.register_step_pre_hook(make)
        optimizer.register_step_pre_hook(lambda *_: None)
    for i in range(1, 6):
        model.weight.grad = torch.full_like(model.weight, float(i))
        optimizer.step(make if closure else None)
    history = made[0].history()
    assert history.steps.tolist() == [1, 2, 3, 4, 5]
    assert (history.delta_l1[:, 0] / 4).tolist() == [1, 2, 3, 4, 5]
    before = hooks(model, optimizer)
    made[0].close()
    after = hooks(model, optimizer)
    assert (after["before"], after["after"]) == (before["before"] - 1, before["after"] - 1)
    assert after["waiting"] == after["ended"] == 0


def test_a_history_in_the_first_step_tells_of_no_missed_step():
    """LBFGS moves the weights between two calls of its closure."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.LBFGS(model.parameters())
    monitor = wsf.RWCMonitor(model, optimizer)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(3, 2)).square().sum()
        loss.backward()
        assert len(monitor.history()) == 0
        return loss

    optimizer.step(closure)
    assert monitor.step == 1


@pytest.mark.parametrize("where", ["register_step_pre_hook", "register_step_post_hook"])
def test_another_thread_ends_a_monitor_in_the_middle_of_a_step(where):
    """PyTorch went through the hooks then: "OrderedDict mutated during iteration"."""
    model, optimizer, step = descent()
    monitor = wsf.RWCMonitor(model, optimizer)

    def end(*_):
        thread = threading.Thread(target=monitor.abandon)
        thread.start()
        thread.join()

    getattr(optimizer, where)(end)
    getattr(optimizer, where)(lambda *_: None)
    step(1)
    step(1)
    assert monitor.step == (where == "register_step_post_hook")


def test_the_frames_of_all_threads_are_not_looked_at(monkeypatch):
    """CPython holds a lock meanwhile. If garbage is collected then, a `threading.local` in it waits for that lock."""
    monkeypatch.setattr(sys, "_current_frames", lambda: pytest.fail("the training may hang here"))
    model, optimizer, step = descent()
    for _ in range(2):
        monitor = wsf.RWCMonitor(model, optimizer)
        step(1)
        monitor.close()
