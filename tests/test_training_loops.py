"""RWCMonitor in common training loops: scalers, closures, several optimizers, compilers, adapters.

Each test trains a real model. The expected rows are computed from copies of the weights.
"""

import copy
import gc
import warnings

import numpy as np
import pytest
import torch
import torch.nn.utils.prune as prune
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.record.ring import SHARD_ROWS
from weightscale_fast.record.rows import RESUMED, SKIPPED

from .oracle import oracle_sums

DATA = torch.randn(32, 4, generator=torch.Generator().manual_seed(7))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def backward(model, factor=1.0):
    loss = model(DATA).square().mean() * factor
    loss.backward()
    return loss


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        backward(model)
        optimizer.step()


class ByHand:
    """The expected rows: the sums of every layer between two calls, from clones of the weights."""

    def __init__(self, model):
        self.model = model
        self.rows = []
        self.clone()

    def clone(self):
        self.weights = {name: p.detach().clone() for name, p in self.model.named_parameters() if p.dim() > 1}

    def row(self):
        current = dict(self.model.named_parameters())
        self.rows.append(torch.stack([oracle_sums(current[name], old)[:3] for name, old in self.weights.items()]))
        self.clone()

    def check(self, history):
        assert history.steps.tolist() == list(range(1, len(self.rows) + 1))
        recorded = np.stack([history.delta_l1, history.prev_l1, history.moved], axis=2)
        np.testing.assert_allclose(recorded, torch.stack(self.rows), rtol=1e-6)


