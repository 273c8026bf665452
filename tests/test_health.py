"""Health: faults that are made for real, each found with its name and about its step; and healthy runs, silent."""

import copy
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.health.check import HealthCheck
from weightscale_fast.health.finding import Finding
from weightscale_fast.health.limits import BLOCK, CONFIRM
from weightscale_fast.health.medians import median_of_others
from weightscale_fast.health.watch import HealthWatch
from weightscale_fast.record.observed import Observed
from weightscale_fast.record.ring import SHARD_ROWS
from weightscale_fast.record.rows import SKIPPED, Rows

from .histories import make_history, noisy

LATE = CONFIRM["stopped"] * BLOCK + BLOCK  # steps after which a fault must be found, if it starts within a block


def layers_at(rwc):
    """A history of `layer0.weight` and so on with this RWC [S, L]."""
    return make_history(rwc, names=[f"layer{i}.weight" for i in range(rwc.shape[1])])


class Block(nn.Module):
    """A residual block, so that one that breaks leaves the others alive."""

    def __init__(self, zero):
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        if zero:
            nn.init.zeros_(self.down.weight)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class Training:
    """A small residual network that learns to tell four clouds of points apart, recorded."""

    def __init__(
        self, optimizer="adam", lr=1e-3, *, zero=False, dtype=torch.float32, fast=None, watch=False, **options
    ):
        torch.manual_seed(0)
        blocks = {f"block{i}": Block(zero) for i in range(4)}
        self.model = nn.Sequential()
        for name, module in {"stem": nn.Linear(8, 16), **blocks, "head": nn.Linear(16, 4)}.items():
            self.model.add_module(name, module)
        self.model.to(dtype)
        groups = [{"params": [p], "name": name} for name, p in self.model.named_parameters()]
        create = {"adam": torch.optim.Adam, "sgd": lambda *a, **k: torch.optim.SGD(*a, momentum=0.9, **k)}[optimizer]
        self.optimizer = create(groups, lr=lr)
        self.found = []
        self.monitor = wsf.RWCMonitor(
            self.model, self.optimizer, on_finding=self.found.append if watch else None, **options
        )
        generator = torch.Generator().manual_seed(7)
        self.centres = torch.randn(4, 8, generator=generator).to(dtype)
        self.dtype, self.generator = dtype, generator

    def raise_lr(self, name, factor):
        for group in self.optimizer.param_groups:
            if group["name"] == name:
                group["lr"] *= factor

    def steps(self, count, schedule=None, scale=None):
        base = [group["lr"] for group in self.optimizer.param_groups]
        for step in range(count):
            labels = torch.randint(4, (32,), generator=self.generator)
            noise = torch.randn(32, 8, generator=self.generator).to(self.dtype)
            for group, lr in zip(self.optimizer.param_groups, base, strict=True):
                group["lr"] = lr * (1 if schedule is None else schedule(step))
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(self.centres[labels] + noise).float(), labels)
            (loss * (1 if scale is None else scale(step))).backward()
            self.optimizer.step()
        return self

    def findings(self):
        return wsf.check_health(self.monitor.history())


def warmup_and_cosine(step, steps=400):
    return min(1, (step + 1) / 50) * (1 + math.cos(math.pi * step / steps)) / 2


