"""Networks by their timm name, fitted to the data."""

from __future__ import annotations

from torch import nn

from ..extras import import_extra


def create_model(name: str, *, channels: int, classes: int) -> nn.Module:
    """The timm model `name`, untrained, for images of `channels` channels and `classes` classes.

    Raises:
        ValueError: timm has no such model; the message names some alike.
        WeightScaleError: timm is not installed.
    """
    timm = import_extra("timm", "train")
    if not timm.is_model(name):
        alike = timm.list_models(f"*{name}*")[:5] or timm.list_models("resnet*")[:5]
        raise ValueError(f"model must be one that timm knows, such as {', '.join(alike)}; got {name!r}")
    model = timm.create_model(name, num_classes=classes, in_chans=channels)
    assert isinstance(model, nn.Module)
    return model