class TestGradientScaler:
    def run(self, optimizer, model, infinite, **arguments):
        monitor = wsf.RWCMonitor(model, optimizer, **arguments)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for step in range(6):
            optimizer.zero_grad()
            scaler.scale(model(DATA).square().mean() * (float("inf") if step in infinite else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
        return monitor

    def test_an_unfused_optimizer_makes_no_row_for_a_skipped_step(self):
        model = network()
        history = self.run(torch.optim.Adam(model.parameters()), model, {2, 3}).history()
        assert history.steps.tolist() == [1, 2, 3, 4]
        assert (history.rwc > 0).all()
        assert not history.flags.any()

    def test_a_fused_optimizer_makes_a_flagged_row_for_a_skipped_step(self, tmp_path):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        with self.run(optimizer, model, {2, 5}, run_dir=tmp_path / "run") as monitor:
            history = monitor.history()
        assert history.flags.tolist() == [0, 0, SKIPPED, 0, 0, SKIPPED]
        assert history.skipped.tolist() == [False, False, True, False, False, True]
        assert (history.rwc[history.skipped] == 0).all()
        kept = history.select(steps=~history.skipped)
        assert kept.steps.tolist() == [1, 2, 4, 5]
        assert (kept.rwc > 0).all()
        assert wsf.RWCHistory.load(tmp_path / "run").flags.tolist() == history.flags.tolist()

    def test_fused_and_unfused_record_the_same(self):
        rows = []
        for fused in (True, False):
            model = network()
            history = self.run(torch.optim.Adam(model.parameters(), fused=fused), model, {1}).history()
            rows.append(history.select(steps=~history.skipped).rwc)
        np.testing.assert_allclose(*rows, rtol=1e-4)

    def test_a_row_of_several_steps_is_flagged_if_one_was_skipped(self):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        history = self.run(optimizer, model, {2}, every=2).history()
        assert history.flags.tolist() == [0, SKIPPED, 0]
        assert (history.rwc > 0).all()

    def test_flags_in_a_full_ring(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, fused=True)
        monitor = wsf.RWCMonitor(model, optimizer)
        backward(model)
        expected = np.arange(3 * SHARD_ROWS) % 7 == 3
        for infinite in expected:  # GradScaler does this for a fused optimizer
            optimizer.found_inf = torch.tensor(float(infinite))
            optimizer.step()
            del optimizer.found_inf
        assert np.array_equal(monitor.history().skipped, expected)

    def test_the_host_does_not_wait_for_the_device(self, monkeypatch):
        def item(*_):
            raise AssertionError("the host waits for the device")

        model = network()
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        monitor = wsf.RWCMonitor(model, optimizer)
        backward(model)
        optimizer.grad_scale, optimizer.found_inf = torch.tensor(1.0), torch.tensor(1.0)
        with monkeypatch.context() as patch:
            for name in ("item", "__bool__", "__float__", "tolist"):
                patch.setattr(torch.Tensor, name, item)
            optimizer.step()
        assert monitor.history().flags.tolist() == [SKIPPED]


class TestFirstRowAfterAResume:
    def test_from_a_checkpoint(self, tmp_path):
        model = network()
        optimizer = torch.optim.Adam(model.parameters())
        monitor = wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run")
        train(model, optimizer, 3)
        state, weights = monitor.state_dict(), copy.deepcopy(model.state_dict())
        train(model, optimizer, 2)
        monitor.close()
        model.load_state_dict(weights)
        with wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run", resume=True) as monitor:
            monitor.load_state_dict(state)
            train(model, optimizer, 2)
        assert wsf.RWCHistory.load(tmp_path / "run").flags.tolist() == [0, 0, 0, RESUMED, 0]

    def test_in_memory_and_after_the_last_row_of_a_folder(self, tmp_path):
        model = network()
        with wsf.RWCMonitor(model, run_dir=tmp_path / "run", resume=True) as monitor:
            monitor.record()
        with wsf.RWCMonitor(model, run_dir=tmp_path / "run", resume=True) as monitor:
            monitor.record()
            monitor.record()
        in_memory = wsf.RWCMonitor(model)
        in_memory.load_state_dict(wsf.RWCMonitor(model).state_dict())
        in_memory.record()
        in_memory.load_state_dict(in_memory.state_dict())
        in_memory.record()
        assert wsf.RWCHistory.load(tmp_path / "run").flags.tolist() == [0, RESUMED, 0]
        assert in_memory.history().flags.tolist() == [0, RESUMED]


class TestSeveralOptimizers:
    def test_one_record_after_both(self):
        model = network()
        optimizers = [torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.Adam(model[2].parameters())]
        monitor, by_hand = wsf.RWCMonitor(model), ByHand(model)
        for _ in range(3):
            model.zero_grad()
            backward(model)
            for optimizer in optimizers:
                optimizer.step()
            monitor.record()
            by_hand.row()
        by_hand.check(monitor.history())

    def test_a_monitor_for_each(self):
        model = network()
        slow, fast = torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.Adam(model[2].parameters())
        monitors = [wsf.RWCMonitor(model, slow, layers="^0.weight"), wsf.RWCMonitor(model, fast, layers="^2.weight")]
        for step in range(4):
            model.zero_grad()
            backward(model)
            fast.step()
            if step % 2:
                slow.step()
        histories = [monitor.history() for monitor in monitors]
        assert [(history.names, len(history)) for history in histories] == [(("0.weight",), 2), (("2.weight",), 4)]
        assert all((history.rwc > 0).all() for history in histories)


def test_lbfgs_makes_one_row_per_step_for_any_number_of_closure_calls():
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=5)
    monitor, by_hand = wsf.RWCMonitor(model, optimizer), ByHand(model)
    calls = []

    def closure():
        optimizer.zero_grad()
        calls.append(1)
        return backward(model)

    for _ in range(3):
        optimizer.step(closure)
        by_hand.row()
    by_hand.check(monitor.history())
    assert len(calls) > 3


def test_an_optimizer_in_backward_with_record():
    """Each parameter has its own optimizer. It steps when the gradient is ready, and then frees the gradient."""
    model = network()
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

    def step(parameter):
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    monitor, by_hand = wsf.RWCMonitor(model), ByHand(model)
    for _ in range(3):
        backward(model)
        monitor.record()
        by_hand.row()
    by_hand.check(monitor.history())


class TestCompile:
    """Inductor compiles the code for this machine. A graph ends before each record."""

    @pytest.fixture(autouse=True)
    def garbage_of_other_tests(self):
        """Collect what earlier tests left, such as unclosed sockets in a cycle of references.

        The first compilation imports and allocates so much that Python's collector goes through all old objects. It
        would find that garbage here, and its warnings, which are errors in our tests, would fail a test of this class.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gc.collect()

    def check(self, prepare):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model, step = prepare(model, optimizer)
        monitor = wsf.RWCMonitor(model, optimizer)
        by_hand = ByHand(getattr(model, "_orig_mod", model))
        for _ in range(3):
            step()
            by_hand.row()
        with torch.compiler.set_stance("fail_on_recompile"):
            for _ in range(3):
                step()
                by_hand.row()
        by_hand.check(monitor.history())

    def test_of_the_model(self):
        def prepare(model, optimizer):
            compiled = torch.compile(model)
            return compiled, lambda: train(compiled, optimizer, 1)

        self.check(prepare)

    def test_of_the_optimizer_step(self):
        def prepare(model, optimizer):
            compiled = torch.compile(lambda: optimizer.step())

            def step():
                optimizer.zero_grad()
                backward(model)
                compiled()

            return model, step

        self.check(prepare)

    def test_of_the_whole_step(self):
        def prepare(model, optimizer):
            @torch.compile
            def step():
                optimizer.zero_grad()
                model(DATA).square().mean().backward()
                optimizer.step()

            return model, step

        self.check(prepare)


class TestSwappedWeights:
    """Weights that are swapped for an evaluation and swapped back do not change the record."""

    @pytest.mark.parametrize("how", ["copy", "data", "load_state_dict"])
    def test_averages_for_an_evaluation(self, how):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        average = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
        )
        monitor, by_hand = wsf.RWCMonitor(model, optimizer), ByHand(model)
        for _ in range(4):
            train(model, optimizer, 1)
            by_hand.row()
            average.update_parameters(model)
            self.swap(model, average.module, how)
            model(DATA)
            self.swap(model, average.module, how)
        by_hand.check(monitor.history())

    def swap(self, model, other, how):
        if how == "load_state_dict":
            mine = copy.deepcopy(model.state_dict())
            model.load_state_dict(other.state_dict())
            other.load_state_dict(mine)
            return
        with torch.no_grad():
            for a, b in zip(model.parameters(), other.parameters(), strict=True):
                if how == "data":
                    a.data, b.data = b.data, a.data
                else:
                    kept = a.clone()
                    a.copy_(b)
                    b.copy_(kept)

    def test_averages_that_stay_count_as_movement(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        average = torch.optim.swa_utils.AveragedModel(model)
        monitor, by_hand = wsf.RWCMonitor(model, optimizer), ByHand(model)
        for _ in range(3):
            train(model, optimizer, 1)
            by_hand.row()
            average.update_parameters(model)
        model.load_state_dict(average.module.state_dict())
        train(model, optimizer, 1)
        by_hand.row()
        by_hand.check(monitor.history())


class TestLoadStateDict:
    def test_in_place(self):
        model, other = network(), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor, by_hand = wsf.RWCMonitor(model, optimizer), ByHand(model)
        for step in range(4):
            train(model, optimizer, 1)
            by_hand.row()
            if step == 1:
                model.load_state_dict(other.state_dict())
        by_hand.check(monitor.history())

    def test_with_assign_the_record_follows_the_new_parameters(self):
        model = network()
        monitor, by_hand = wsf.RWCMonitor(model), ByHand(model)
        for _ in range(3):
            model.load_state_dict({k: v + 0.1 for k, v in model.state_dict().items()}, assign=True)
            train(model, torch.optim.SGD(model.parameters(), lr=0.1), 1)
            monitor.record()
            by_hand.row()
        by_hand.check(monitor.history())

    def test_with_assign_an_optimizer_of_the_old_parameters_is_reported(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = wsf.RWCMonitor(model, optimizer)
        train(model, optimizer, 1)
        model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
        with pytest.warns(UserWarning, match="no parameter of the SGD that this monitor watches is in the model"):
            optimizer.step()
        optimizer.step()  # no second warning
        assert len(monitor.history()) == 3


class TestFrozenWeights:
    def test_freezing_and_unfreezing(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor, by_hand = wsf.RWCMonitor(model, optimizer), ByHand(model)
        for step in range(9):
            model[0].requires_grad_(step // 3 != 1)
            train(model, optimizer, 1)
            by_hand.row()
        history = monitor.history()
        by_hand.check(history)
        assert (history.rwc[:, 0] == 0).tolist() == [False] * 3 + [True] * 3 + [False] * 3

    def test_a_frozen_layer_that_moves_is_reported_once(self):
        """A common mistake: the gradients are zeroed but kept, so AdamW's weight decay changes the frozen layer."""
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        monitor = wsf.RWCMonitor(model, optimizer)
        for step in range(5):
            if step == 2:
                model[0].weight.requires_grad_(False)
            optimizer.zero_grad(set_to_none=False)
            backward(model)
            optimizer.step()
        with pytest.warns(UserWarning, match=r"'0.weight' at step 4 moved while frozen \(requires_grad=False\)"):
            history = monitor.history()
        assert (history.rwc[:, 0] > 0).all()
        optimizer.step()
        monitor.close()

    def test_a_layer_that_is_frozen_from_the_start(self):
        model = network().requires_grad_(False)
        monitor = wsf.RWCMonitor(model)
        monitor.record()
        model[2].weight.data.mul_(2)
        monitor.record()
        with pytest.warns(UserWarning, match=r"^'2.weight' at step 2 moved while frozen"):
            monitor.close()

    def test_a_frozen_layer_in_a_large_model(self):
        """Each row looks at only 64 layers. Layers that move between two looks are found all the same."""
        model = nn.ParameterList([nn.Parameter(torch.ones(1, 2)) for _ in range(300)])
        monitor = wsf.RWCMonitor(model)
        for step in range(30):
            if step == 2:
                model[250].requires_grad_(False)
                model[10].requires_grad_(False)
            if step == 20:
                model[10].requires_grad_(True)
            with torch.no_grad():
                for parameter in list(model)[9:12] + [model[250]]:
                    parameter.add_(1)
            monitor.record()
        with pytest.warns(UserWarning, match=r"^'10' at step 7, '250' at step 5 moved while frozen"):
            monitor.flush()

    def test_alternating_training_gives_no_warning(self):
        """A layer is frozen only while another one trains, like a critic. At each record it is not frozen."""
        model = network()
        monitor = wsf.RWCMonitor(model)
        for _ in range(3):
            model[0].requires_grad_(False)
            train(model, torch.optim.SGD(model[2].parameters(), lr=0.1), 1)
            model[0].requires_grad_(True)
            train(model, torch.optim.SGD(model[0].parameters(), lr=0.1), 1)
            monitor.record()
        assert (monitor.history().rwc > 0).all()

    @pytest.mark.parametrize("freeze", ["after the step", "before the step"])
    @pytest.mark.parametrize("zero", [None, True, False])
    def test_a_part_that_is_frozen_at_every_record(self, freeze, zero):
        """The discriminator of pix2pix: it is frozen while the generator trains, and so at the end of each row."""
        model = network()
        parts = [torch.optim.Adam(part.parameters(), lr=0.1) for part in (model[0], model[2])]
        monitor = wsf.RWCMonitor(model)
        for _ in range(12):
            model[0].requires_grad_(True)
            model.zero_grad()
            backward(model)
            if freeze == "before the step":
                model[0].requires_grad_(False)
            parts[0].step()
            if zero is not None:
                parts[0].zero_grad(set_to_none=zero)
            model[0].requires_grad_(False)
            backward(model)
            parts[1].step()
            monitor.record()
            if zero is True:
                monitor.flush()
        assert (monitor.history().rwc > 0).all()
        monitor.close()

    def test_parts_that_train_by_turns_in_a_large_model(self):
        """A look at 64 of the layers at each row finds each of them frozen at every look."""
        model = nn.ModuleList([nn.Linear(2, 2) for _ in range(80)])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = wsf.RWCMonitor(model, optimizer)
        for step in range(40):
            for i, layer in enumerate(model):
                layer.requires_grad_((i < 70) == (step % 2 == 0))
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
            optimizer.step()
        assert (monitor.history().rwc.max(axis=0) > 0).all()
        monitor.close()

    def test_a_frozen_layer_that_begins_to_move_late(self):
        """The first movement is outside of the close looks, so it only leads to another one."""
        model = network()
        model[0].requires_grad_(False)
        monitor = wsf.RWCMonitor(model)
        for step in range(30):
            train(model, torch.optim.SGD(model[2].parameters(), lr=0.1), 1)
            if step >= 20:
                model[0].weight.data.mul_(0.9)
            monitor.record()
            if step == 24:
                monitor.flush()
        with pytest.warns(UserWarning, match="'0.weight' at step 27 moved while frozen"):
            monitor.close()


def prune_first(model):
    prune.l1_unstructured(model[0], "weight", 0.5)


def compile_first(model):
    model[0] = torch.compile(model[0], backend="eager")


class TestNewLayers:
    @pytest.fixture
    def lora(self):
        """Wraps the last layer of a network as PEFT does."""
        peft = pytest.importorskip("peft", reason="needs pip install 'weightscale_fast[integrations]'")
        config = peft.LoraConfig(r=2, target_modules=["2"])
        return lambda model: peft.get_peft_model(model, config)

    def test_a_new_parameter_group_gives_a_warning_and_recording_continues(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = wsf.RWCMonitor(model, optimizer)
        train(model, optimizer, 2)
        model.append(nn.Linear(2, 2))
        optimizer.add_param_group({"params": model[3].parameters()})
        train(model, optimizer, 2)
        with pytest.warns(UserWarning, match=r"new layers .*, '3.weight': they are not recorded"):
            history = monitor.history()
        assert history.names == ("0.weight", "2.weight")
        assert (history.rwc > 0).all()
        optimizer.step()
        monitor.close()  # no second warning

    def test_new_biases_give_no_warning(self):
        model = network()
        monitor = wsf.RWCMonitor(model)
        model.register_parameter("scale", nn.Parameter(torch.ones(1)))
        monitor.record()
        monitor.close()

    def test_a_new_norm_with_several_dimensions_gives_no_warning(self):
        model = network()
        monitor = wsf.RWCMonitor(model)
        model.append(nn.LayerNorm([2, 3, 3]))
        monitor.record()
        monitor.close()
        assert monitor.history().names == ("0.weight", "2.weight")

    def test_layers_all_means_the_new_norm_too(self):
        model = network()
        monitor = wsf.RWCMonitor(model, layers="all")
        model.append(nn.LayerNorm([2, 3]))
        monitor.record()
        with pytest.warns(UserWarning, match=r"new layers .*, '3.weight', '3.bias'"):
            monitor.close()

    @pytest.mark.parametrize("rename", [prune_first, compile_first], ids=["prune", "compile"])
    def test_a_layer_that_was_renamed_is_not_new(self, rename):
        """It is followed under its new name; pytest makes a warning an error."""
        model = network()
        monitor = wsf.RWCMonitor(model)
        rename(model)
        monitor.record()
        monitor.close()
        assert len(monitor.history()) == 1

    def test_the_error_names_a_layer_that_lora_wrapped(self, lora):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = wsf.RWCMonitor(model, optimizer)
        train(model, optimizer, 2)
        lora(model)
        with pytest.raises(wsf.WeightScaleError, match=r"no parameter '2.weight'.*now '2.base_layer.weight'.*monitor"):
            train(model, optimizer, 1)
        with pytest.warns(UserWarning, match="new layers"):
            assert len(monitor.history()) == 2  # the recorded rows are kept

    def test_lora(self, lora):
        """Only the adapters move. B begins at 0, so its first value is infinite."""
        model = lora(network())
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        by_hand = ByHand(model)
        with wsf.RWCMonitor(model, optimizer) as monitor:
            for _ in range(3):
                train(model, optimizer, 1)
                by_hand.row()
        history = monitor.history()
        by_hand.check(history)
        assert (history.select("lora").rwc[1:] > 0).all()
        assert np.isinf(history.select("lora_B").rwc[0]).all()
        assert (history.select(lambda name: "lora" not in name).rwc == 0).all()


class TestOptimizersThatDoNotTrainTheModel:
    def test_of_another_model(self):
        with pytest.raises(ValueError, match=r"none of the parameters of this SGD is in this Sequential"):
            wsf.RWCMonitor(network(), torch.optim.SGD(network().parameters(), lr=0.1))

    def test_a_failed_monitor_leaves_no_hook(self, tmp_path):
        (tmp_path / "run").write_text("")
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(wsf.WeightScaleError, match="exists"):
            wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run")
        assert not optimizer._optimizer_step_post_hooks

    def test_rebuilt_before_the_first_step(self):
        model = network()
        first = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = wsf.RWCMonitor(model, first)
        second = torch.optim.Adam(model.parameters())
        train(model, second, 2)
        with pytest.warns(UserWarning, match=r"watches \(SGD\) made no step. If the optimizer was rebuilt"):
            assert len(monitor.history()) == 0
        monitor.close()

    def test_rebuilt_during_the_run(self):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = wsf.RWCMonitor(model, optimizer)
        train(model, optimizer, 2)
        optimizer = torch.optim.Adam(model.parameters())
        gc.collect()
        train(model, optimizer, 2)
        with pytest.warns(UserWarning, match="watches does not exist any more"):
            monitor.close()
        assert len(monitor.history()) == 2

    def test_deleted_after_training_gives_no_warning(self):
        def trained():
            model = network()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            monitor = wsf.RWCMonitor(model, optimizer)
            train(model, optimizer, 2)
            return monitor

        monitor = trained()
        gc.collect()
        assert len(monitor.history()) == 2
        monitor.close()

    def test_without_hooks(self):
        class Bare(torch.optim.Optimizer):
            def __init__(self, parameters):
                self.param_groups = [{"params": list(parameters)}]

        model = network()
        with pytest.raises(wsf.WeightScaleError, match=r"Bare has no hooks.*call record\(\)"):
            wsf.RWCMonitor(model, Bare(model.parameters()))


def test_the_optimizer_of_accelerate():
    accelerate = pytest.importorskip("accelerate", reason="needs Accelerate")
    model = network()
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    monitor, by_hand = wsf.RWCMonitor(model, optimizer), ByHand(model)
    for batch in range(6):
        with accelerator.accumulate(model):
            accelerator.backward(model(DATA).square().mean())
            optimizer.step()
            optimizer.zero_grad()
        if batch % 2:
            by_hand.row()
    by_hand.check(monitor.history())
