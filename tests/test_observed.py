"""What a monitor sees beside the weights: the optimizer, and why layers stood still."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.record.implied_step import implied_step
from weightscale_fast.record.observed import OBSERVED, Cause, Observed


class Network(nn.Module):
    """Three layers that learn, and one of each kind that does not."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        self.unused, self.left_out = nn.Linear(3, 3), nn.Linear(1, 1)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.dead = nn.Linear(8, 8)
        nn.init.constant_(self.dead.bias, -1e3)
        self.coarse = nn.Linear(8, 8, bias=False)
        with torch.no_grad():
            self.coarse.weight.fill_(1e6)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        x = torch.tanh(self.second(x)) + torch.relu(self.dead(x)) + 1e-6 * self.frozen(x)
        x = x + 1e-9 * self.coarse(x)
        return self.left_out(self.last(x))

    def optimizer(self, make=torch.optim.Adam, **options):
        groups = [{"params": [p], **options} for name, p in self.named_parameters() if "left_out" not in name]
        return make(groups, lr=1e-3)


WHY = {
    "unused.weight": "no_gradient",
    "left_out.weight": "not_in_optimizer",
    "frozen.weight": "frozen",
    "dead.weight": "zero_gradient",
    "coarse.weight": "rounding",
}


def train(model, optimizer, steps, monitor=None, zero_after=False):
    for _ in range(steps):
        if not zero_after:
            optimizer.zero_grad()
        x = torch.randn(16, 4)
        (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        if zero_after:
            optimizer.zero_grad()
        if monitor is not None:
            monitor.record()


def causes(history):
    return {name: cause.why for name, cause in history.observed.causes.items()}


class TestCauses:
    @pytest.mark.parametrize("zero_after", [False, True])
    @pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.SGD])
    def test_each_layer_that_does_not_move_has_its_own(self, make, zero_after):
        model = Network()
        optimizer = model.optimizer(make)
        monitor = wsf.RWCMonitor(model, optimizer)
        train(model, optimizer, 4, zero_after=zero_after)
        assert causes(monitor.history()) == WHY

    def test_in_a_loop_that_calls_record(self):
        """The gradients may be gone then, so None says nothing."""
        model = Network()
        optimizer = model.optimizer()
        monitor = wsf.RWCMonitor(model)
        train(model, optimizer, 4, monitor)
        found = causes(monitor.history())
        assert found["frozen.weight"] == "frozen"
        assert found["dead.weight"] == "zero_gradient"
        assert "unused.weight" not in found

    def test_tensors_of_another_model_in_the_optimizer(self):
        model = Network()
        optimizer = model.optimizer()
        model.last = nn.Linear(8, 1)
        monitor = wsf.RWCMonitor(model, optimizer)
        train(model, optimizer, 4)
        assert causes(monitor.history())["last.weight"] == "other_tensors"

    def test_a_rate_of_zero(self):
        model = Network()
        optimizer = model.optimizer()
        optimizer.param_groups[0]["lr"] = 0.0
        monitor = wsf.RWCMonitor(model, optimizer)
        train(model, optimizer, 4)
        assert causes(monitor.history())["first.weight"] == "zero_rate"

    def test_nothing_is_looked_at_while_all_layers_move(self):
        model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        monitor = wsf.RWCMonitor(model, optimizer)
        train(model, optimizer, 20)
        observed = monitor.history().observed
        assert (observed.causes, observed.gradient, observed.epsilon) == ({}, None, None)

    def test_the_gradients_are_measured_if_all_steps_are_tiny(self):
        model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1.0)
        monitor = wsf.RWCMonitor(model, optimizer)
        for _ in range(4):
            optimizer.zero_grad()
            (model(torch.randn(16, 4)).mean() * 1e-3).backward()
            optimizer.step()
        observed = monitor.history().observed
        assert 0 < observed.gradient < 1e-2
        assert observed.epsilon == 1.0

    @pytest.mark.parametrize("eps", [float("inf"), float("nan"), -1.0, "small"])
    def test_an_eps_that_is_no_size_is_not_known(self, eps, tmp_path):
        model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        optimizer.param_groups[0]["eps"] = eps
        with wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run"):
            train(model, optimizer, 4)
        observed = wsf.RWCHistory.load(tmp_path / "run").observed
        assert observed.gradient > 0
        assert observed.epsilon is None