class TestFaults:
    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_a_dead_relu_stops_both_its_layers(self, optimizer):
        run = Training(optimizer, lr=1e-3 if optimizer == "adam" else 0.02).steps(200)
        nn.init.constant_(run.model.block2.up.bias, -1e3)
        found = run.steps(300).findings()
        assert [(finding.kind, finding.layer) for finding in found] == [
            ("stopped", "block2.up.weight"),
            ("stopped", "block2.down.weight"),
        ]
        assert all(200 < finding.step <= finding.last <= 500 for finding in found)
        assert all(finding.value < finding.median / 100 for finding in found)

    @pytest.mark.parametrize("factor", [30, 100, 300])
    def test_a_learning_rate_that_is_raised_later(self, factor):
        run = Training().steps(160)
        run.raise_lr("block1.down.weight", factor)
        (finding,) = run.steps(320).findings()
        assert (finding.kind, finding.layer) == ("runaway", "block1.down.weight")
        assert finding.cause == "group_rate"
        assert 160 < finding.step < 160 + 4 * BLOCK
        assert finding.value > 10 * finding.median

    def test_bfloat16_weights_after_a_drop_of_the_learning_rate(self):
        run = Training(dtype=torch.bfloat16).steps(128)
        found = run.steps(128, schedule=lambda _: 1e-5).findings()
        assert {finding.kind for finding in found} == {"stuck"}
        layers = {name for finding in found for name in (finding.layer, *finding.others)}
        assert layers == set(run.monitor.history().names)
        assert all(128 < finding.step <= finding.last <= 128 + LATE for finding in found)
        assert all(finding.value < 1e-3 for finding in found)

    def test_a_frozen_layer_is_a_note_and_not_stopped(self):
        run = Training()
        run.model.block0.up.requires_grad_(False)
        (finding,) = run.steps(300).findings()
        assert (finding.kind, finding.layer, finding.step, finding.value) == ("frozen", "block0.up.weight", 1, 0)

    def test_a_layer_frozen_later_is_a_note_too(self):
        run = Training().steps(160)
        run.model.block0.up.requires_grad_(False)
        (finding,) = run.steps(160).findings()
        assert (finding.kind, finding.layer, finding.step) == ("frozen", "block0.up.weight", 161)

    def test_divergence_is_one_finding(self):
        run = Training("sgd", lr=0.02).steps(100)
        for group in run.optimizer.param_groups:
            group["lr"] = 1e6
        broken = [finding for finding in run.steps(30).findings() if finding.kind == "not_finite"]
        history = run.monitor.history()
        first = history.steps[~np.isfinite(history.delta_l1).all(axis=1)][0]
        assert [finding.step for finding in broken] == [first]
        assert 100 < first < 130
        assert {broken[0].layer, *broken[0].others} == set(history.names)

    def test_nan_in_one_layer(self):
        run = Training().steps(20)
        run.model.head.weight.register_hook(lambda gradient: gradient * torch.nan)
        run.steps(2)
        first = run.findings()[0]
        assert (first.kind, first.layer, first.step) == ("not_finite", "head.weight", 21)


class TestHealthy:
    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    @pytest.mark.parametrize("zero", [False, True], ids=["", "zero_init"])
    def test_warm_up_and_a_cosine_to_zero(self, optimizer, zero):
        run = Training(optimizer, lr=3e-3 if optimizer == "adam" else 0.05, zero=zero)
        assert run.steps(400, schedule=warmup_and_cosine).findings() == []

    def test_a_drop_of_the_learning_rate(self):
        assert Training().steps(128).steps(128, schedule=lambda _: 1e-3).findings() == []

    def test_spikes_of_the_gradient(self):
        run = Training("sgd", lr=0.002).steps(320, scale=lambda step: 40 if step % 40 == 39 else 1)
        spikes = run.monitor.history().rwc
        assert spikes.max() > 20 * np.median(spikes)
        assert run.findings() == []

    def test_bfloat16_weights_that_learn(self):
        assert Training(dtype=torch.bfloat16).steps(300).findings() == []

    def test_a_long_horizon(self):
        assert Training(every=20).steps(400).findings() == []


def test_a_path_and_a_monitor_are_checked_too(tmp_path):
    rwc = noisy(200, 6)
    rwc[50:, 2] = 0
    layers_at(rwc).save(tmp_path / "run")
    assert [finding.layer for finding in wsf.check_health(tmp_path / "run")] == ["layer2.weight"]
    monitor = wsf.RWCMonitor(nn.Linear(2, 2))
    for _ in range(5 * BLOCK):
        monitor.record()
    assert [finding.kind for finding in wsf.check_health(monitor)] == ["still"]
    with pytest.raises(TypeError, match="must be an RWCHistory, the path of a run folder or an RWCM"):
        wsf.check_health(rwc)


