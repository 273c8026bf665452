"""When a step ends: optimizers that call others, and loops that change the weights after the step.

Every test trains a real model. Either the rows are those that `ByHand` computes at the ends of the steps, or a warning
names the loop at the first rows.
"""

import contextlib
import gc
import threading
import types
import weakref
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import weightscale_fast as wsf
from weightscale_fast.record import step_check
from weightscale_fast.record.host_copy import HostCopy
from weightscale_fast.record.listener import Listener
from weightscale_fast.record.step_check import FIRST, LATER, SILENT, StepCheck

from .test_training_loops import ByHand, backward, network, train

LACK = "moved after their row was recorded"


def run(model, optimizer, steps=6, after=lambda: None, watched=None):
    """Train, and return the history of a monitor with the rows computed by hand."""
    monitor, by_hand = wsf.RWCMonitor(model, watched or optimizer), ByHand(model)
    for _ in range(steps):
        train(model, optimizer, 1)
        after()
        by_hand.row()
    return monitor.history(), by_hand


def repeat(times, *calls):
    for _ in range(times):
        for call in calls:
            call()


class Lookahead(torch.optim.Optimizer):
    """Wraps an optimizer, and pulls the weights back after every second step of it."""

    def __init__(self, inner, tables=OrderedDict):
        self.optimizer, self.steps = inner, 0
        self._optimizer_step_pre_hooks, self._optimizer_step_post_hooks = tables(), tables()
        self.slow = [[p.detach().clone() for p in group["params"]] for group in inner.param_groups]

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def zero_grad(self):
        self.optimizer.zero_grad()

    @torch.no_grad()
    def step(self, closure=None):
        self.optimizer.step(closure)
        self.steps += 1
        if self.steps % 2 == 0:
            for group, slow in zip(self.param_groups, self.slow, strict=True):
                for p, s in zip(group["params"], slow, strict=True):
                    p.copy_(s.add_(p - s, alpha=0.5))


class WithInit(Lookahead):
    """The same, with `Optimizer.__init__` called."""

    param_groups = None

    def __init__(self, inner):
        torch.optim.Optimizer.__init__(self, inner.param_groups, {})
        self.param_groups = inner.param_groups
        self.optimizer, self.steps = inner, 0
        self.slow = [[p.detach().clone() for p in group["params"]] for group in inner.param_groups]

    @torch.no_grad()
    def step(self, closure=None):
        return Lookahead.step(self, closure)


