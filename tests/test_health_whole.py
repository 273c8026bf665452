"""Findings about the whole network, in absolute terms: made for real, each with its name and its cause."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.health.causes import ADVICE, CAUSES
from weightscale_fast.health.check import HealthCheck
from weightscale_fast.health.finding import Finding
from weightscale_fast.health.limits import KINDS, NOTES
from weightscale_fast.record.observed import CAUSES as OBSERVED_CAUSES
from weightscale_fast.record.observed import Observed
from weightscale_fast.record.rates import Rates
from weightscale_fast.record.rows import SKIPPED

from .histories import make_history, noisy


class Run:
    """A small network that learns a sum, with places at which a test breaks it."""

    def __init__(self, make=torch.optim.Adam, lr=1e-3, dtype=torch.float32, start=lambda weights: None, **options):
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)
        ).to(dtype)
        with torch.no_grad():
            for parameter in self.model.parameters():
                start(parameter)
        self.dtype = dtype
        self.optimizer = make(self.model.parameters(), lr=lr, **options)
        self.monitor = wsf.RWCMonitor(self.model, self.optimizer)
        self.zero_grad, self.scale, self.clip = True, 1.0, None

    def steps(self, count, schedule=None, kept=False):
        lr = self.optimizer.param_groups[0]["lr"]
        for step in range(count):
            self.optimizer.param_groups[0]["lr"] = lr * (1 if schedule is None else schedule(step))
            if self.zero_grad:
                self.optimizer.zero_grad(set_to_none=not kept)
            x = torch.randn(32, 8, dtype=self.dtype)
            ((self.model(x) - x.sum(1, keepdim=True)).square().mean() * self.scale).backward()
            if self.clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
        return self

    def found(self):
        return [(f.kind, f.cause) for f in wsf.check_health(self.monitor.history()) if f.is_fault]


SGD = torch.optim.SGD
ADAMW = torch.optim.AdamW


class TestFaults:
    def test_a_rate_that_is_far_too_low(self):
        assert Run(lr=1e-7).steps(200).found() == [("slow", "low_rate")]

    def test_a_rate_that_is_far_too_low_for_sgd(self):
        assert Run(SGD, lr=1e-7).steps(200).found()[0] == ("slow", "low_rate")

    def test_gradients_that_are_clipped_to_nothing(self):
        run = Run()
        run.clip = 1e-10
        assert run.steps(200).found()[0] == ("small_step", "tiny_gradient")

    def test_gradients_that_are_clipped_to_nothing_for_sgd(self):
        run = Run(SGD, lr=0.01)
        run.clip = 1e-4
        assert run.steps(200).found()[0] == ("slow", "tiny_gradient")

    def test_a_large_eps(self):
        run = Run(eps=10.0)
        run.scale = 1e-2
        assert run.steps(200).found()[0] == ("small_step", "large_eps")

    def test_gradients_that_are_never_zeroed(self):
        run = Run()
        run.zero_grad = False
        assert ("large_step", "accumulated_gradient") in run.steps(200).found()

    def test_decay_that_dwarfs_the_gradient(self):
        assert Run(ADAMW, weight_decay=100.0).steps(100).found()[0] == ("shrinking", "decay")

    def test_a_schedule_that_ends_too_early(self):
        assert Run().steps(200, schedule=lambda step: 0.1 ** (step // 5)).found()[-1] == ("all_stopped", "rate_decayed")

    def test_a_loss_that_becomes_0(self):
        run = Run(SGD, lr=0.01).steps(100)
        run.scale = 0.0
        (found,) = (f for f in wsf.check_health(run.steps(100).monitor) if f.kind == "all_stopped")
        assert found.cause == "zero_gradient"
        assert 96 < found.step < 100 + 32
        assert "look for" in found.advice.lower()

    def test_a_spike_of_the_rate(self):
        run = Run().steps(160, schedule=lambda step: 1000.0 if step == 100 else 1.0)
        spikes = [f for f in wsf.check_health(run.monitor) if f.kind == "spike"]
        assert [(f.step, f.cause) for f in spikes] == [(101, "rate_spike")]

    def test_weights_that_are_far_too_large(self):
        run = Run(start=lambda weights: weights.mul_(100))
        assert ("slow", "large_weights") in run.steps(200).found()

    def test_float32_steps_that_are_lost(self):
        run = Run(lr=4e-10)
        assert run.steps(200).found()[0] == ("stuck", "rounding")

    def test_a_rate_that_is_far_too_high(self):
        assert ("growing", "high_rate") in Run(lr=3.0).steps(200).found()


class TestHealthy:
    @pytest.mark.parametrize("make", [torch.optim.Adam, ADAMW, torch.optim.RMSprop])
    @pytest.mark.parametrize(
        "schedule",
        [
            None,
            lambda step: (1 + math.cos(math.pi * step / 300)) / 2,
            lambda step: min(1, (step + 1) / 100),
            lambda step: 0.1 ** (step // 100),
        ],
        ids=["constant", "cosine", "warm_up", "step_decay"],
    )
    def test_schedules(self, make, schedule):
        assert Run(make).steps(300, schedule).found() == []

    def test_the_same_data_at_every_step(self):
        """Adam's steps are then as large as its rate, and no gradient is kept."""
        run = Run(lr=1e-4)
        x = torch.randn(64, 8)
        for _ in range(300):
            run.optimizer.zero_grad()
            (run.model(x) - x.sum(1, keepdim=True)).square().mean().backward()
            run.optimizer.step()
        history = run.monitor.history()
        assert np.median(history.step_per_lr[:100]) > 0.7
        assert run.found() == []

    def test_gradients_that_are_zeroed_in_place(self):
        assert Run().steps(300, kept=True).found() == []

    def test_a_frozen_layer_is_a_note(self):
        run = Run()
        run.model[2].requires_grad_(False)
        history = run.steps(200).monitor.history()
        (note,) = wsf.check_health(history)
        assert (note.kind, note.cause, note.is_fault) == ("frozen", "frozen", False)

    def test_a_rise_of_the_rate_after_a_restart(self):
        assert Run().steps(300, lambda step: (1 + math.cos(math.pi * (step % 100) / 100)) / 2).found() == []

    def test_a_head_with_100_times_the_rate(self):
        run = Run(lr=1e-5)
        run.optimizer.param_groups[0]["params"] = list(run.model[:6].parameters())
        run.optimizer.add_param_group({"params": run.model[6].parameters(), "lr": 1e-3})
        assert run.steps(300).found() == []


