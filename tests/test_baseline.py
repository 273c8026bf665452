"""RWCMonitor(baseline="before_step"): rows of one step each, and no copy of the weights between two steps."""

import json
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from tests.oracle import TOLERANCE, oracle_sums
from weightscale_fast.errors import WeightScaleError
from weightscale_fast.figures.style import steps_spanned
from weightscale_fast.health.check import HealthCheck


def network(dtype=torch.float32):
    """Layers of one weight, of odd sizes, channels-last, strided, frozen and tied; and biases, which are no layers."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last), nn.Flatten(), nn.Linear(8 * 16, 65), nn.Linear(65, 1)
    )
    model.one = nn.Linear(1, 1)
    model.frozen = nn.Linear(7, 5).requires_grad_(False)
    model.tied = nn.Linear(65, 1)
    model.tied.weight = model[3].weight
    model.strided = nn.Module()
    model.strided.weight = nn.Parameter(torch.randn(6, 9)[:, ::2])
    return model.to(dtype)


def backward(model, step=0):
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(step)).to(model[2].weight.dtype)
    y = model[3](model[2](model[1](model[0](x)))) + model.one(x[:, :1, 0, 0]) + model.strided.weight.sum()
    y.square().mean().backward()


def weights_of(model, monitor):
    return [model.get_parameter(name).detach().clone() for name in monitor._record.snapshot.names]


def moved_since(weights, before):
    return float((weights.detach().double() - before.double()).abs().sum())


def disturb(model):
    """What a loop may do between two steps: masks, projections, averaged weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)


def check_l2(history, sums):
    np.testing.assert_allclose(history.delta_l2, np.sqrt(sums[:, 3]), rtol=TOLERANCE)
    np.testing.assert_allclose(history.prev_l2, np.sqrt(sums[:, 4]), rtol=TOLERANCE)
    np.testing.assert_allclose(history.delta_max, sums[:, 5], rtol=TOLERANCE)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("definition", ["norm_ratio", "mean_ratio", "l2_ratio"])
def test_a_row_is_the_change_of_its_step(every, dtype, definition):
    model = network(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    monitor = wsf.RWCMonitor(model, optimizer, every=every, baseline="before_step", definition=definition)
    assert monitor.nbytes == 0
    expected = []
    for step in range(6):
        backward(model, step)
        before = weights_of(model, monitor)
        optimizer.step()
        assert monitor.nbytes == 0
        if (step + 1) % every == 0:
            after = weights_of(model, monitor)
            expected.append(torch.stack([oracle_sums(a, b) for a, b in zip(after, before, strict=True)], dim=1))
        disturb(model)
        optimizer.zero_grad()
    history, sums = monitor.history(), torch.stack(expected).numpy()
    assert history.steps.tolist() == list(range(every, 7, every))
    np.testing.assert_allclose(history.delta_l1, sums[:, 0], rtol=TOLERANCE)
    np.testing.assert_allclose(history.prev_l1, sums[:, 1], rtol=TOLERANCE)
    assert np.array_equal(history.moved, sums[:, 2])
    if definition == "mean_ratio":
        np.testing.assert_allclose(history.ratio_sum, sums[:, -1], rtol=TOLERANCE)
    if definition == "l2_ratio":
        check_l2(history, sums)
    assert history.horizon == 1
    assert history.every == every
    assert steps_spanned(history) == "per step"
    assert (history["frozen.weight"] == 0).all()


def test_the_copy_exists_while_a_recorded_step_runs():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    monitor = wsf.RWCMonitor(model, optimizer, every=2, baseline="before_step")
    held = []

    def closure():
        held.append(monitor.nbytes)
        backward(model)

    for _ in range(4):
        optimizer.step(closure)
    layers = sum(w.nbytes for w in weights_of(model, monitor))
    assert held[0] == held[2] == 0
    assert layers <= held[1] == held[3] < layers + 64 * (len(monitor._record.snapshot) + 8)


def test_lbfgs_evaluates_its_closure_many_times():
    model = nn.Linear(5, 1)
    x = torch.randn(20, 5)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=5)
    monitor = wsf.RWCMonitor(model, optimizer, baseline="before_step")

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        loss.backward()
        return loss

    before = model.weight.detach().clone()
    optimizer.step(closure)
    history = monitor.history()
    assert history.delta_l1[0, 0] == pytest.approx(moved_since(model.weight, before), rel=TOLERANCE)