class TestOptimizersThatWrapAnother:
    @pytest.mark.parametrize("wrapper", [Lookahead, WithInit])
    def test_the_steps_of_the_wrapper_are_recorded(self, wrapper):
        model = network()
        history, by_hand = run(model, wrapper(torch.optim.Adam(model.parameters(), lr=0.05)))
        by_hand.check(history)

    def test_a_class_whose_step_has_no_hooks_gets_them(self):
        """A subclass that does not call `Optimizer.__init__`, in a loop that calls `model.zero_grad()`."""

        class Fresh(Lookahead):
            @torch.no_grad()
            def step(self, closure=None):
                return Lookahead.step(self, closure)

        assert not getattr(Fresh.step, "hooked", False)
        model = network()
        optimizer = Fresh(torch.optim.Adam(model.parameters(), lr=0.05))
        monitor, by_hand = wsf.RWCMonitor(model, optimizer), ByHand(model)
        for _ in range(6):
            model.zero_grad()
            backward(model)
            optimizer.step()
            by_hand.row()
        by_hand.check(monitor.history())

    def test_tables_that_cannot_hold_hooks_are_an_error(self):
        model = network()
        optimizer = Lookahead(torch.optim.Adam(model.parameters()), tables=dict)
        with pytest.raises(wsf.WeightScaleError, match=r"Lookahead has no hooks for its steps .*call record\(\) after"):
            wsf.RWCMonitor(model, optimizer)

    def test_a_wrapper_that_is_no_optimizer_is_an_error(self):
        model = network()
        wrapper = types.SimpleNamespace(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
        with pytest.raises(TypeError, match="got SimpleNamespace, which wraps SGD and has no hooks for its steps"):
            wsf.RWCMonitor(model, wrapper)

    def test_a_scheduler_stands_for_its_optimizer(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        history, by_hand = run(model, optimizer, watched=scheduler)
        by_hand.check(history)


class Clipped(torch.optim.SGD):
    """Calls `super().step()`, and changes the weights before and after it."""

    fail = False

    @torch.no_grad()
    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            p.mul_(0.99)
        if self.fail:
            raise RuntimeError("a step that fails")
        super().step(closure)
        for p in self.param_groups[0]["params"]:
            p.clamp_(-0.4, 0.4)


class Sam(torch.optim.Optimizer):
    """Sharpness-aware minimization: a step up the gradient, a second gradient there, back, and a step down."""

    def __init__(self, params):
        super().__init__(params, {})
        self.base = torch.optim.SGD(self.param_groups, lr=0.1)

    @torch.no_grad()
    def step(self, closure):
        with torch.enable_grad():
            closure()
        params = [p for p in self.param_groups[0]["params"] if p.grad is not None]
        before = [p.clone() for p in params]
        for p in params:
            p.add_(p.grad, alpha=0.05)
        with torch.enable_grad():
            closure()
        for p, weights in zip(params, before, strict=True):
            p.copy_(weights)
        self.base.step()


def test_sam_with_a_closure_makes_one_row_a_step():
    model = network()
    optimizer = Sam(model.parameters())
    monitor, by_hand = wsf.RWCMonitor(model, optimizer), ByHand(model)
    for _ in range(6):
        optimizer.step(lambda: (optimizer.zero_grad(), backward(model)))
        by_hand.row()
    by_hand.check(monitor.history())


class TestStepsThatCallSuper:
    def test_only_the_outer_call_is_a_step(self):
        torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)  # so that PyTorch has put hooks into SGD.step too
        model = network()
        history, by_hand = run(model, Clipped(model.parameters(), lr=0.1))
        by_hand.check(history)

    def test_in_several_threads(self):
        """Each step of one thread made the others forget the outer call, so that its two ends were two steps."""
        torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
        inside, others = threading.Event(), threading.Event()

        class Waiting(Clipped):
            @torch.no_grad()
            def step(self, closure=None):
                inside.set()
                assert others.wait(60)
                super().step(closure)

        model = network()
        optimizer = Waiting(model.parameters(), lr=0.1)
        monitor, by_hand = wsf.RWCMonitor(model, optimizer), ByHand(model)
        other = network()
        thread = threading.Thread(target=train, args=(model, optimizer, 1))
        thread.start()
        assert inside.wait(60)
        train(other, torch.optim.Adam(other.parameters()), 1)
        others.set()
        thread.join()
        by_hand.row()
        by_hand.check(monitor.history())

    def test_a_step_that_raised_is_not_counted_for_ever(self):
        torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)
        model = network()
        optimizer = Clipped(model.parameters(), lr=0.1)
        monitor, by_hand = wsf.RWCMonitor(model, optimizer), ByHand(model)
        for step in range(9):
            optimizer.fail = step in (2, 5)
            optimizer.zero_grad()
            backward(model)
            told = pytest.warns(UserWarning, match=r"moved in a call of Clipped.step\(\) that raised")
            try:
                with told if step == 3 else contextlib.nullcontext():  # once
                    optimizer.step()
            except RuntimeError:
                continue
            by_hand.row()
        by_hand.check(monitor.history())

    def test_an_inner_step_whose_error_is_caught(self):
        class Tolerant(Clipped):
            @torch.no_grad()
            def step(self, closure=None):
                with contextlib.suppress(RuntimeError):
                    super().step(closure)

        Clipped(nn.Linear(1, 1).parameters(), lr=0.1)
        model = network()
        optimizer = Tolerant(model.parameters(), lr=0.1)
        optimizer.fail = True
        history, by_hand = run(model, optimizer)
        by_hand.check(history)


