"""The papers' experiments. Each is a network on a data set, with the settings of its paper.

There are two papers. `weightscale` is *WeightScale: Interpreting Weight Change in Neural Networks*. `layerwise` is
*Investigating Learning in Deep Neural Networks using Layer-Wise Weight Change* (arXiv 2011.06735).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import check_one_of
from ..train.config import TrainConfig

PAPERS = {
    "weightscale": "WeightScale (Agrawal, Tendle, Sikka, Singh)",
    "layerwise": "Layer-Wise Weight Change (arXiv 2011.06735)",
}
LAYERWISE_SEEDS = (0, 42, 123, 1000, 1234)  # the authors' configs.json
BATCH_SIZE = 128  # WeightScale, Table 1. The text of the other paper gives none; the authors' configs.json says 128.
AS_CODED = {
    "resnet34": "the network that the paper calls ResNet-50 is a ResNet-34 in the code and in the published curves",
    "no_shuffle": "the training images come in the order of their files in every epoch",
    "stop_at_94": "training ends at the first epoch whose test accuracy is 94 % or more",
    "mean_ratio": "RWC is the mean over the weights of |change| / |weight|, not the ratio of the sums of Eq. 1",
}


@dataclass(frozen=True)
class Preset:
    """An experiment of a paper."""

    name: str
    paper: str  # a key of PAPERS
    config: TrainConfig
    seeds: tuple[int, ...]
    published: float | None  # the paper's top-1 test accuracy, 0 to 1; None if we do not have it
    note: str = ""  # where the paper contradicts itself

    @property
    def network(self) -> str:
        """The architecture as the paper calls it."""
        return self.config.model.removesuffix("-small")


def _weightscale() -> list[Preset]:
    """Adam at 1e-3, 25 epochs, one seed. ResNet takes 32 x 32 images, EfficientNet 224 x 224 (WeightScale, Table 1)."""
    conflict = "batch size 128 as in the paper's Table 1; its text says 32"
    presets = []
    for model, size, note in (("resnet50-small", 32, ""), ("efficientnet_b4", 224, conflict)):
        for data in ("cifar10", "cifar100", "svhn"):
            config = TrainConfig(
                model=model,
                data=data,
                epochs=25,
                batch_size=BATCH_SIZE,
                optimizer="adam",
                lr=1e-3,
                image_size=size,
                augment="flip",
                precision="float32",
            )
            presets.append(Preset(f"{model.removesuffix('-small')}-{data}", "weightscale", config, (0,), None, note))
    return presets


def _layerwise() -> list[Preset]:
    """SGD with momentum 0.9 at a constant rate, 150 epochs, the mean of five seeds, images of 32 x 32."""
    rates = {  # learning rate by data set, weight decay
        "resnet18": ({"cifar10": 0.1, "cifar100": 0.1, "mnist": 0.1, "fashion-mnist": 0.1}, 1e-4),
        "vgg19_bn": ({"cifar10": 0.05, "cifar100": 0.05, "mnist": 0.05, "fashion-mnist": 0.05}, 5e-4),
        "alexnet": ({"cifar10": 0.001, "cifar100": 0.01, "mnist": 0.1, "fashion-mnist": 0.1}, 1e-4),
    }
    published = {
        "resnet18": {"cifar10": 0.91, "cifar100": 0.64, "mnist": 0.99, "fashion-mnist": 0.92},
        "vgg19_bn": {"cifar10": 0.905, "cifar100": 0.636, "mnist": 0.985, "fashion-mnist": 0.916},
        "alexnet": {"cifar10": 0.81, "cifar100": 0.53, "mnist": 0.985, "fashion-mnist": 0.895},
    }
    presets = []
    for model, (rate_of, weight_decay) in rates.items():
        for data, lr in rate_of.items():
            config = TrainConfig(
                model=f"{model}-small",
                data=data,
                epochs=150,
                batch_size=BATCH_SIZE,
                optimizer="sgd",
                lr=lr,
                weight_decay=weight_decay,
                momentum=0.9,
                image_size=32,
                augment="crop_flip" if data.startswith("cifar") else "flip",
                precision="float32",
            )
            name = f"{model}-{data}"
            presets.append(Preset(name, "layerwise", config, LAYERWISE_SEEDS, published[model][data]))
    return presets


PRESETS = {preset.name: preset for preset in (*_weightscale(), *_layerwise())}


def find_preset(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        ValueError: there is no such preset. The message names them all.

    Example:
        >>> find_preset("vgg19_bn-cifar10").config.lr
        0.05
    """
    check_one_of("preset", name, PRESETS)
    return PRESETS[name]


def as_coded(config: TrainConfig, options: Sequence[str]) -> TrainConfig:
    """The config, changed to what the authors' code did and their text does not say: `options` are names in `AS_CODED`.

    Raises:
        ValueError: there is no such option, or `"resnet34"` is given for a network that is not ResNet-50.

    Example:
        >>> as_coded(find_preset("resnet50-svhn").config, ["resnet34"]).model
        'resnet34-small'
    """
    changes: dict[str, dict[str, Any]] = {
        "resnet34": {"model": "resnet34-small"},
        "no_shuffle": {"shuffle": False},
        "stop_at_94": {"stop_at": 0.94},
        "mean_ratio": {"definition": "mean_ratio"},
    }
    for option in options:
        check_one_of("as_coded", option, AS_CODED)
        if option == "resnet34" and config.model != "resnet50-small":
            raise ValueError(f"as_coded 'resnet34' is for the presets of ResNet-50, got {config.model!r}")
        config = replace(config, **changes[option])
    return config