def with_rates(rwc, lr, observed=None, **fields):
    """A history with this RWC [S, L] and rates [S]."""
    rates = Rates(np.asarray(lr, float)[:, None], np.zeros((len(lr), 1)), np.zeros(rwc.shape[1], np.int32))
    return make_history(rwc, rates=rates, observed=observed or Observed(), **fields)


class TestCheck:
    def test_in_parts_it_is_the_same(self):
        rwc = noisy(640, 8)
        rwc[200:300] *= 1e-7
        rwc[400] *= 1e4
        rwc[500:, 2] *= 100
        history = with_rates(rwc, np.full(640, 0.1))
        whole = HealthCheck(history.names, history.numel).update(history)
        assert {f.kind for f in whole} >= {"all_stopped", "spike", "runaway"}
        for size in (1, 7, 16, 100):
            check = HealthCheck(history.names, history.numel)
            parts = [f for i in range(0, 640, size) for f in check.update(history.select(steps=slice(i, i + size)))]
            assert sorted(map(str, parts)) == sorted(map(str, whole))

    def test_the_others_stopped(self):
        rwc = noisy(400, 8)
        rwc[200:, 1:] /= 1e5
        found = [f for f in wsf.check_health(make_history(rwc)) if f.kind != "stopped"]
        assert [(f.kind, f.layer) for f in found] == [("others_stopped", make_history(rwc).names[0])]
        assert "moves as before, and the other layers stopped" in str(found[0])

    def test_rows_without_a_rate_are_not_called_slow(self):
        assert wsf.check_health(make_history(noisy(400, 8) * 1e-5)) == []
        slow = with_rates(noisy(400, 8) * 1e-5, np.full(400, 0.1))
        assert [f.kind for f in wsf.check_health(slow)] == ["slow"]

    def test_a_decaying_rate_is_not_called_slow(self):
        rate = np.linspace(1, 1e-3, 400)
        assert wsf.check_health(with_rates(noisy(400, 8) * 1e-2 * rate[:, None], rate)) == []

    def test_skipped_steps(self):
        flags = np.where(np.arange(200) < 120, SKIPPED, 0).astype(np.uint8)
        rwc = noisy(200, 8)
        rwc[:120] = 0
        (found,) = wsf.check_health(make_history(rwc, flags=flags))
        assert (found.kind, found.cause, found.step, found.value) == ("skipped", "overflow", 1, 1.0)

    def test_few_weights_of_a_filter_move(self):
        history = make_history(noisy(200, 8))
        moved = history.moved.copy()
        moved[:, 2] = 4
        delta = history.delta_l1.copy()
        found = wsf.check_health(replace(history, moved=moved, delta_l1=delta))
        assert [(f.kind, f.layer, f.cause, f.value) for f in found] == [
            ("sparse", history.names[2], "dead_weights", 0.04)
        ]

    def test_few_rows_of_an_embedding_move(self):
        history = make_history(noisy(200, 8), kinds=("embedding",) * 8)
        moved = np.full_like(history.moved, 4)
        assert wsf.check_health(replace(history, moved=moved)) == []

    def test_every_observed_cause_has_words(self):
        assert set(OBSERVED_CAUSES) <= set(CAUSES)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("cause", ["", *CAUSES])
    def test_every_finding_is_a_sentence(self, kind, cause):
        finding = Finding(kind, "fc.weight", 65, 112, 0.5, 0.001, ("a", "b"), cause)
        text = str(finding)
        assert "fc.weight" in text or kind in ("all_stopped", "skipped")
        assert text.count("because") == (cause != "")
        assert finding.is_fault == (kind not in NOTES)
        assert finding.advice == (CAUSES[cause].advice if cause else ADVICE.get(kind, ""))