def test_the_monitor_says_it_as_training_goes_on():
    run = Training(watch=True).steps(100)
    run.model.block0.up.requires_grad_(False)
    run.steps(SHARD_ROWS - 101)
    assert run.found == []
    run.steps(1)
    assert [(finding.kind, finding.layer) for finding in run.found] == [("frozen", "block0.up.weight")]
    run.steps(2 * SHARD_ROWS)
    run.monitor.close()
    assert run.found == run.findings()


def test_a_callback_that_raises_leaves_the_record_whole(tmp_path):
    def stop(finding):
        raise RuntimeError(str(finding))

    run = Training(run_dir=tmp_path / "run", watch=True)
    run.monitor._health._on_finding = stop
    run.model.block0.up.requires_grad_(False)
    with pytest.raises(RuntimeError, match="block0.up.weight frozen"), run.monitor:
        run.steps(1000)
    assert run.monitor.step == SHARD_ROWS
    assert len(wsf.RWCHistory.load(tmp_path / "run")) == SHARD_ROWS


def test_nothing_of_what_was_undone_is_remembered():
    run = Training(watch=True).steps(40)
    weights, state = copy.deepcopy(run.model.state_dict()), run.monitor.state_dict()
    run.model.block0.up.requires_grad_(False)
    run.steps(60)
    run.model.load_state_dict(weights)
    run.monitor.load_state_dict(state)
    run.model.block0.up.requires_grad_(True)
    run.steps(100)
    run.monitor.close()
    assert [finding for finding in run.found if finding.step > 40] == []


class TestSummary:
    def test_of_a_run_with_a_folder(self, tmp_path):
        run = Training(run_dir=tmp_path / "run")
        run.model.block0.up.requires_grad_(False)
        summary = run.steps(300).monitor.summary()
        assert len(list((tmp_path / "run" / "rwc").iterdir())) == 1  # the shard of the first 256 rows
        history = run.monitor.history()
        levels = np.median(history.rwc, axis=0)
        assert (summary.first, summary.last, summary.rows, summary.layers) == (1, 300, 300, 10)
        assert summary.median == np.median(levels[levels > 0])  # without the layer that is still
        assert [name for name, _ in summary.levels] == [history.names[i] for i in np.argsort(-levels, kind="stable")]
        assert summary.findings == tuple(wsf.check_health(history))
        text = str(summary)
        assert text.startswith("steps 1 to 300 (300 rows): 10 layers, 4,288 weights, ")
        assert "! block0.up.weight frozen: not one weight moved over steps 1 to 64, because requires_grad is" in text
        assert len(text.splitlines()) == 2 + 7 + 1

    def test_of_nothing(self):
        with pytest.raises(ValueError, match="there is no row to sum up"):
            Training().monitor.summary()

    def test_of_a_network_that_diverged(self):
        history = layers_at(np.full((20, 3), np.nan))
        summary = wsf.RunSummary.of(history)
        assert np.isnan(summary.median)
        assert summary.levels == ()
        assert "! layer0.weight and 2 more layers not finite" in str(summary)


class TestRowsOfSeveralThreads:
    """A thread that flushes may bring its rows later than the next thread, or while that one's are checked."""

    def parts(self):
        values = noisy(400, 12)
        values[100:, 3] /= 1e4
        history = layers_at(values)
        columns = history.steps, history.delta_l1, history.prev_l1, history.moved, None
        whole = Rows(*columns)
        parts = [whole.where((history.steps > start) & (history.steps <= start + 100)) for start in range(0, 400, 100)]
        meta = {"names": history.names, "numel": history.numel, "every": 1, "dtypes": [], "kinds": []}
        heard = []
        return HealthWatch(meta, heard.append), heard, parts, wsf.check_health(history)

    def test_rows_that_are_late_are_left_out(self):
        watch, heard, parts, expected = self.parts()
        for part in [parts[0], parts[1], parts[0], parts[2], parts[1], parts[3]]:
            watch.take(part, Observed())
        watch.tell()
        assert heard == expected
        assert [finding.layer for finding in heard] == ["layer3.weight"]

    def test_rows_that_come_during_a_check_are_checked_after_it(self):
        watch, heard, parts, expected = self.parts()
        update = watch._check.update

        def interrupted(rows, observed):
            if rows is parts[0]:  # a signal handler that flushes; the later rows come first
                for part in (parts[2], parts[1]):
                    watch.take(part, Observed())
            return update(rows, observed)

        watch._check.update = interrupted
        watch.take(parts[0], Observed())
        watch.take(parts[3], Observed())
        watch.tell()
        assert heard == expected


