"""Settings as people have them: paths, namespaces, numpy numbers, devices, tuples as keys."""

import argparse
import collections
import dataclasses
import datetime
import enum
import json
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.record.settings import plain_settings


class Mode(enum.Enum):
    FAST = "fast"


@dataclasses.dataclass
class Optimizer:
    lr: float
    betas: tuple[float, float] = (0.9, 0.99)


class Thing:
    def __str__(self):
        return "a thing"


circle: dict = {}
circle["itself"] = circle


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (PurePosixPath("data/mnist"), "data/mnist"),
        (torch.device("cuda", 1), "cuda:1"),
        (torch.bfloat16, "torch.bfloat16"),
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.longdouble(0.5), 0.5),
        (np.str_("a"), "a"),
        (np.arange(3), [0, 1, 2]),
        (np.datetime64("2024-01-02"), "2024-01-02"),
        (torch.tensor(2.0), 2.0),
        (nn.Parameter(torch.ones(2)), [1.0, 1.0]),
        (torch.Size([2, 3]), [2, 3]),
        (argparse.Namespace(lr=0.1, out=Path("x")), {"lr": 0.1, "out": "x"}),
        (Optimizer(0.1), {"lr": 0.1, "betas": [0.9, 0.99]}),
        (collections.OrderedDict(a={1: 2}), {"a": {"1": 2}}),
        ({(1, "a"): None}, {"(1, 'a')": None}),
        ({3}, [3]),
        (Mode.FAST, "fast"),
        (datetime.timedelta(seconds=1), "0:00:01"),
        (Thing(), "a thing"),
        (10**400, 10**400),
    ],
    ids=str,
)
def test_values_become_plain(value, plain):
    settings = plain_settings({"x": value})
    assert settings == {"x": plain}
    assert type(settings["x"]) is type(plain)
    assert json.loads(json.dumps(settings)) == settings


def test_large_and_endless_values_become_text():
    settings = plain_settings({"large": np.zeros(10_000), "weights": torch.zeros(10_000), "circle": circle})
    assert settings["large"].startswith("[0. 0.")
    assert settings["weights"].startswith("tensor(")
    json.dumps(settings)


@pytest.mark.parametrize("to_folder", [False, True], ids=["memory", "folder"])
def test_the_record_has_them_from_the_start_and_can_be_saved(tmp_path, to_folder):
    options = argparse.Namespace(data=Path("mnist"), lr=np.float32(0.5))
    with wsf.RWCMonitor(nn.Linear(2, 2), run_dir=tmp_path / "run" if to_folder else None, settings=options) as monitor:
        monitor.record()
    expected = {"data": "mnist", "lr": 0.5}
    assert monitor.history().settings == expected
    monitor.history().save(tmp_path / "saved")
    assert wsf.RWCHistory.load(tmp_path / "saved").settings == expected


def test_wrong_settings_are_an_error_at_once(tmp_path):
    for run_dir in (None, tmp_path / "run"):
        with pytest.raises(TypeError, match=r"settings must be a dict or a namespace, .*got str"):
            wsf.RWCMonitor(nn.Linear(2, 2), run_dir=run_dir, settings="lr=0.1")
        with pytest.raises(ValueError, match="two of them are '1' as text"):
            wsf.RWCMonitor(nn.Linear(2, 2), run_dir=run_dir, settings={1: "a", "1": "b"})
    assert not list(tmp_path.iterdir())