class TestInAFolder:
    @pytest.fixture
    def run(self, tmp_path):
        model = Network()
        optimizer = model.optimizer()
        with wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run"):
            train(model, optimizer, 4)
        return tmp_path / "run"

    def test_it_is_read_and_saved_again(self, run, tmp_path):
        history = wsf.RWCHistory.load(run)
        assert causes(history) == WHY
        assert history.observed.optimizer == "Adam"
        history.save(tmp_path / "again")
        assert wsf.RWCHistory.load(tmp_path / "again").observed == history.observed

    def test_a_disk_that_was_full_gets_it_at_the_end(self, tmp_path, monkeypatch):
        model = Network()
        optimizer = model.optimizer()
        monitor = wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run")
        with monkeypatch.context() as patch:
            patch.setattr(Observed, "write", lambda *_: exec("raise OSError(28, 'No space left on device')"))
            train(model, optimizer, 4)
        monitor.close()
        assert causes(wsf.RWCHistory.load(tmp_path / "run")) == WHY

    def test_a_run_without_it_is_read(self, run):
        (run / OBSERVED).unlink()
        history = wsf.RWCHistory.load(run)
        assert history.observed == Observed()
        assert np.isnan(history.implied_step).all()

    @pytest.mark.parametrize(
        "text",
        ["", "[]", "{}", '{"causes": 1}', "null"]
        + [
            json.dumps({**json.loads('{"optimizer": "", "since": 0, "implied_step": [], "causes": {}}'), **wrong})
            for wrong in (
                {"gradient": None},
                {"gradient": None, "epsilon": -1.0},
                {"gradient": "1", "epsilon": None},
                {"gradient": None, "epsilon": None, "since": -1},
                {"gradient": None, "epsilon": None, "since": True},
                {"gradient": None, "epsilon": None, "implied_step": [1.0]},
                {"gradient": None, "epsilon": None, "optimizer": 3},
                {"gradient": None, "epsilon": None, "causes": {"fc": {"why": "<b>", "step": 1}}},
                {"gradient": None, "epsilon": None, "causes": {"fc": {"why": "frozen", "step": 1.5}}},
                {"gradient": None, "epsilon": None, "causes": {"fc": ["frozen", 1]}},
            )
        ],
    )
    def test_a_damaged_one_is_refused_with_the_way_out(self, run, text):
        (run / OBSERVED).write_text(text)
        with pytest.raises(wsf.WeightScaleError, match=r"observed.json is damaged.*move it away"):
            wsf.RWCHistory.load(run)
        (run / OBSERVED).rename(run / "away")
        assert len(wsf.RWCHistory.load(run)) == 4

    def test_a_resume_keeps_it(self, run):
        model = Network()
        optimizer = model.optimizer(torch.optim.SGD)
        with wsf.RWCMonitor(model, optimizer, run_dir=run, resume=True) as monitor:
            model.requires_grad_(True)
            train(model, optimizer, 1)
        history = monitor.history()
        assert causes(history) == WHY
        assert (history.observed.optimizer, history.observed.since) == ("SGD", 4)

    def test_another_optimizer_is_not_that_of_the_earlier_rows(self, run):
        model = Network()
        optimizer = model.optimizer(betas=(0.5, 0.9))
        with wsf.RWCMonitor(model, optimizer, run_dir=run, resume=True) as monitor:
            train(model, optimizer, 1)
        implied = monitor.history().implied_step[:, 0]
        assert np.isnan(implied[:4]).all()
        assert implied[4] == pytest.approx(np.sqrt(0.5 / 1.5))

    def test_what_came_after_the_checkpoint_is_forgotten(self, tmp_path):
        model = Network()
        optimizer = model.optimizer()
        with wsf.RWCMonitor(model, optimizer, run_dir=tmp_path / "run") as monitor:
            state = monitor.state_dict()
            train(model, optimizer, 4)
            assert causes(monitor.history()) == WHY
            monitor.load_state_dict(state)
            assert causes(monitor.history()) == {}

    def test_a_new_run_in_the_folder_has_its_own(self, run):
        model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 1))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        with wsf.RWCMonitor(model, optimizer, run_dir=run, exist="overwrite") as monitor:
            train(model, optimizer, 4)
        assert causes(monitor.history()) == {}
        assert causes(wsf.RWCHistory.load(run)) == {}


