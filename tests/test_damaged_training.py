"""Training that is resumed from a stranger's folder: one sentence for whatever is wrong with it."""

import json
import os
import shutil

import pytest
import torch

import weightscale_fast as wsf
from weightscale_fast.cli import main
from weightscale_fast.train import TrainConfig, train
from weightscale_fast.train.checkpoint import checkpoint_path, load_checkpoint
from weightscale_fast.train.metrics import read_metrics
from weightscale_fast.train.optimizer_state import load_optimizer_state


def trained(kind, **options):
    model = torch.nn.Conv2d(2, 6, 3).to(memory_format=torch.channels_last)
    optimizer = kind(model.parameters(), lr=0.1, fused=True, **options)
    model(torch.ones(1, 2, 4, 4)).sum().backward()
    optimizer.step()
    return model, optimizer


KINDS = [(torch.optim.Adam, {}), (torch.optim.AdamW, {}), (torch.optim.SGD, {"momentum": 0.9}), (torch.optim.SGD, {})]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_the_state_of_an_optimizer_comes_back(kind, options):
    _, saved = trained(kind, **options)
    _, optimizer = trained(kind, **options)
    state = saved.state_dict()
    load_optimizer_state(optimizer, state)
    for i, its in optimizer.state_dict()["state"].items():
        assert its.keys() == {key for key, value in state["state"][i].items() if value is not None}
        for key, value in its.items():
            assert torch.equal(value, state["state"][i][key])
            assert value.stride() == state["state"][i][key].stride()


@pytest.mark.parametrize(
    "change",
    [
        lambda its: its.update(exp_avg=torch.zeros(1)),  # torch's fused Adam writes behind the end of this
        lambda its: its.update(exp_avg=its["exp_avg"].double()),
        lambda its: its.update(exp_avg=its["exp_avg"].to("meta")),
        lambda its: its.update(exp_avg=its["exp_avg"].to_sparse()),
        lambda its: its.update(exp_avg="x"),
        lambda its: its.update(step=torch.zeros(2)),
        lambda its: its.update(step=5),
        lambda its: its.update(more=torch.zeros(())),
        lambda its: its.pop("exp_avg_sq"),
    ],
)
def test_a_state_of_other_tensors_is_refused(change):
    _, optimizer = trained(torch.optim.Adam)
    state = optimizer.state_dict()
    change(state["state"][0])
    with pytest.raises(ValueError, match="the optimizer's"):
        load_optimizer_state(optimizer, state)


def test_an_expanded_state_gets_memory_of_its_own():
    """All its numbers lie at one address, and the fused optimizers step over the memory as over that of the weight."""
    _, optimizer = trained(torch.optim.Adam)
    state = optimizer.state_dict()
    state["state"][0]["exp_avg"] = torch.zeros(1).expand(6, 2, 3, 3)
    load_optimizer_state(optimizer, state)
    weight = optimizer.param_groups[0]["params"][0]
    assert optimizer.state[weight]["exp_avg"].stride() == weight.stride()


@pytest.mark.parametrize("state", [None, [], {}, {"state": []}, {"state": {9: {}}}, {"state": {"x": {}}}])
def test_a_state_of_another_form_is_refused(state):
    with pytest.raises(ValueError, match="the optimizer's state"):
        load_optimizer_state(trained(torch.optim.Adam)[1], state)


def test_the_settings_of_an_optimizer_stay():
    _, optimizer = trained(torch.optim.Adam)
    state = optimizer.state_dict()
    state["param_groups"][0].update(lr="x", betas=None, params=[5])
    load_optimizer_state(optimizer, state)
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("epoch", [None, "x", -1, 4, 1.5, True, 10**30])
def test_an_epoch_that_is_none(tmp_path, epoch):
    checkpoint_path(tmp_path).parent.mkdir()
    torch.save({"epoch": epoch}, checkpoint_path(tmp_path))
    with pytest.raises(wsf.WeightScaleError, match="its epoch must be a whole number, 0 to 3"):
        load_checkpoint(tmp_path, {}, "cpu", 3)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_a_checkpoint_that_is_no_file(tmp_path, make):
    checkpoint_path(tmp_path).parent.mkdir()
    make(checkpoint_path(tmp_path))
    with pytest.raises(wsf.WeightScaleError, match="it is not a file"):
        load_checkpoint(tmp_path, {}, "cpu", 3)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    config = TrainConfig(
        model="test_efficientnet", data="digits", epochs=1, batch_size=8, limit=16, image_size=32, device="cpu"
    )
    return train(config, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(good, tmp_path):
    return shutil.copytree(good, tmp_path / "run")


def assert_refused(run, capsys, match):
    assert main(["train", str(run), "--resume"]) == 2
    assert match in capsys.readouterr().err


VALUES = {
    "model": 5,
    "data": ["x"],
    "epochs": "x",
    "batch_size": None,
    "lr": "x",
    "limit": [],
    "stop_at": {},
    "shuffle": 1,
    "every": True,
    "seed": 2**43,
    "image_size": 10**7,
    "device": 1.5,
    "workers": 10**6,
}


@pytest.mark.parametrize("key", VALUES)
def test_settings_of_another_type(run, capsys, key):
    meta = json.loads((run / "meta.json").read_text())
    meta["settings"][key] = VALUES[key]
    (run / "meta.json").write_text(json.dumps(meta))
    assert_refused(run, capsys, f"the settings of run folder {run} are damaged: {key} must be")


@pytest.mark.parametrize("folder", ["epochs", "checkpoints"])
def test_nothing_is_written_behind_a_link(run, tmp_path, capsys, folder):
    shutil.move(run / folder, tmp_path / "elsewhere")
    (run / folder).symlink_to(tmp_path / "elsewhere")
    assert_refused(run, capsys, f"{folder} is a link, and nothing is written through a link")


@pytest.mark.parametrize("part", ["per_step", "per_epoch"])
def test_a_checkpoint_whose_record_is_at_another_step(run, capsys, part):
    state = torch.load(checkpoint_path(run), weights_only=True)
    state[part]["step"] -= 1
    state[part]["written"] -= 1
    state[part]["last_row"] = None
    torch.save(state, checkpoint_path(run))
    assert_refused(run, capsys, "it is of epoch 1, whose last step is 2, but its record is at step ")


@pytest.mark.parametrize(
    "content", [b"\xff", b"[" * 100_000, b"[]\n", b'{"loss": 1.0, "epoch": 1' + b"0" * 400 + b"}\n"]
)
def test_metrics_that_are_none(tmp_path, content):
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(wsf.WeightScaleError, match=r"metrics\.jsonl"):
        read_metrics(tmp_path)
