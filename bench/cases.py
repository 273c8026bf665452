"""The sets of weights that the benchmarks use, by name.

The shapes of the networks' layers are in shapes.json, so no model library is needed.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

NETWORKS = json.loads((Path(__file__).parent / "shapes.json").read_text())  # timm's weights of more than one dimension


def transformer_1b() -> list[list[int]]:
    """The shapes of a decoder of 1.1 B weights: 22 blocks of width 2,048 with grouped queries, and 32,000 tokens."""
    block = [[2048, 2048], [256, 2048], [256, 2048], [2048, 2048], [5632, 2048], [5632, 2048], [2048, 5632]]
    return [[32_000, 2048], *block * 22, [32_000, 2048]]


SHAPES: dict[str, list[list[int]]] = {
    **NETWORKS,
    "transformer 1.1 B": transformer_1b(),
    "1 x 16 M": [[4_000, 4_000]],
    "1 x 64 M": [[8_000, 8_000]],
    "1 x 1 G": [[31_250, 32_000]],
    "1 x above 2^31": [[2**31 // 4096 + 1, 4096]],
    "1,000 x 4,096": [[64, 64]] * 1_000,
    "tiny": [[8, 8], [3, 5]],  # for a dry run
}
ON_CPU = (*NETWORKS, "1 x 64 M", "1,000 x 4,096")


def layers_of(case: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> nn.Module:
    """A module with the layers of the case and random weights."""
    module = nn.Module()
    for i, shape in enumerate(SHAPES[case]):
        weights = torch.randn(shape, dtype=dtype, device=device)
        module.register_parameter(f"w{i}", nn.Parameter(weights.mul_(0.02)))
    return module
