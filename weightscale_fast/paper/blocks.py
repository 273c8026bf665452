"""The parts of each network that the papers compare, first part first.

Letters: L layers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..analysis.groups import group_layers

_CONVOLUTION = re.compile(r"features\.\d+\.weight")
_PARTS = {  # the first and the last convolution of each part, counted from 1
    "vgg19_bn": {"early, conv 1-4": (1, 4), "middle, conv 5-10": (5, 10), "late, conv 11-16": (11, 16)},
    "alexnet": {"early, conv 1": (1, 1), "middle, conv 2-3": (2, 3), "late, conv 4-5": (4, 5)},
}


def blocks_of(network: str, names: Sequence[str], kinds: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """The indices of the layers of each part of `network`, first part first. Stems and classifiers are in no part.

    The parts of a ResNet are its four blocks, and those of an EfficientNet its seven stages. For VGG-19 and AlexNet
    arXiv 2011.06735 compares early, middle and late convolutions. It counts VGG's convolution 11 as both middle and
    late; here it is late.

    Args:
        network: the architecture, for example `"resnet18"`.
        names: the names of its L layers in network order.
        kinds: the kind of each layer, L of them.

    Raises:
        ValueError: the parts of this network are not known.

    Example:
        >>> blocks_of("resnet18", ["conv1.weight", "layer1.0.conv1.weight", "layer2.0.conv1.weight"], ["conv"] * 3)
        {'block 1': array([1]), 'block 2': array([2])}
    """
    if network in _PARTS:
        convolutions = [i for i, name in enumerate(names) if _CONVOLUTION.fullmatch(name) and kinds[i] != "linear"]
        return {part: np.array(convolutions[first - 1 : last]) for part, (first, last) in _PARTS[network].items()}
    if network.startswith("resnet"):
        blocks = group_layers(names, kinds, r"^layer(\d)")
        return {f"block {number}": rows for number, rows in blocks.items()}
    if network.startswith("efficientnet"):
        stages = group_layers(names, kinds, r"^blocks\.(\d)")
        return {f"stage {int(number) + 1}": rows for number, rows in stages.items()}
    raise ValueError(f"network must be a ResNet, an EfficientNet, {' or '.join(_PARTS)}; got {network!r}")
