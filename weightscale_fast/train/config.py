"""TrainConfig: all settings that decide what a run computes."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from pathlib import Path

import torch

from ..errors import WeightScaleError, check_one_of
from ..ratios import check_definition
from ..record.run_folder import RunFolder

OPTIMIZERS = ("adam", "adamw", "sgd")
AUGMENTATIONS = ("none", "flip", "crop_flip")
PRECISIONS = ("auto", "float32", "bfloat16")
SEEDS = 2**43  # each epoch has a seed of its own, made of the seed and 20 bits for the epoch
LARGEST_IMAGE = 10_000  # pixels; the settings of a run may be a stranger's, and must not take all memory
MOST_WORKERS = 256  # for the same reason
_TYPES: dict[str, tuple[type, str]] = {
    "str": (str, "a text"),
    "bool": (bool, "True or False"),
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
}


@dataclass(frozen=True)
class TrainConfig:
    """All settings that decide what a run computes. The record of the run keeps them.

    Raises:
        ValueError: a setting has a value that it cannot have.

    Example:
        >>> TrainConfig(model="resnet18", lr=0.1, optimizer="sgd").momentum
        0.9
    """

    model: str = "resnet50"  # see create_model
    data: str = "mnist-5k"  # see load_images
    epochs: int = 5
    batch_size: int = 64
    optimizer: str = "adam"
    lr: float = 1e-3  # constant
    weight_decay: float = 0.0
    momentum: float = 0.9  # of sgd
    image_size: int | None = None  # pixels; None leaves the images as they are
    # Of the training images. "flip" mirrors them at random, "crop_flip" also shifts them by up to an eighth.
    augment: str = "none"
    shuffle: bool = True
    limit: int | None = None  # the most training images; of the test images the same share is taken
    stop_at: float | None = None  # training ends early at this test accuracy, 0 to 1
    precision: str = "auto"  # "auto": bfloat16 autocast and channels_last on a GPU, float32 on the CPU
    definition: str = "norm_ratio"
    every: int = 1
    seed: int = 0
    device: str = "auto"  # "auto": the GPU if there is one

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_type(field.name, str(field.type), getattr(self, field.name))
        for name, allowed in (("optimizer", OPTIMIZERS), ("augment", AUGMENTATIONS), ("precision", PRECISIONS)):
            check_one_of(name, getattr(self, name), allowed)
        for name in ("epochs", "batch_size", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        for name in ("image_size", "limit"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        for name in ("lr", "weight_decay", "momentum"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number of 0 or more, got {getattr(self, name)}")
        if self.stop_at is not None and not 0 < self.stop_at <= 1:
            raise ValueError(f"stop_at must be an accuracy above 0, at most 1, got {self.stop_at}")
        if self.image_size is not None and self.image_size > LARGEST_IMAGE:
            raise ValueError(f"image_size must be at most {LARGEST_IMAGE:,} pixels, got {self.image_size}")
        if not 0 <= self.seed < SEEDS:
            raise ValueError(f"seed must be 0 or more and below {SEEDS:,}, got {self.seed}")
        if self.augment == "crop_flip" and self.image_size is None:
            raise ValueError("augment='crop_flip' needs image_size, the pixels to crop to")
        check_definition(self.definition)

    def resolved(self) -> TrainConfig:
        """The settings with each `"auto"` replaced by the choice for this machine.

        Raises:
            ValueError: the device does not work here.
        """
        device, precision = self.device, self.precision
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:  # no such device, no driver, or a torch without it
            reason = str(error).splitlines()[0]
            raise ValueError(f"device must be one that works here, such as 'cpu'; got {device!r}: {reason}") from error
        if precision == "auto":
            precision = "float32" if device == "cpu" else "bfloat16"
        return replace(self, device=device, precision=precision)


def _check_type(name: str, kind: str, value: object) -> None:
    """Raise `ValueError` unless the value has the type of the setting."""
    if value is None and kind.endswith("None"):
        return
    wanted, text = _TYPES[kind.partition(" ")[0]]
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ValueError(f"{name} must be {text}{' or None' if kind.endswith('None') else ''}, got {value!r:.60}")


def recorded_config(run_dir: Path) -> TrainConfig:
    """The config that a run was started with.

    Raises:
        WeightScaleError: the folder holds no run, or its run was not trained by this package.
    """
    settings = RunFolder.open(run_dir).meta["settings"]
    names = [field.name for field in fields(TrainConfig)]
    if any(name not in settings for name in names):
        raise WeightScaleError(
            f"run folder {run_dir} was not made by weightscale train, so weightscale train cannot resume it"
        )
    try:
        return TrainConfig(**{name: settings[name] for name in names})
    except ValueError as error:
        raise WeightScaleError(f"the settings of run folder {run_dir} are damaged: {error}") from error


def same_workers(workers: int | None, run_dir: Path) -> int:
    """How many workers a run was started with.

    Raises:
        WeightScaleError: `workers` is another number, or the folder has none that can be.
    """
    before = RunFolder.open(run_dir).meta["settings"].get("workers", 0)
    if type(before) is not int or not 0 <= before <= MOST_WORKERS:
        raise WeightScaleError(
            f"the settings of run folder {run_dir} are damaged: workers must be 0 to {MOST_WORKERS}, got {before!r:.60}"
        )
    if workers not in (None, before):
        raise _differs(run_dir, "workers", before, workers)
    return before


def check_same(config: TrainConfig, before: TrainConfig, run_dir: Path) -> None:
    """Raise `WeightScaleError` unless a run that was started with `before` can go on with `config`."""
    for name, was in vars(before).items():
        if name != "device" and getattr(config, name) != was:
            raise _differs(run_dir, name, was, getattr(config, name))


def _differs(run_dir: Path, name: str, was: object, got: object) -> WeightScaleError:
    return WeightScaleError(
        f"run folder {run_dir} was started with {name}={was!r}, and can only go on so; got {got!r}: drop it, or choose "
        "another folder"
    )