def two_optimizers(model):
    first = torch.optim.SGD([model[0].weight], lr=0.1)
    second = torch.optim.Adam([model[2].weight, model[0].bias, model[2].bias], lr=0.01)
    return first, second


def steps_of_both(model, *optimizers):
    for optimizer in optimizers:
        optimizer.zero_grad()
    backward(model)
    for optimizer in optimizers:
        optimizer.step()


class TestTwoOptimizers:
    def test_one_that_steps_after_the_watched_one_is_told(self):
        model = network()
        first, second = two_optimizers(model)
        wsf.RWCMonitor(model, first)
        with pytest.warns(UserWarning, match=rf"2.weight {LACK}: Adam stepped after the SGD that this monitor watches"):
            repeat(FIRST, lambda: steps_of_both(model, first, second))

    def test_one_that_steps_before_it_is_right(self):
        model = network()
        first, second = two_optimizers(model)
        monitor, by_hand = wsf.RWCMonitor(model, first), ByHand(model)
        for _ in range(6):
            steps_of_both(model, second, first)
            by_hand.row()
        by_hand.check(monitor.history())

    def test_one_that_steps_before_it_without_a_forward_pass_is_right(self):
        """Gradients that are set by hand, or that another thread computes."""
        model = network()
        first, second = two_optimizers(model)
        monitor, by_hand = wsf.RWCMonitor(model, second), ByHand(model)
        for _ in range(FIRST):
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            first.step()
            second.step()
            by_hand.row()
        by_hand.check(monitor.history())

    def test_one_that_steps_after_it_without_a_forward_pass_is_told(self):
        model = network()
        first, second = two_optimizers(model)
        wsf.RWCMonitor(model, first)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        with pytest.warns(UserWarning, match=rf"2.weight {LACK}: Adam stepped after the SGD that this monitor watches"):
            repeat(FIRST, first.step, second.step)

    def test_optimizers_in_the_backward_pass_are_right(self):
        """One optimizer for each parameter steps during backward; the watched one has a `step` that does nothing."""

        class InBackward(torch.optim.Optimizer):
            def step(self):
                pass

        model = network()
        inner = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

        def update(p):
            inner[p].step()
            p.grad = None

        for p in model.parameters():
            p.register_post_accumulate_grad_hook(update)
        history, by_hand = run(model, InBackward(list(model.parameters()), {}), steps=3 * SILENT)
        by_hand.check(history)

    def test_one_that_is_rebuilt_again_and_again_is_told(self):
        """Each of them made fewer than 10 steps, and none had a row."""
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = wsf.RWCMonitor(model, optimizer)
        train(model, optimizer, SILENT - 2)
        train(model, torch.optim.Adam(model.parameters()), SILENT - 2)
        with pytest.warns(UserWarning, match=f"Adam made {SILENT} steps .* while the SGD that it watches made none"):
            train(model, torch.optim.Adam(model.parameters()), SILENT - 2)
        assert monitor.step == SILENT - 2

    def test_one_that_gets_the_layers_later_is_told(self):
        model = network()
        optimizer, later = (torch.optim.SGD([p], lr=0.1) for p in (model[0].weight, model[0].bias))
        wsf.RWCMonitor(model, optimizer)
        train(model, later, 1)
        later.add_param_group({"params": [model[2].weight]})
        with pytest.warns(UserWarning, match="SGD made 10 steps on layers of this monitor"):
            train(model, later, SILENT)

    def test_optimizers_of_other_models_are_not_heard(self):
        model, other = network(), network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        history, by_hand = run(
            model, optimizer, after=lambda: train(other, torch.optim.SGD(other.parameters(), lr=0.1), 2 * SILENT)
        )
        by_hand.check(history)

    def test_one_that_steps_instead_of_the_watched_one_is_told(self):
        """The two calls of SAM: its own `step` is never called, but that of the optimizer inside."""
        model = network()
        watched = torch.optim.SGD(model.parameters(), lr=0.1)
        inside = torch.optim.Adam(model.parameters())
        wsf.RWCMonitor(model, watched)
        with pytest.warns(UserWarning, match=f"Adam made {SILENT} steps on layers of this monitor while the SGD that"):
            train(model, inside, SILENT)