class TestImpliedStep:
    @pytest.mark.parametrize(
        ("make", "expected"),
        [
            (lambda p: torch.optim.Adam(p), 0.229),
            (lambda p: torch.optim.AdamW(p, betas=(0.95, 0.999)), 0.160),
            (lambda p: type("Lion", (torch.optim.SGD,), {})(p, lr=1), 1.0),
            (lambda p: torch.optim.SGD(p, lr=1), None),
            (lambda p: torch.optim.RMSprop(p), None),
        ],
    )
    def test_of_an_optimizer(self, make, expected):
        weights = nn.Parameter(torch.zeros(8, 32))
        optimizer = make([weights])
        step = implied_step(optimizer, optimizer.param_groups[0], weights)
        assert step is None if expected is None else step == pytest.approx(expected, abs=1e-3)

    @pytest.mark.parametrize("adjust", [None, "original", "match_rms_adamw"])
    @pytest.mark.parametrize("shape", [(8, 32), (32, 8), (16, 16)])
    def test_of_muon_it_is_what_muon_does(self, shape, adjust):
        torch.manual_seed(0)
        weights = nn.Parameter(torch.randn(shape))
        muon = torch.optim.Muon([weights], lr=1.0, weight_decay=0.0, momentum=0.0, adjust_lr_fn=adjust)
        before = weights.detach().clone()
        weights.grad = torch.randn(shape)
        muon.step()
        rms = float((weights.detach() - before).square().mean().sqrt())
        assert implied_step(muon, muon.param_groups[0], weights) == pytest.approx(rms, rel=0.2)

    def test_of_noise_it_is_what_adam_does(self):
        torch.manual_seed(0)
        weights = nn.Parameter(torch.zeros(64, 64))
        adam = torch.optim.Adam([weights], lr=1e-3)
        for _ in range(60):
            before = weights.detach().clone()
            weights.grad = torch.randn(64, 64)
            adam.step()
        rms = float((weights.detach() - before).square().mean().sqrt()) / 1e-3
        assert implied_step(adam, adam.param_groups[0], weights) == pytest.approx(rms, rel=0.1)

    def test_of_a_history(self):
        model = Network()
        optimizer = model.optimizer()
        monitor = wsf.RWCMonitor(model, optimizer)
        train(model, optimizer, 3)
        history = monitor.history().select(layers="first|left_out")
        np.testing.assert_allclose(history.implied_step, [[0.2294157, np.nan]] * 3, rtol=1e-6)

    def test_a_cause_is_of_a_step(self):
        assert Observed(causes={"a": Cause("frozen", 5), "b": Cause("frozen", 3)}).go_back(4).causes.keys() == {"b"}


class TestNoStep:
    def test_gradients_without_a_step_are_told(self):
        """As with a gradient scaler that skips every step."""
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = wsf.RWCMonitor(model, optimizer)
        model(torch.ones(1, 2)).sum().backward()
        with pytest.warns(UserWarning, match="SGD made no step, so there is no row, but gradients were computed"):
            monitor.close()

    @pytest.mark.filterwarnings("error")
    def test_gradients_of_an_earlier_step_are_not(self):
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.ones(1, 2)).sum().backward()
        wsf.RWCMonitor(model, optimizer).close()
