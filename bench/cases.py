"""The weights that are measured, by name."""

from __future__ import annotations

import timm
import torch
from torch import nn

from weightscale_fast.layers import select_layers

MODELS = ("resnet50", "efficientnet_b4", "vit_base_patch16_224")
ARRAYS = {"1 x 64 M": (1, 64_000_000), "1,000 x 4,096": (1_000, 4_096)}
CASES = (*MODELS, *ARRAYS)


def layers_of(case: str) -> nn.Module:
    """A module that holds the case's layers and nothing else, float32, untrained."""
    module = nn.Module()
    if case in MODELS:
        weights = [p.detach() for p in select_layers(timm.create_model(case)).values()]
    else:
        count, size = ARRAYS[case]
        weights = [torch.randn(1, size) for _ in range(count)]
    for i, w in enumerate(weights):
        module.register_parameter(f"w{i}", nn.Parameter(w))
    return module