class TestNoFault:
    def test_a_layer_that_is_frozen_in_mid_run_is_a_note(self):
        run = Run().steps(100)
        run.model[2].requires_grad_(False)
        (note,) = wsf.check_health(run.steps(200).monitor.history())
        assert (note.kind, note.layer, note.is_fault) == ("frozen", "2.weight", False)
        assert 96 < note.step < 100 + 32

    def test_a_layer_that_stopped_is_not_compared_with_a_network_that_stopped(self):
        found = Finding("stopped", "fc.weight", 65, 112, 1.8e-12, 1.1e-12, cause="zero_gradient")
        assert "median" not in str(found)

    def test_a_layer_that_is_used_at_one_step_in_16_is_not_stuck(self):
        """As an expert to which few inputs go."""
        rwc = noisy(400, 8)
        rwc[np.arange(400) % 16 > 0, 3] = 0
        history = with_rates(rwc, np.full(400, 1e-4), Observed("Adam", implied_step=(0.2,) * 8))
        moved = np.where(history.delta_l1 > 0, history.moved, 0)
        assert wsf.check_health(replace(history, moved=moved)) == []

    def test_steps_of_a_pruned_network_are_not_small(self):
        """Weights that are masked make no step, and the others make whole ones."""
        run = Run(torch.optim.Adam)
        masks = [(torch.arange(p.numel()) % 128 == 0).float().view_as(p) for p in run.model.parameters()]
        for parameter, mask in zip(run.model.parameters(), masks, strict=True):
            parameter.register_hook(mask.mul)
        assert "small_step" not in {kind for kind, _ in run.steps(300).found()}

    def test_a_network_that_moves_at_one_step_in_five_has_not_stopped(self):
        """As where most batches have no loss."""
        run = Run(SGD, lr=0.05)
        for step in range(200):
            run.scale = float(step % 5 == 0)
            run.steps(1)
        assert run.found() == []
