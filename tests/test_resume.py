"""Checkpoints: a run that is killed at any time and resumed equals a run that was never interrupted."""

import random
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import weightscale_fast as wsf
from weightscale_fast import WeightScaleError
from weightscale_fast.cli import main
from weightscale_fast.train import TrainConfig, train
from weightscale_fast.train.checkpoint import checkpoint_path, save_checkpoint
from weightscale_fast.train.metrics import read_metrics

# Dropout, augmentation, momentum and shuffling: all of them draw random numbers or keep a state.
FLAGS = (
    *("--model", "alexnet-small", "--data", "digits", "--image-size", "32", "--augment", "crop_flip"),
    *("--optimizer", "sgd", "--lr", "0.02", "--batch-size", "64", "--limit", "640", "--epochs", "14", "--seed", "3"),
)
TIMES = ("seconds", "images_per_second", "recording_share")


def start(*arguments):
    command = [sys.executable, "-m", "weightscale_fast", "train", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def untimed(run):
    return [{key: value for key, value in line.items() if key not in TIMES} for line in read_metrics(run)]


def assert_equal_runs(one, other):
    for folder in ("", "epochs"):
        left, right = wsf.RWCHistory.load(one / folder), wsf.RWCHistory.load(other / folder)
        assert np.array_equal(left.steps, right.steps)
        for name in ("delta_l1", "prev_l1", "moved"):
            assert np.array_equal(getattr(left, name), getattr(right, name)), name
    weights = [torch.load(checkpoint_path(run), weights_only=True)["model"] for run in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert untimed(one) == untimed(other)


def test_killed_five_times_equals_unbroken(tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    process = start(unbroken, *FLAGS)
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 0, error
    an_epoch = np.median([line["seconds"] for line in read_metrics(unbroken)])
    seed = random.randrange(10**6)
    waits = random.Random(seed)
    process = start(broken, *FLAGS)
    for kill in range(5):  # the first kill is in epoch 1 and each later one after at least one more epoch
        done = len(read_metrics(broken))
        while not checkpoint_path(broken).exists() or (kill and len(read_metrics(broken)) == done):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        time.sleep(waits.uniform(0, an_epoch))
        assert process.poll() is None, f"the run ended before kill {kill}; the seed of the waits is {seed}"
        process.kill()
        process.communicate()
        process = start(broken, "--resume")
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 0, error
    assert_equal_runs(unbroken, broken)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = TrainConfig(model="resnet10t", data="digits", epochs=1, batch_size=512, image_size=32)
    return train(config, tmp_path_factory.mktemp("runs") / "run"), config


def test_resuming_a_finished_run_changes_nothing(run, capsys):
    path, config = run
    before = [file.read_bytes() for file in sorted(path.rglob("*.safetensors"))]
    lines = (path / "metrics.jsonl").read_bytes()
    assert main(["train", str(path), "--resume"]) == 0
    assert [file.read_bytes() for file in sorted(path.rglob("*.safetensors"))] == before
    assert (path / "metrics.jsonl").read_bytes() == lines
    assert train(config, path, resume=True) == path


def test_a_run_is_resumed_only_with_its_own_settings(run, capsys):
    path, _ = run
    assert main(["train", str(path), "--resume", "--lr", "0.5"]) == 2
    assert "was started with lr=0.001, and can only go on so; got 0.5" in capsys.readouterr().err
    assert main(["train", str(path)]) == 2
    assert "exists" in capsys.readouterr().err


def test_resuming_something_that_is_not_a_run(tmp_path, capsys):
    assert main(["train", str(tmp_path / "nothing"), "--resume"]) == 2
    assert "does not exist" in capsys.readouterr().err
    with wsf.RWCMonitor(torch.nn.Linear(2, 2), run_dir=tmp_path / "other"):
        pass
    assert main(["train", str(tmp_path / "other"), "--resume"]) == 2
    assert "was not made by weightscale train" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"no checkpoint at all"])
def test_the_error_names_a_damaged_checkpoint(run, damage):
    path, config = run
    checkpoint = checkpoint_path(path)
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(damage(whole))
    try:
        with pytest.raises(WeightScaleError, match=r"last\.pt does not fit this run or is damaged"):
            train(config, path, resume=True)
    finally:
        checkpoint.write_bytes(whole)


def test_a_record_without_its_checkpoint_is_not_continued(run):
    """Otherwise the steps of a new training would be numbered after those of the old one."""
    path, config = run
    checkpoint = checkpoint_path(path)
    whole, rows = checkpoint.read_bytes(), len(wsf.RWCHistory.load(path))
    checkpoint.unlink()
    try:
        with pytest.raises(WeightScaleError, match=f"has a record of {rows} steps but no checkpoint"):
            train(config, path, resume=True)
    finally:
        checkpoint.write_bytes(whole)
    assert len(wsf.RWCHistory.load(path)) == rows


def test_resuming_uses_the_same_number_of_workers(tmp_path, monkeypatch):
    """Each worker draws its own random numbers, so with another number of workers the run would differ."""
    settings = {"model": "resnet10t", "data": "digits", "batch_size": 512, "image_size": 32, "augment": "flip"}
    unbroken = train(TrainConfig(**settings, epochs=2), tmp_path / "unbroken", workers=1)
    checkpoints = {}

    def keep(run_dir, epoch, parts):
        save_checkpoint(run_dir, epoch, parts)
        checkpoints[epoch] = checkpoint_path(run_dir).read_bytes()

    monkeypatch.setattr("weightscale_fast.train.loop.save_checkpoint", keep)
    broken = train(TrainConfig(**settings, epochs=2), tmp_path / "broken", workers=1)
    checkpoint_path(broken).write_bytes(checkpoints[1])  # as if the second epoch had been killed at its end
    assert main(["train", str(broken), "--resume"]) == 0
    assert_equal_runs(unbroken, broken)


class InterruptedWriting:
    """Raises KeyboardInterrupt while its state is written."""

    def state_dict(self):
        return {"weights": torch.zeros(100_000), "more": Interrupting(torch.zeros(10))}


class Interrupting(torch.Tensor):
    def __new__(cls, data):
        return torch.Tensor._make_subclass(cls, data)

    def __reduce_ex__(self, protocol):
        raise KeyboardInterrupt


class Stateless:
    def state_dict(self):
        return {"weights": torch.zeros(100_000)}


def test_ctrl_c_while_a_checkpoint_is_written(tmp_path):
    """The caller gets KeyboardInterrupt, not an error of torch.save, and the previous checkpoint is still complete."""
    save_checkpoint(tmp_path, 1, {"part": Stateless()})
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 2, {"part": InterruptedWriting()})
    assert torch.load(checkpoint_path(tmp_path), weights_only=True)["epoch"] == 1
    assert [file.name for file in checkpoint_path(tmp_path).parent.iterdir() if not file.name.startswith(".")] == [
        "last.pt"
    ]


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path):
    save_checkpoint(tmp_path, 1, {"part": Stateless()})
    script = """
import resource, sys, warnings
from pathlib import Path
import torch
from weightscale_fast.train.checkpoint import save_checkpoint
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
class Part:
    def state_dict(self):
        return {"weights": torch.zeros(100_000)}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    save_checkpoint(Path(sys.argv[1]), 2, {"part": Part()})
print(*(str(warning.message) for warning in caught))
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert "training goes on, and the checkpoint before it stays" in done.stdout, done.stderr
    assert torch.load(checkpoint_path(tmp_path), weights_only=True)["epoch"] == 1