@torch.no_grad()
def clip(model, most=0.1):
    for p in model.parameters():
        p.clamp_(-most, most)


class TestWeightsChangedAfterTheStep:
    def test_clipping_is_told_at_the_third_step(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        wsf.RWCMonitor(model, optimizer)
        for _ in range(2):
            train(model, optimizer, 1)
            clip(model)
        with pytest.warns(UserWarning, match=rf"{LACK}: something wrote to them between SGD.step\(\)"):
            train(model, optimizer, 1)
        clip(model)
        train(model, optimizer, 1)  # no second warning

    def test_max_norm_of_an_embedding_is_in_the_row_of_its_step(self):
        """The forward pass writes to the weights, so the warning must not say that the rows are wrong."""
        model = nn.Sequential(nn.Embedding(4, 3, max_norm=0.5), nn.Linear(3, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        monitor, by_hand = wsf.RWCMonitor(model, optimizer), ByHand(model)

        def forward():
            model(torch.arange(4)).square().sum().backward()

        with pytest.warns(UserWarning, match=r"monitor was made.*\(max_norm.*the row is right$"):
            repeat(1, model.zero_grad, forward, optimizer.step, by_hand.row)
        with pytest.warns(
            UserWarning, match=rf"{LACK}.* If it belongs to the next step \(max_norm.*rows are right$"
        ) as w:
            repeat(FIRST, model.zero_grad, forward, optimizer.step, by_hand.row)
        assert len(w) == 1
        by_hand.check(monitor.history())

    def test_clipping_that_begins_later_is_told(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        wsf.RWCMonitor(model, optimizer)
        train(model, optimizer, LATER - 10)
        with pytest.warns(UserWarning, match=LACK):
            repeat(12, lambda: train(model, optimizer, 1), lambda: clip(model))

    @pytest.mark.parametrize(
        ("every", "begins", "told"), [(2, 0, 4), (5, 0, 10), (10, 0, 20), (5, 60, 130), (13, 60, 130)]
    )
    def test_what_is_done_at_every_nth_step_is_told(self, every, begins, told):
        """Lookahead by hand, a target network, a mask. The second time that is seen counts."""
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        wsf.RWCMonitor(model, optimizer)
        for step in range(1, told + 1):
            train(model, optimizer, 1)
            if step % every == 0 and step > begins:
                clip(model, 0.3 - step / 1000)
        with pytest.warns(UserWarning, match=LACK):
            train(model, optimizer, 1)

    def test_long_runs_compare_few_rows(self):
        model = network()
        check = StepCheck(model, wsf.snapshot(model), lambda: torch.zeros(2), "SGD")
        compared = 0
        for row in range(1, 5_000):
            check.step_ended(row=True)
            compared += check.is_due()
            assert compared <= FIRST + row / 16
        assert FIRST + 60 < compared <= FIRST + 100

    def test_masters_that_a_patched_step_copies_are_told(self):
        model = network()
        masters = [p.detach().clone().requires_grad_() for p in model[0].parameters()]
        optimizer = torch.optim.SGD([*masters, *model[2].parameters()], lr=0.1)
        inner = optimizer.step

        def step(self, closure=None):
            for p, master in zip(model[0].parameters(), masters, strict=True):
                master.grad = p.grad.clone()
            inner()
            with torch.no_grad():
                for p, master in zip(model[0].parameters(), masters, strict=True):
                    p.copy_(master)

        optimizer.step = types.MethodType(step, optimizer)
        wsf.RWCMonitor(model, optimizer)
        with pytest.warns(UserWarning, match=rf"0.weight {LACK}"):
            repeat(FIRST, model.zero_grad, lambda: backward(model), lambda: optimizer.step())

    def test_with_every_the_ends_of_rows_are_compared(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        wsf.RWCMonitor(model, optimizer, every=2)
        with pytest.warns(UserWarning, match=LACK):
            repeat(5, lambda: train(model, optimizer, 1), lambda: clip(model))

    @pytest.mark.parametrize("every", [1, 3])
    def test_weights_that_are_loaded_after_the_monitor_is_made_are_told(self, every):
        """The first row had the whole way to the loaded weights, and nobody said so."""
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = wsf.RWCMonitor(model, optimizer, every=every)
        model.load_state_dict({name: 2 * weights for name, weights in model.state_dict().items()})
        with pytest.warns(UserWarning, match="2.weight moved after this monitor was made and before the next step"):
            train(model, optimizer, 1)
        train(model, optimizer, FIRST)  # and no other warning
        assert monitor.step == FIRST + 1

    @pytest.mark.parametrize("call", ["state_dict", "checkpoint_state"])
    def test_weights_that_are_loaded_after_the_state_are_told(self, call):
        """With `checkpoint_state` the row after a resume had the whole way; without the model's weights, so it had."""
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = wsf.RWCMonitor(model, optimizer)
        train(model, optimizer, 3)
        state, weights = getattr(monitor, call)(), {k: v.clone() for k, v in model.state_dict().items()}
        train(model, optimizer, 3)
        model.load_state_dict(weights)
        monitor.load_state_dict(state)
        train(model, optimizer, 3)  # the right order
        monitor.load_state_dict(state)
        if call == "checkpoint_state":
            model.load_state_dict(weights)
        with pytest.warns(UserWarning, match="moved after the monitor's state was loaded and before the next step"):
            train(model, optimizer, 1)
        train(model, optimizer, 3)

    def test_averaged_weights_swapped_in_and_out_are_not(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        @torch.no_grad()
        def swap_in_and_out():
            for p in model.parameters():
                p.add_(1e-3)
            for p in model.parameters():
                p.sub_(1e-3)

        monitor = wsf.RWCMonitor(model, optimizer)
        for _ in range(FIRST + 2):
            train(model, optimizer, 1)
            swap_in_and_out()
        assert len(monitor.history()) == FIRST + 2


class TestComparisonsThatArriveLate:
    """As on a GPU. Here a copy to the host arrives when a test says so."""

    @pytest.fixture
    def arrival(self, monkeypatch):
        class Slow(HostCopy):
            here = False

            def has_arrived(self):
                return Slow.here

        monkeypatch.setattr(step_check, "HostCopy", Slow)
        return Slow

    def test_they_name_what_was_so_when_they_were_made(self, arrival):
        """Adam steps late in the first rows only, and the next step of SGD hears of it."""
        model = network()
        first, second = two_optimizers(model)
        wsf.RWCMonitor(model, first)
        repeat(2, lambda: steps_of_both(model, first, second))
        repeat(5, lambda: steps_of_both(model, first))
        arrival.here = True
        with pytest.warns(UserWarning, match=rf"^2.weight {LACK}: Adam stepped after the SGD"):
            steps_of_both(model, first)
        steps_of_both(model, first, second)
        steps_of_both(model, first)  # no second warning

    def test_an_optimizer_that_stepped_before_the_watched_one_stays_right(self, arrival):
        """The layers that it moved are taken from its own comparison, and not from a later one."""
        model = network()
        first, second = two_optimizers(model)
        wsf.RWCMonitor(model, first)
        repeat(5, lambda: steps_of_both(model, second, first))
        arrival.here = True
        repeat(5, lambda: steps_of_both(model, first))

    @pytest.mark.parametrize("end", ["flush", "history", "close", "state_dict"])
    def test_they_are_judged_at_the_end(self, arrival, end):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        monitor = wsf.RWCMonitor(model, optimizer)
        for _ in range(4):
            train(model, optimizer, 1)
            clip(model)
        arrival.here = True
        with pytest.warns(UserWarning, match=rf"{LACK}: something wrote to them between SGD.step\(\)"):
            getattr(monitor, end)()

    def test_a_device_that_is_far_behind_is_not_asked_for_more(self, arrival):
        model = network()
        check = StepCheck(model, wsf.snapshot(model), lambda: torch.zeros(2), "SGD")
        compared = 0
        for _ in range(5_000):
            check.step_ended(row=True)
            if check.is_due():
                check.compare()
                compared += 1
        assert compared == FIRST
        arrival.here = True
        check.judge()
        repeat(5_000, lambda: check.step_ended(row=True), check.judge, lambda: check.is_due() and check.compare())
        assert len(check._pending) == 0


class TestNothingIsRecorded:
    def test_record_that_is_called_once_an_epoch_is_right(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor, by_hand = wsf.RWCMonitor(model), ByHand(model)
        for _ in range(2):
            train(model, optimizer, 3 * SILENT)
            monitor.record()
            by_hand.row()
        by_hand.check(monitor.history())

    def test_record_that_is_never_called_is_told_at_the_end(self):
        model = network()
        monitor = wsf.RWCMonitor(model)
        clip(model)
        with pytest.warns(UserWarning, match=r"the weights moved, and record\(\) was never called"):
            monitor.close()

    def test_a_loop_that_calls_record_hears_nothing(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor, by_hand = wsf.RWCMonitor(model), ByHand(model)
        for _ in range(2 * SILENT):
            train(model, optimizer, 1)
            monitor.record()
            by_hand.row()
        by_hand.check(monitor.history())

    def test_another_dtype_and_a_new_optimizer_are_told(self):
        model = network()
        monitor = wsf.RWCMonitor(model, torch.optim.SGD(model.parameters(), lr=0.1))
        model.double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model[0].weight.grad = torch.ones_like(model[0].weight)
        optimizer.step()
        with pytest.warns(UserWarning, match=r"the layers changed \(.*float64.*\) since the last recorded step"):
            monitor.close()


def test_listening_keeps_no_monitor_alive():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for watched in (None, optimizer):
        monitor = wsf.RWCMonitor(model, watched)
        alive = weakref.ref(monitor)
        monitor.close()
        del monitor
        gc.collect()
        assert alive() is None
    train(model, optimizer, 2)


class TestHooksThatComeAndGoDuringAStep:
    """PyTorch goes through its hooks in each step, and fails if one comes or goes then."""

    def test_a_hook_that_closes_monitors(self):
        """Another monitor of the optimizer misses no step."""
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        first = wsf.RWCMonitor(model, optimizer)
        after = optimizer._optimizer_step_post_hooks
        second = wsf.RWCMonitor(model, optimizer, every=2)
        optimizer.register_step_post_hook(lambda *_: (first.close(), second.close()))
        third = wsf.RWCMonitor(model, optimizer, every=3)
        train(model, optimizer, 3)
        assert (first.step, second.step, third.step) == (1, 1, 3)
        assert len(after) == 4
        third.close()
        assert len(after) == 1
        assert not optimizer._optimizer_step_pre_hooks

    def test_on_finding_that_closes_its_monitor(self):
        model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        first = wsf.RWCMonitor(model, optimizer, on_finding=lambda _: first.close())
        second = wsf.RWCMonitor(model, optimizer, every=2)
        for step in range(300):
            if step == 10:
                with torch.no_grad():
                    model[0].weight.fill_(float("nan"))
            train(model, optimizer, 1)
        assert len(first.history()) < 300
        assert second.step == 300

    def test_listeners_of_another_thread(self):
        """A monitor that is made or ends in another thread does not touch the hooks that a step goes through."""
        heard = []

        class Hearer:
            def hear(self, optimizer):
                heard.append(optimizer)

        def make_and_end():
            other = Hearer()
            Listener(other.hear)
            kept = Listener(other.hear)
            kept.end()

        class Busy(Hearer):
            def hear(self, optimizer):
                thread = threading.Thread(target=make_and_end)
                thread.start()
                thread.join()

        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        busy, hearer = Busy(), Hearer()
        listeners = [Listener(busy.hear), Listener(hearer.hear)]
        handle = register_optimizer_step_pre_hook(lambda *_: None)
        train(model, optimizer, 3)
        handle.remove()
        listeners[1].end()
        train(model, optimizer, 1)
        assert heard == [optimizer] * 3
