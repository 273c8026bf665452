"""Networks by name, fitted to the data: timm's as they are, and torchvision's with first layers for small images.

Networks for 224 pixels shrink an image 32 times, and the first layers alone shrink it 4 times. Of 28 or 32 pixels
nothing would be left. `NAME-small` is torchvision's NAME with

- ResNet: a first convolution of 3 x 3 and stride 1, and no pooling after it;
- VGG: one linear layer on the 512 channels in place of three layers of 4,096, which need 7 x 7 pixels;
- AlexNet: two first convolutions of 3 x 3, one with stride 2, poolings of 2 x 2, and linear layers of 4,096 and 1,024.

These are the shapes that the authors of the papers trained. They are made for 32 pixels, and also work with 28.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ..extras import import_extra

SMALL = ("resnet18-small", "resnet34-small", "resnet50-small", "vgg19_bn-small", "alexnet-small")


def create_model(name: str, *, channels: int, classes: int) -> nn.Module:
    """Make the network `name`, untrained, for images with this many channels and classes.

    Args:
        name: a timm name, or one of `SMALL`: torchvision's network for images of about 32 pixels.
        channels: 1 for grey images, 3 for colour images.
        classes: the number of outputs.

    Raises:
        ValueError: there is no such model. The message has similar names.
        WeightScaleError: timm or torchvision is not installed.

    Example:
        >>> create_model("resnet18-small", channels=1, classes=10).conv1
        Conv2d(1, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    """
    if name in SMALL:
        architecture = name.removesuffix("-small")
        model = getattr(import_extra("torchvision.models", "train"), architecture)(num_classes=classes)
        fit = {"vgg19_bn": _fit_vgg, "alexnet": _fit_alexnet}.get(architecture, _fit_resnet)
        fit(model, channels, classes)
    else:
        timm = import_extra("timm", "train")
        if not timm.is_model(name):
            alike = [*(small for small in SMALL if name in small), *timm.list_models(f"*{name}*")[:5]]
            alike = alike or [*SMALL, *timm.list_models("resnet*")[:5]]
            raise ValueError(f"model must be one that timm knows, such as {', '.join(alike)}; got {name!r}")
        model = timm.create_model(name, num_classes=classes, in_chans=channels)
    assert isinstance(model, nn.Module)
    return model


def _fit_resnet(model: Any, channels: int, classes: int) -> None:
    model.conv1 = nn.Conv2d(channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision initializes it
    model.maxpool = nn.Identity()


def _fit_vgg(model: Any, channels: int, classes: int) -> None:
    model.features[0] = nn.Conv2d(channels, 64, kernel_size=3, padding=1)
    nn.init.kaiming_normal_(model.features[0].weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(model.features[0].bias)
    model.features[-1] = nn.AdaptiveMaxPool2d(1)  # 32 pixels have become 2 x 2 here, and 28 have become 1 x 1
    model.avgpool = nn.Identity()
    model.classifier = nn.Linear(512, classes)
    nn.init.normal_(model.classifier.weight, 0, 0.01)
    nn.init.zeros_(model.classifier.bias)


def _fit_alexnet(model: Any, channels: int, classes: int) -> None:
    model.features[0] = nn.Conv2d(channels, 64, kernel_size=3, stride=2, padding=1)
    model.features[3] = nn.Conv2d(64, 192, kernel_size=3, padding=1)
    for pooling in (2, 5, 12):
        model.features[pooling] = nn.MaxPool2d(2)
    model.avgpool = nn.AdaptiveAvgPool2d(2)  # changes nothing for images of 32 pixels
    model.classifier[1] = nn.Linear(256 * 2 * 2, 4096)
    model.classifier[4] = nn.Linear(4096, 1024)
    model.classifier[6] = nn.Linear(1024, classes)