def test_accumulated_batches_make_one_row():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with wsf.RWCMonitor(model, optimizer, baseline="before_step") as monitor:
        for step in range(6):
            backward(model, step)
            if step % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()
    assert monitor.history().steps.tolist() == [1, 2]


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler(fused, every):
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, fused=fused)
    scaler = torch.amp.GradScaler("cpu")
    monitor = wsf.RWCMonitor(model, optimizer, every=every, baseline="before_step")
    for step in range(6):
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(2, 8)).sum()).backward()
        if step in (2, 3):
            model.weight.grad[0, 0] = torch.inf
        scaler.step(optimizer)
        scaler.update()
        assert monitor.nbytes == 0
    history = monitor.history()
    if not fused:  # step() is not called
        assert history.steps.tolist() == list(range(every, 5, every))
        assert not history.skipped.any()
        assert (history.delta_l1 > 0).all()
        return
    assert history.steps.tolist() == list(range(every, 7, every))
    skipped = [step in (3, 4) for step in history.steps]  # only the row's own step counts
    assert history.skipped.tolist() == skipped
    assert (history.delta_l1[:, 0] > 0).tolist() == [not was for was in skipped]


def test_two_optimizers_have_a_monitor_each():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1 * (i + 1)) for i, layer in enumerate(model)]
    monitors = [
        wsf.RWCMonitor(model, optimizer, layers=f"^{i}.weight", baseline="before_step")
        for i, optimizer in enumerate(optimizers)
    ]
    model(torch.ones(1, 4)).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    for layer, monitor, lr in zip(model, monitors, (0.1, 0.2), strict=True):
        moved = float(layer.weight.grad.double().abs().sum()) * lr
        assert monitor.history().delta_l1[0, 0] == pytest.approx(moved, rel=1e-5)


def test_a_step_that_raises_leaves_no_row():
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = wsf.RWCMonitor(model, optimizer, baseline="before_step")

    def fails():
        disturb(model)
        raise KeyError("no batch")

    with pytest.raises(KeyError):
        optimizer.step(fails)
    model(torch.ones(1, 4)).sum().backward()
    before = model.weight.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the next row has not the movement of the step that raised
        optimizer.step()
    history = monitor.history()
    assert history.steps.tolist() == [1]
    assert history.delta_l1[0, 0] == pytest.approx(moved_since(model.weight, before), rel=TOLERANCE)
    with pytest.raises(KeyError):
        optimizer.step(fails)
    monitor.close()
    assert monitor.nbytes == 0