class TestCheck:
    @pytest.fixture
    def history(self):
        """One layer of twelve stops for a while, another runs away, twice."""
        values = noisy(600, 12)
        values[100:220, 5] *= 1e3
        values[300:400, 3] /= 1e4
        values[440:, 5] *= 1e3
        return layers_at(values)

    def test_says_a_thing_again_after_it_got_better(self, history):
        found = [(finding.kind, finding.layer, finding.step) for finding in wsf.check_health(history)]
        assert found == [
            ("runaway", "layer5.weight", 97),
            ("stopped", "layer3.weight", 305),
            ("runaway", "layer5.weight", 433),
        ]

    @pytest.mark.parametrize("size", [1, 7, 16, 100, 256])
    def test_in_parts_it_is_the_same(self, history, size):
        check = HealthCheck(history.names, history.numel)
        parts = [history.select(steps=slice(start, start + size)) for start in range(0, len(history), size)]
        assert [finding for part in parts for finding in check.update(part)] == wsf.check_health(history)

    def test_hovering_at_a_limit_is_said_once(self):
        values = np.full((960, 8), 1e-3)
        values[:, 2] *= np.where(np.arange(960) // 128 % 2, 23, 27)
        assert len(wsf.check_health(layers_at(values))) == 1

    def test_a_layer_that_always_was_faster(self):
        values = np.full((256, 8), 1e-3)
        values[:, 7] *= 15
        assert wsf.check_health(layers_at(values)) == []
        values[:64, 7] /= 10
        (finding,) = wsf.check_health(layers_at(values))
        assert (finding.kind, finding.step) == ("runaway", 65)

    def test_a_layer_that_always_was_slower(self):
        values = np.full((256, 8), 1e-3)
        values[:, 7] /= 200
        assert wsf.check_health(layers_at(values)) == []
        values[:64, 7] *= 30
        (finding,) = wsf.check_health(layers_at(values))
        assert (finding.kind, finding.step) == ("stopped", 65)

    def test_many_layers_at_once_are_one_finding(self):
        values = np.full((128, 20), 1e-3)
        values[64:, 12:] = 1e-9
        (finding,) = wsf.check_health(layers_at(values))
        assert finding.layer == "layer12.weight"
        assert finding.others == tuple(f"layer{i}.weight" for i in range(13, 20))
        assert str(finding).startswith("layer12.weight and 7 more layers stopped")

    @pytest.mark.parametrize(("count", "findings"), [(1, 1), (3, 3), (4, 1), (5, 1)])
    def test_up_to_three_layers_have_a_finding_each(self, count, findings):
        values = np.full((128, 20), 1e-3)
        values[64:, :count] = 1e-9
        found = wsf.check_health(layers_at(values))
        assert len(found) == findings
        assert sum(1 + len(finding.others) for finding in found) == count

    @pytest.mark.parametrize("kind", ["runaway", "stopped", "stuck", "still"])
    def test_what_does_not_last_is_no_finding(self, kind):
        """A layer is named at the end of the block that confirms it, and not before."""
        blocks = {"runaway": 6, "stopped": 3, "stuck": 3, "still": 4}[kind]
        for bad in (blocks - 1, blocks):
            begin = 0 if kind == "still" else 4 * BLOCK
            values, moved = np.full((16 * BLOCK, 8), 1e-3), np.full((16 * BLOCK, 8), 10_000)
            rows = slice(begin, begin + bad * BLOCK)
            if kind == "stuck":
                moved[rows, 2] = 5
            else:
                values[rows, 2] *= {"runaway": 1e3, "stopped": 1e-6, "still": 0}[kind]
                moved[values == 0] = 0
            names = [f"layer{i}" for i in range(8)]
            history = make_history(
                values, names, moved=moved, numel=np.full(8, 10_000), dtypes=("bfloat16",) * 8
            ).select(steps=slice(0, begin + bad * BLOCK))
            found = [(finding.kind, finding.step, finding.last) for finding in wsf.check_health(history)]
            assert found == ([(kind, begin + 1, begin + bad * BLOCK)] if bad == blocks else [])

    def test_stuck_is_the_better_name_for_a_layer_that_stopped(self):
        values, moved = np.full((256, 8), 1e-3), np.full((256, 8), 10_000)
        values[64:, 2], moved[64:, 2] = 1e-8, 5
        names = [f"layer{i}" for i in range(8)]
        history = make_history(values, names, moved=moved, numel=np.full(8, 10_000), dtypes=("bfloat16",) * 8)
        assert [(finding.kind, finding.layer) for finding in wsf.check_health(history)] == [("stuck", "layer2")]

    @pytest.mark.parametrize(("every", "rows"), [(1, 16), (2, 8), (4, 4), (100, 4)])
    def test_a_block_has_four_rows_at_least(self, every, rows):
        """So that one row in a block is never its median."""
        steps = every * np.arange(1, 20 * rows + 1)
        values = np.full((20 * rows, 8), 1e-3)
        values[:, 2] = 0
        (finding,) = wsf.check_health(make_history(values, steps=steps, every=every))
        assert (finding.kind, finding.last) == ("still", 4 * rows * every)

    def test_weights_that_began_at_zero(self):
        values = np.full((400, 20), 5e-4)
        values[:, 2] = 1 / (1 + np.arange(400.0))
        assert wsf.check_health(layers_at(values)) == []

    def test_a_layer_alone_is_compared_with_nothing(self):
        assert wsf.check_health(layers_at(noisy(200, 1))) == []

    def test_two_layers(self):
        values = np.full((256, 2), 1e-3)
        values[64:, 1] *= 100
        (finding,) = wsf.check_health(layers_at(values))
        assert (finding.kind, finding.layer) == ("runaway", "layer1.weight")

    def test_of_no_rows(self, history):
        assert wsf.check_health(history.select(steps=slice(0, 0))) == []

    def test_median_of_others(self):
        generator = np.random.default_rng(0)
        for L in (1, 2, 3, 4, 9, 10):
            levels = generator.random((5, L))
            levels[generator.random((5, L)) < 0.3] = 0
            levels[0, 0] = np.nan
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # of nothing
                expected = [
                    [np.median([v for j, v in enumerate(row) if j != i and v > 0]) for i in range(L)] for row in levels
                ]
            np.testing.assert_allclose(median_of_others(levels), expected)

    def test_a_finding_does_not_need_dtypes(self, history):
        assert wsf.check_health(replace(history, dtypes=("float32",) * 12)) == wsf.check_health(history)


def test_a_finding_is_not_lost_when_the_one_before_it_raises():
    heard = []

    def raise_at_first(finding):
        heard.append(finding.layer)
        if len(heard) == 1:
            raise RuntimeError("the first")

    watch = HealthWatch({"names": ["a", "b"], "numel": [4, 4], "every": 1, "dtypes": [], "kinds": []}, raise_at_first)
    watch._found = [Finding("still", name, 1, 2, 0.0) for name in ("a", "b")]
    with pytest.raises(RuntimeError, match="the first"):
        watch.tell()
    watch.tell()
    assert heard == ["a", "b"]


class TestNotFinite:
    @pytest.mark.parametrize("onset", [50, 80, 84, 85, 90, 99])
    def test_healthy_layers_are_not_named(self, onset):
        values = np.full((100, 6), 1e-3)
        values[onset:, 2] = np.nan
        (finding,) = wsf.check_health(layers_at(values))
        assert (finding.kind, finding.layer, finding.step, finding.others) == (
            "not_finite",
            "layer2.weight",
            onset + 1,
            (),
        )

    @pytest.mark.parametrize("size", [400, 256, 7])
    def test_broken_well_and_broken_again(self, size):
        values = np.full((400, 6), 1e-3)
        values[50:60, 1] = values[300:, 1] = np.nan
        values[303:, 2] = np.nan
        history = layers_at(values)
        check = HealthCheck(history.names, history.numel)
        parts = [history.select(steps=slice(start, start + size)) for start in range(0, len(history), size)]
        found = [finding for part in parts for finding in check.update(part)]
        assert [finding.step for finding in found if finding.layer == "layer1.weight"] == [51, 301]
        assert {name for finding in found for name in (finding.layer, *finding.others)} == {
            "layer1.weight",
            "layer2.weight",
        }

    @pytest.mark.parametrize(("later", "findings"), [(0, 1), (1, 1), (15, 1), (16, 2), (40, 2)])
    def test_layers_that_break_within_a_block_are_one_finding(self, later, findings):
        """NaN spreads in a step or two, to the layers behind the one that broke and to those before it."""
        values = np.full((200, 6), 1e-3)
        values[100:, 3] = values[100 + later :, 1] = np.nan
        found = wsf.check_health(layers_at(values))
        assert len(found) == findings
        assert found[0].step == 101
        assert {name for f in found for name in (f.layer, *f.others)} == {"layer1.weight", "layer3.weight"}

    def test_nan_now_and_then_is_said_once(self):
        values = np.full((200, 6), 1e-3)
        values[20::3, 1] = np.nan
        assert [finding.step for finding in wsf.check_health(layers_at(values))] == [21]


class TestSmallNetworks:
    @pytest.mark.parametrize("L", [2, 3, 4, 5])
    @pytest.mark.parametrize("factor", [1e-6, 0.0, 1e3])
    @pytest.mark.parametrize("seed", range(20))
    def test_the_layer_that_changed_is_named_and_no_other(self, L, factor, seed):
        generator = np.random.default_rng(seed)
        level = np.exp(generator.normal(-7, 0.5, L))
        values = level * np.exp(generator.normal(0, 0.3, (512, L)))
        guilty = int(generator.integers(L))
        values[200:, guilty] *= factor
        named = {name for f in wsf.check_health(layers_at(values)) for name in (f.layer, *f.others)}
        assert named <= {f"layer{guilty}.weight"}
        if L > 2 or factor:  # of two layers, one that moves not at all leaves the other alone
            assert named

    def test_a_schedule_changes_all_alike(self):
        values = np.full((1024, 3), 1e-3) * [[1, 3, 0.5]] * np.linspace(1, 1e-6, 1024)[:, None]
        assert wsf.check_health(layers_at(values)) == []


class TestNotAtEveryStep:
    @pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
    def test_a_layer_that_moves_at_some_steps_has_not_stopped(self, share):
        """The generator of a WGAN, and the experts of a mixture."""
        values = noisy(1000, 12)
        period = round(1 / share)
        for layer in range(4):
            values[np.arange(1000) % period != layer % period, layer] = 0
        assert wsf.check_health(layers_at(values)) == []

    def test_a_layer_that_moves_late_is_not_still_in_the_whole_record(self):
        values = noisy(400, 6)
        values[:100] = 0
        values[:, 3] = 0
        (finding,) = wsf.check_health(layers_at(values))
        assert (finding.kind, finding.layer, finding.others) == ("still", "layer3.weight", ())


@pytest.mark.parametrize("every", [1, 4])
def test_steps_that_a_scaler_skipped_are_no_fault_of_the_layers(every):
    """That is a finding of its own. A row of several steps counts if one of them moved a weight."""
    rwc = np.full((256, 5), 0.01)
    rwc[:100] = 0
    steps = every * np.arange(1, 257)
    flags = np.where(np.arange(256) < 100, SKIPPED, 0).astype(np.uint8)
    for marked, kinds in ((np.zeros_like(flags), ["still"]), (flags, ["skipped"])):
        history = make_history(rwc, steps=steps, every=every, flags=marked)
        check = HealthCheck(history.names, history.numel, every=every)
        assert [finding.kind for finding in check.update(history)] == kinds
    rwc[:100, 1:] = 0.01  # in the same row other steps moved all layers but one
    still = HealthCheck(history.names, history.numel, every=every)
    found = still.update(make_history(rwc[:100], steps=steps[:100], every=every, flags=flags[:100]))
    assert [(finding.kind, finding.layer) for finding in found] == [("still", history.names[0])]
