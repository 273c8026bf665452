"""The training loop and its models, on small real runs."""

import json

import numpy as np
import pytest
import torch

import weightscale_fast as wsf
from weightscale_fast.train import TrainConfig, train
from weightscale_fast.train.config import recorded_config
from weightscale_fast.train.metrics import diverged, read_metrics
from weightscale_fast.train.models import SMALL, create_model

FAST = TrainConfig(model="resnet10t", data="digits", epochs=2, batch_size=256, image_size=32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(FAST, tmp_path_factory.mktemp("runs") / "run")


def test_a_run_records_every_step_and_every_epoch(run):
    per_step, per_epoch = wsf.RWCHistory.load(run), wsf.RWCHistory.load(run / "epochs")
    assert per_step.steps.tolist() == list(range(1, 13))
    assert per_epoch.steps.tolist() == [1, 2]
    assert per_step.settings["model"] == "resnet10t"
    assert per_step.settings["images"] == [1617, 180]
    assert (per_step.rwc[1:] > 0).all()  # timm sets some scales to 0, so some layers do not move in step 1
    # the change over an epoch is smaller than the sum of the changes of its steps
    assert (per_epoch.rwc[0] < per_step.rwc[:6].sum(axis=0)).all()


def test_metrics_have_a_line_an_epoch(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[1]["loss"] < lines[0]["loss"]
    assert 0 < lines[0]["recording_share"] < 1
    assert 0 < lines[1]["train_top1"] <= lines[1]["train_top5"] <= 1
    assert 0 < lines[1]["test_top1"] <= lines[1]["test_top5"] <= 1
    assert lines[0]["images_per_second"] == pytest.approx(6 * 256 / lines[0]["seconds"], rel=1e-3)


def test_the_same_seed_gives_the_same_bits(run, tmp_path):
    again = train(FAST, tmp_path / "again")
    assert np.array_equal(wsf.RWCHistory.load(again).rwc, wsf.RWCHistory.load(run).rwc)


def test_another_seed_gives_another_run(run, tmp_path):
    other = train(TrainConfig(**{**vars(FAST), "seed": 1}), tmp_path / "other")
    assert not np.array_equal(wsf.RWCHistory.load(other).rwc, wsf.RWCHistory.load(run).rwc)


def test_the_settings_are_recorded_as_they_were_resolved(run):
    config = recorded_config(run)
    expected = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    assert (config.device, config.precision) == expected
    assert config.lr == FAST.lr


def test_bfloat16_autocast_keeps_float32_weights(tmp_path):
    config = TrainConfig(**{**vars(FAST), "precision": "bfloat16", "epochs": 1})
    run = train(config, tmp_path / "run")
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    assert state["model"]["layer1.0.conv1.weight"].dtype == torch.float32
    assert state["model"]["layer1.0.conv1.weight"].is_contiguous(memory_format=torch.channels_last)
    assert read_metrics(run)[0]["loss"] < 2.5
    assert np.median(wsf.RWCHistory.load(run).moved_fraction[1:]) > 0.99


def test_training_stops_at_an_accuracy(tmp_path):
    config = TrainConfig(**{**vars(FAST), "epochs": 50, "stop_at": 0.05})
    assert len(read_metrics(train(config, tmp_path / "run"))) == 1


def test_a_run_that_diverges_ends_and_says_so(tmp_path, capsys):
    config = TrainConfig(**{**vars(FAST), "epochs": 50, "optimizer": "sgd", "lr": 1e30})
    run = train(config, tmp_path / "run")
    (line,) = read_metrics(run)
    assert line["loss"] is None
    assert diverged(line)
    assert "training has diverged" in capsys.readouterr().out
    assert len(read_metrics(train(config, run, resume=True))) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "cifar"}, "data must be one of 'cifar10', .* or a folder .*got 'cifar'"),
        ({"model": "resnet5000"}, r"model must be one that timm knows, such as .*got 'resnet5000'"),
        ({"model": "resnet18-big"}, r"such as resnet18-small, .*got 'resnet18-big'"),
        ({"batch_size": 5_000}, "batch_size must be 1 to 1617, the images to train on; got 5000"),
        ({"optimizer": "lion"}, "optimizer must be one of 'adam', 'adamw', 'sgd', got 'lion'"),
        ({"augment": "mixup"}, "augment must be one of 'none', 'flip', 'crop_flip', got 'mixup'"),
        ({"augment": "crop_flip"}, "augment='crop_flip' needs image_size"),
        ({"precision": "float16"}, "precision must be one of 'auto', 'float32', 'bfloat16', got 'float16'"),
        ({"definition": "l2"}, "definition must be one of"),
        ({"epochs": 0}, "epochs must be 1 or more, got 0"),
        ({"device": "abacus"}, "device must be one that works here, such as 'cpu'; got 'abacus'"),
        ({"limit": 0}, "limit must be 1 or more, got 0"),
        ({"lr": -0.1}, "lr must be a number of 0 or more, got -0.1"),
        ({"weight_decay": float("nan")}, "weight_decay must be a number of 0 or more, got nan"),
        ({"momentum": float("inf")}, "momentum must be a number of 0 or more, got inf"),
        ({"stop_at": 94}, "stop_at must be an accuracy above 0, at most 1, got 94"),
    ],
)
def test_wrong_settings(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(TrainConfig(**({"data": "digits", "model": "resnet10t"} | changes)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_demo_network_has_54_layers():
    model = create_model("resnet50", channels=1, classes=10)
    assert len(wsf.snapshot(model)) == 54
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18-small", 21),
        ("resnet34-small", 37),
        ("resnet50-small", 54),
        ("vgg19_bn-small", 17),
        ("alexnet-small", 8),
    ],
)
def test_networks_for_small_images(name, layers):
    """They have as many layers as the authors' curves, and take 28 and 32 pixels, grey and colour."""
    for channels, pixels in ((1, 28), (3, 32)):
        model = create_model(name, channels=channels, classes=100)
        assert len(wsf.snapshot(model)) == layers
        assert model(torch.randn(2, channels, pixels, pixels)).shape == (2, 100)
    assert name in SMALL


@pytest.mark.parametrize("name", ["resnet18-small", "vgg19_bn-small"])
def test_the_stem_keeps_the_image(name):
    """An image of 32 pixels still has 32 pixels after the first layer."""
    seen = []
    model = create_model(name, channels=3, classes=10)
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-2:]))
    model.eval()(torch.randn(1, 3, 32, 32))
    assert seen == [(32, 32)]
