"""The training loop, its data and its models, on small real runs."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import weightscale_fast as wsf
from weightscale_fast.train import TrainConfig, train
from weightscale_fast.train.data import load_images, split_and_batch
from weightscale_fast.train.models import create_model

SMALL = TrainConfig(model="resnet10t", data="digits", epochs=2, batch_size=256, image_size=32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(SMALL, tmp_path_factory.mktemp("runs") / "run")


def test_a_run_records_every_step_and_every_epoch(run):
    per_step, per_epoch = wsf.RWCHistory.load(run), wsf.RWCHistory.load(run / "epochs")
    assert per_step.steps.tolist() == list(range(1, 13))
    assert per_epoch.steps.tolist() == [1, 2]
    assert per_step.settings["model"] == "resnet10t"
    assert per_step.settings["images"] == 1797
    assert (per_step.rwc[1:] > 0).all()  # in the first step timm's zero-initialised scales hold some layers still
    # an epoch is shorter than the way walked in it
    assert (per_epoch.rwc[0] < per_step.rwc[:6].sum(axis=0)).all()


def test_metrics_have_a_line_an_epoch(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[1]["loss"] < lines[0]["loss"]
    assert 0 < lines[0]["recording_share"] < 1


def test_the_same_seed_gives_the_same_bits(run, tmp_path):
    again = train(SMALL, tmp_path / "again")
    assert np.array_equal(wsf.RWCHistory.load(again).rwc, wsf.RWCHistory.load(run).rwc)


def test_mnist_5k():
    data = load_images("mnist-5k")
    assert (data.count, data.channels, data.classes) == (5_000, 1, 10)
    training, validation = split_and_batch(data, 64, seed=0)
    assert len(training.dataset) == 4_500
    assert len(validation.dataset) == 500
    assert not set(training.dataset.indices) & set(validation.dataset.indices)
    images, labels = next(iter(training))
    assert images.shape == (64, 1, 28, 28)
    assert len(labels.unique()) == 10  # shuffled: the file is sorted by class


def test_a_folder_of_images(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for i in range(6):
            pixels = np.random.default_rng(i).integers(0, 255, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    data = load_images(str(tmp_path), image_size=16)
    assert (data.count, data.channels, data.classes) == (12, 3, 2)
    config = TrainConfig(model="resnet10t", data=str(tmp_path), epochs=1, batch_size=5, image_size=32, optimizer="sgd")
    assert len(wsf.RWCHistory.load(train(config, tmp_path / "run"))) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "cifar"}, "data must be 'mnist-5k', 'digits' or a folder .*got 'cifar'"),
        ({"model": "resnet5000"}, r"model must be one that timm knows, such as .*got 'resnet5000'"),
        ({"batch_size": 5_000}, "batch_size must be 1 to 1617, the images to train on; got 5000"),
        ({"optimizer": "lion"}, "optimizer must be one of 'adam', 'adamw', 'sgd', got 'lion'"),
        ({"epochs": 0}, "epochs must be 1 or more, got 0"),
    ],
)
def test_wrong_settings(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(TrainConfig(**({"data": "digits", "model": "resnet10t"} | changes)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_empty_folder_is_no_data(tmp_path):
    with pytest.raises(ValueError, match="must hold one folder of images a class"):
        load_images(str(tmp_path))


def test_the_demo_network_has_54_layers():
    model = create_model("resnet50", channels=1, classes=10)
    assert len(wsf.snapshot(model)) == 54
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
