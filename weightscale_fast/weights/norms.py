"""Biases and norm scales that have several dimensions: the default rule for layers leaves them out too."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

from .paths import PARAMETRIZATIONS

_NORMS = tuple(
    getattr(nn, name)
    for name in ("LayerNorm", "GroupNorm", "RMSNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")
    if hasattr(nn, name)  # RMSNorm is new in PyTorch 2.4
)
_NORM_CLASS = re.compile(r"(Layer|Group|RMS|Batch|Instance)Norm(\dd)?$")  # the same, of other packages
_BIAS = re.compile(r"(^|_)bias(_[kv])?$")  # bias_k and bias_v are nn.MultiheadAttention's
_OWN_MAGNITUDE = {"weight_g": "weight_v", "original0": "original1"}  # of weight_norm, and what it scales


def biases_and_scales(root: nn.Module) -> set[int]:
    """The ids of the parameters that are biases, scales of a norm, or the magnitudes of `weight_norm`.

    Example:
        >>> model = nn.Sequential(nn.LayerNorm([4, 8, 8]), nn.Flatten(), nn.Linear(256, 2))
        >>> ids = biases_and_scales(model)
        >>> [name for name, parameter in model.named_parameters() if id(parameter) in ids]
        ['0.weight', '0.bias', '2.bias']
    """
    found: set[int] = set()
    for module in root.modules():
        table: Mapping[str, nn.Parameter | None] = dict(module._parameters.items())
        is_norm = isinstance(module, _NORMS) or _NORM_CLASS.search(type(module).__name__) is not None
        for key, parameter in table.items():
            if is_norm or _BIAS.search(key) or table.get(_OWN_MAGNITUDE.get(key, "")) is not None:
                found.add(id(parameter))
        for key, list_of in dict(getattr(module, PARAMETRIZATIONS, None) or {}).items():
            if _BIAS.search(key):
                found |= {id(parameter) for parameter in list_of.parameters(recurse=False)}
    return found