def test_what_changes_between_steps_makes_no_warning():
    """The monitor need not compare the weights between steps: it has no weights to compare with, and needs none."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with wsf.RWCMonitor(model, optimizer, baseline="before_step"):
            for step in range(30):
                optimizer.zero_grad()
                backward(model, step)
                optimizer.step()
                disturb(model)


@pytest.mark.parametrize("place", ["hook", "closure"])
def test_a_monitor_that_is_made_in_a_step_records_it(place):
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    made = []

    def make(*_):
        if not made:
            made.append(wsf.RWCMonitor(model, optimizer, baseline="before_step"))

    if place == "hook":
        optimizer.register_step_pre_hook(make)
    moved = []
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(1, 4)).sum().backward()
        before = model.weight.detach().clone()
        optimizer.step(make if place == "closure" else None)
        moved.append(moved_since(model.weight, before))
        assert made[0].nbytes == 0
    history = made[0].history()
    assert history.steps.tolist() == [1, 2]
    np.testing.assert_allclose(history.delta_l1[:, 0], moved, rtol=TOLERANCE)


@pytest.mark.parametrize("compiled", ["model", "step"])
def test_torch_compile(compiled):
    torch.compiler.reset()
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = wsf.RWCMonitor(model, optimizer, baseline="before_step")
    forward = torch.compile(model, backend="eager") if compiled == "model" else model
    step = torch.compile(optimizer.step, backend="eager") if compiled == "step" else optimizer.step
    moved = []
    for _ in range(3):
        optimizer.zero_grad()
        forward(torch.ones(1, 4)).sum().backward()
        before = model.weight.detach().clone()
        step()
        moved.append(moved_since(model.weight, before))
        disturb(model)
    np.testing.assert_allclose(monitor.history().delta_l1[:, 0], moved, rtol=TOLERANCE)


def test_parameters_that_are_replaced_between_steps():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    monitor = wsf.RWCMonitor(model, optimizer, baseline="before_step")
    expected = []
    for step in range(4):
        if step == 2:
            state = {name: weights.clone() for name, weights in model.state_dict().items()}
            model.load_state_dict(state, assign=True)
            model.tied.weight = model[3].weight
            for (_, parameter), before in zip(
                model.named_parameters(), optimizer.param_groups[0]["params"], strict=True
            ):
                parameter.requires_grad_(before.requires_grad)
            optimizer.param_groups[0]["params"] = list(model.parameters())
        backward(model, step)
        before = weights_of(model, monitor)
        optimizer.step()
        expected.append([float(oracle_sums(a, b)[0]) for a, b in zip(weights_of(model, monitor), before, strict=True)])
        optimizer.zero_grad()
    np.testing.assert_allclose(monitor.history().delta_l1, expected, rtol=TOLERANCE)


def test_a_lost_layer_is_told_before_the_step_moves_anything():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = wsf.RWCMonitor(model, optimizer, baseline="before_step")
    model(torch.ones(1, 4)).sum().backward()
    before = model[0].weight.detach().clone()
    del model[1]
    with pytest.raises(WeightScaleError, match="has no parameter '1.weight'"):
        optimizer.step()
    assert torch.equal(model[0].weight, before)
    assert monitor.nbytes == 0


def test_in_inference_mode_and_under_no_grad():
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.inference_mode():
        monitor = wsf.RWCMonitor(model, optimizer, baseline="before_step")
    model(torch.ones(1, 4)).sum().backward()
    with torch.no_grad():
        optimizer.step()
    assert monitor.history().delta_l1[0, 0] > 0


class TestStates:
    def train(self, model, optimizer, steps):
        for step in range(steps):
            optimizer.zero_grad()
            backward(model, step)
            optimizer.step()

    def test_a_state_has_no_weights_and_resumes(self, tmp_path):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        monitor = wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run", baseline="before_step", every=2)
        self.train(model, optimizer, 5)
        state = monitor.state_dict()
        assert state["weights"] is None
        assert monitor.checkpoint_state()["weights"] is None
        self.train(model, optimizer, 4)
        monitor.close()
        monitor = wsf.RWCMonitor(
            model, optimizer, run_dir=tmp_path / "run", baseline="before_step", every=2, resume=True
        )
        monitor.load_state_dict(state)
        assert monitor.step == 5
        disturb(model)
        self.train(model, optimizer, 3)
        monitor.close()
        history = wsf.RWCHistory.load(tmp_path / "run")
        assert history.steps.tolist() == [2, 4, 6, 8]
        assert history.baseline == "before_step"
        assert json.loads((tmp_path / "run" / "meta.json").read_text())["baseline"] == "before_step"
        assert (history.rwc[:, 0] < 0.1).all()  # 0.5 would be the disturbance

    @pytest.mark.parametrize("first", ["last_row", "before_step"])
    def test_another_baseline_is_refused(self, tmp_path, first):
        second = {"last_row": "before_step", "before_step": "last_row"}[first]
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        monitor = wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run", baseline=first)
        self.train(model, optimizer, 2)
        state = monitor.state_dict()
        monitor.close()
        with pytest.raises(WeightScaleError, match=f"baseline='{first}', and this monitor has '{second}'"):
            wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run", baseline=second, resume=True)
        other = wsf.RWCMonitor(model, optimizer, baseline=second)
        with pytest.raises(ValueError, match=f"baseline='{first}', this monitor has '{second}'"):
            other.load_state_dict(state)

    def test_a_history_keeps_it(self, tmp_path):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        monitor = wsf.RWCMonitor(model, optimizer, baseline="before_step", every=2)
        self.train(model, optimizer, 4)
        monitor.history().save(tmp_path / "saved")
        assert wsf.RWCHistory.load(tmp_path / "saved").horizon == 1


class TestErrors:
    def test_without_an_optimizer(self):
        with pytest.raises(ValueError, match='baseline="before_step" needs the optimizer'):
            wsf.RWCMonitor(nn.Linear(2, 2), baseline="before_step")

    def test_another_word(self):
        with pytest.raises(ValueError, match="baseline must be one of 'last_row', 'before_step', got 'first'"):
            wsf.RWCMonitor(nn.Linear(2, 2), baseline="first")

    def test_an_optimizer_that_was_replaced(self):
        model = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = wsf.RWCMonitor(model, optimizer, baseline="before_step")
        del optimizer
        model(torch.ones(1, 2)).sum().backward()
        with pytest.warns(UserWarning, match="gradients were computed .* does not exist any more"):
            monitor.history()


def test_health_knows_that_a_row_is_one_step():
    """The weights shrink by 1 % at each of 10 steps, and a row has one of them: ten times less than they shrink."""
    S = 200
    sizes = 1000.0 * 0.999 ** (10 * np.arange(S))
    rwc = np.full(S, 2e-3)  # half of it is decay, and half the gradient
    history = wsf.RWCHistory(
        names=("a", "b"),
        numel=np.array([1000, 1000]),
        kinds=("linear", "linear"),
        steps=10 * np.arange(1, S + 1),
        delta_l1=np.stack([rwc * sizes] * 2, axis=1),
        prev_l1=np.stack([sizes] * 2, axis=1),
        moved=np.full((S, 2), 1000),
        every=10,
        baseline="before_step",
    )
    check = HealthCheck(history.names, history.numel, history.every, baseline="before_step")
    found = [finding.kind for finding in check.update(history)]
    assert "shrinking" not in found
    assert "shrinking" not in [finding.kind for finding in wsf.check_health(history)]


OPTIMIZERS = {
    "SGD": lambda parameters: wsf.optim.SGD(parameters, lr=1e-2, momentum=0.9, weight_decay=1e-2),
    "Adam": lambda parameters: wsf.optim.Adam(parameters, lr=1e-2),
    "AdamW": lambda parameters: wsf.optim.AdamW(parameters, lr=1e-2),
}


class TestSumsOfTheOptimizer:
    """With an optimizer of weightscale_fast.optim there is no copy at all."""

    @pytest.mark.parametrize("every", [1, 3])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    @pytest.mark.parametrize("definition", ["norm_ratio", "mean_ratio", "l2_ratio"])
    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_a_row_is_the_change_of_its_step(self, every, dtype, definition, optimizer):
        model = network(dtype)
        optimizer = OPTIMIZERS[optimizer](model.parameters())
        monitor = wsf.RWCMonitor(model, optimizer, every=every, definition=definition)
        other = wsf.RWCMonitor(model, optimizer, layers="2.weight")  # another that asks for the sums of each step
        assert monitor.nbytes == other.nbytes == 0
        expected = []
        for step in range(6):
            if step == 4:  # no gradient: it does not move
                model[0].weight.requires_grad_(False)
            backward(model, step)
            before = weights_of(model, monitor)
            optimizer.step()
            if (step + 1) % every == 0:
                after = weights_of(model, monitor)
                expected.append(torch.stack([oracle_sums(a, b) for a, b in zip(after, before, strict=True)], dim=1))
            disturb(model)
            optimizer.zero_grad()
        history, sums = monitor.history(), torch.stack(expected).numpy()
        assert history.baseline == "before_step"
        assert history.steps.tolist() == list(range(every, 7, every))
        np.testing.assert_allclose(history.delta_l1, sums[:, 0], rtol=TOLERANCE)
        np.testing.assert_allclose(history.prev_l1, sums[:, 1], rtol=TOLERANCE)
        assert np.array_equal(history.moved, sums[:, 2])
        if definition == "mean_ratio":
            np.testing.assert_allclose(history.ratio_sum, sums[:, -1], rtol=TOLERANCE)
        if definition == "l2_ratio":
            check_l2(history, sums)
        assert len(other.history()) == 6
        assert (history["frozen.weight"] == 0).all()

    def test_the_last_row_can_be_asked_for(self):
        model = network()
        optimizer = wsf.optim.SGD(model.parameters(), lr=1e-2)
        monitor = wsf.RWCMonitor(model, optimizer, baseline="last_row")
        assert monitor.nbytes > 0
        backward(model)
        optimizer.step()
        assert monitor.history().baseline == "last_row"

    def test_a_wrapper_around_it_has_rows_of_its_own_steps(self):
        """The inner optimizer's sums would lack what the wrapper does to the weights."""

        class Halves(torch.optim.Optimizer):
            def __init__(self, inner):
                super().__init__(inner.param_groups, {})
                self.inner = inner

            def step(self, closure=None):
                self.inner.step()
                with torch.no_grad():
                    for group in self.param_groups:
                        for parameter in group["params"]:
                            parameter.mul_(0.5)

        model = nn.Linear(4, 4)
        optimizer = Halves(wsf.optim.SGD(model.parameters(), lr=1e-2))
        monitor = wsf.RWCMonitor(model, optimizer)
        model(torch.ones(1, 4)).sum().backward()
        before = model.weight.detach().clone()
        optimizer.step()
        assert monitor.history().delta_l1[0, 0] == pytest.approx(moved_since(model.weight, before), rel=TOLERANCE)

    def test_parameters_and_groups_that_change(self):
        model = network()
        first = [model[0].weight, model[2].weight]
        optimizer = wsf.optim.AdamW(first, lr=1e-2)
        monitor = wsf.RWCMonitor(model, optimizer)
        expected = []
        for step in range(6):
            if step == 2:
                optimizer.add_param_group({"params": [model[3].weight], "lr": 1e-3})
            if step == 4:
                new = nn.Parameter(model[2].weight.detach().clone())
                optimizer.param_groups[0]["params"][1] = new
                optimizer.state[new] = optimizer.state.pop(model[2].weight)
                model[2].weight = new
            backward(model, step)
            before = weights_of(model, monitor)
            optimizer.step()
            after = weights_of(model, monitor)
            expected.append([float(oracle_sums(a, b)[0]) for a, b in zip(after, before, strict=True)])
            optimizer.zero_grad()
        history = monitor.history()
        np.testing.assert_allclose(history.delta_l1, expected, rtol=TOLERANCE)
        assert (history["3.weight"] > 0).tolist() == [False, False, True, True, True, True]
        assert history.prev_l1.min() > 0

    def test_master_weights(self):
        model = nn.Linear(8, 8, dtype=torch.bfloat16)
        masters = {p: p.detach().float().requires_grad_() for p in model.parameters()}
        optimizer = wsf.optim.SGD(masters.values(), lr=1e-3)
        monitor = wsf.RWCMonitor(wsf.master_weights(model, masters.get), optimizer)
        master = masters[model.weight]
        for value in masters.values():
            value.grad = torch.ones_like(value)
        before = master.detach().clone()
        optimizer.step()
        assert monitor.nbytes == 0
        history = monitor.history()
        assert history.delta_l1[0, 0] == pytest.approx(moved_since(master, before), rel=TOLERANCE)
        assert history.lr[0, 0] == 1e-3  # also for masters that are plain tensors

    @pytest.mark.parametrize("every", [1, 2])
    def test_a_gradient_scaler(self, every):
        model = nn.Linear(8, 8)
        optimizer = wsf.optim.AdamW(model.parameters(), lr=1e-3, fused=True)  # a scaler always calls these
        scaler = torch.amp.GradScaler("cpu")
        monitor = wsf.RWCMonitor(model, optimizer, every=every)
        for step in range(6):
            optimizer.zero_grad()
            scaler.scale(model(torch.ones(2, 8)).sum()).backward()
            if step in (2, 3):
                model.weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
        history = monitor.history()
        skipped = [step in (3, 4) for step in history.steps]
        assert history.skipped.tolist() == skipped
        assert (history.delta_l1[:, 0] > 0).tolist() == [not was for was in skipped]
        assert (history.prev_l1 > 0).all()

    def test_a_state_has_no_weights_and_resumes(self, tmp_path):
        model = network()
        optimizer = wsf.optim.SGD(model.parameters(), lr=1e-3)
        monitor = wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run")
        TestStates().train(model, optimizer, 3)
        state = monitor.state_dict()
        assert state["weights"] is None
        monitor.close()
        monitor = wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run", resume=True)
        monitor.load_state_dict(state)
        TestStates().train(model, optimizer, 2)
        assert monitor.history().steps.tolist() == [1, 2, 3, 4, 5]

    @pytest.mark.parametrize("name", ["reference", "kernel"])
    def test_where_torch_makes_the_step(self, name, monkeypatch):
        """The backend `torch` has no kernel for the step, so torch makes it, with a copy for its time."""
        if name == "reference":
            monkeypatch.setenv("WEIGHTSCALE_FAST_BACKEND", "torch")
        model = network()
        optimizer = wsf.optim.AdamW(model.parameters(), lr=1e-2)
        monitor = wsf.RWCMonitor(model, optimizer)
        backward(model)
        before = weights_of(model, monitor)
        optimizer.step()
        expected = [float(oracle_sums(a, b)[0]) for a, b in zip(weights_of(model, monitor), before, strict=True)]
        np.testing.assert_allclose(monitor.history().delta_l1[0], expected, rtol=TOLERANCE)

    def test_a_subclass_that_moves_more_is_recorded_with_a_copy(self):
        class Clamps(wsf.optim.SGD):
            def step(self, closure=None):
                super().step(closure)
                with torch.no_grad():
                    for group in self.param_groups:
                        for parameter in group["params"]:
                            parameter.clamp_(-0.1, 0.1)

        model = nn.Linear(4, 4)
        optimizer = Clamps(model.parameters(), lr=1e-3)
        monitor = wsf.RWCMonitor(model, optimizer)
        model(torch.ones(1, 4)).sum().backward()
        before = model.weight.detach().clone()
        optimizer.step()
        assert monitor.nbytes == 0
        assert monitor.history().delta_l1[0, 0] == pytest.approx(moved_since(model.weight, before), rel=TOLERANCE)

    def test_a_subclass_that_leaves_steps_out(self):
        class EverySecond(wsf.optim.SGD):
            calls = 0

            def step(self, closure=None):
                self.calls += 1
                return super().step(closure) if self.calls % 2 else None

        model = nn.Linear(4, 4)
        optimizer = EverySecond(model.parameters(), lr=1e-3)
        monitor = wsf.RWCMonitor(model, optimizer)
        model(torch.ones(1, 4)).sum().backward()
        for _ in range(4):
            optimizer.step()
        assert (monitor.history().delta_l1[:, 0] > 0).tolist() == [True, False, True, False]

    def test_a_layer_that_is_a_view_of_a_parameter_is_refused(self):
        model = nn.Module()
        model.whole = nn.Parameter(torch.randn(12, 4))
        model.part = nn.Parameter(model.whole.detach()[:4])
        optimizer = wsf.optim.SGD([model.whole], lr=1e-3)
        wsf.RWCMonitor(model, optimizer)
        model.whole.grad = torch.ones(12, 4)
        with pytest.raises(WeightScaleError, match="layer 'part' shares memory with a parameter of the optimizer"):
            optimizer.step()

    def test_a_layer_of_another_shape_is_refused(self):
        model = nn.Linear(4, 10)
        optimizer = wsf.optim.SGD(model.parameters(), lr=1e-3)
        wsf.RWCMonitor(model, optimizer)
        for columns in (10, 14):
            model.weight = nn.Parameter(torch.randn(columns, 4))
            optimizer.param_groups[0]["params"] = [model.weight]
            model.weight.grad = torch.ones(columns, 4)
            if columns == 14:
                with pytest.raises(ValueError, match="layer 'weight' does not fit"):
                    optimizer.step()
            else:
                optimizer.step()

    def test_weights_that_were_replaced_are_not_held(self):
        model = nn.Linear(4, 4)
        optimizer = wsf.optim.SGD(model.parameters(), lr=1e-3)
        monitor = wsf.RWCMonitor(model, optimizer)
        old = torch.multiprocessing.reductions.StorageWeakRef(model.weight.untyped_storage())
        for step in range(2):
            if step:
                model.weight.data = model.weight.detach().clone()
            model(torch.ones(1, 4)).sum().backward()
            optimizer.step()
        assert old.expired()
        assert len(monitor.history()) == 2

    def test_a_monitor_that_is_made_in_a_hook_records_that_step(self):
        model = nn.Linear(4, 4)
        optimizer = wsf.optim.SGD(model.parameters(), lr=0.1)
        made = []
        optimizer.register_step_pre_hook(lambda *_: made or made.append(wsf.RWCMonitor(model, optimizer)))
        model(torch.ones(1, 4)).sum().backward()
        before = model.weight.detach().clone()
        optimizer.step()
        assert made[0].history().delta_l1[0, 0] == pytest.approx(moved_since(model.weight, before), rel=TOLERANCE)


@pytest.mark.parametrize("of", [torch.optim, wsf.optim])
def test_another_optimizer_on_recorded_layers_is_told(of):
    """What it moves is in no row. With last_row it is, and the monitor says where."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    first, second = (of.SGD(layer.parameters(), lr=1e-3) for layer in model)
    monitor = wsf.RWCMonitor(model, first, baseline="before_step")

    def train():
        for _ in range(6):
            model(torch.ones(1, 4)).sum().backward()
            first.step()
            second.step()

    with pytest.warns(UserWarning, match="SGD steps 1.weight, which this monitor of SGD records, too"):
        train()
    assert len(monitor.history()) == 6
