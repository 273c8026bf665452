"""The parts of the networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MakeActivation = Callable[[], nn.Module]


class Separable(nn.Module):
    """A depthwise and a pointwise convolution, each with batch norm. The first block has a full convolution instead."""

    def __init__(self, inputs: int, outputs: int, activation: MakeActivation, stride: int = 1) -> None:
        super().__init__()
        width = max(inputs, 16)
        self.depth = nn.Conv2d(inputs, width, 3, stride, 1, groups=inputs, bias=False)
        self.norm1, self.activation1 = nn.BatchNorm2d(width), activation()
        self.point = nn.Conv2d(width, outputs, 1, bias=False)
        self.norm2, self.activation2 = nn.BatchNorm2d(outputs), activation()

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation1(self.norm1(self.depth(x)))
        return self.activation2(self.norm2(self.point(x)))


class Residual(nn.Module):
    """A residual block of two linear layers behind a layer norm."""

    def __init__(self, width: int, hidden: int, activation: MakeActivation) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.activation, self.down = nn.Linear(width, hidden), activation(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.activation(self.up(self.norm(x))))


class Attention(nn.Module):
    """A block of self-attention with 4 heads and a hidden layer."""

    def __init__(self, width: int, activation: MakeActivation) -> None:
        super().__init__()
        self.norm1, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.up = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.activation, self.down = activation(), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(batch, length, width)
        x = x + self.out(mixed)
        return x + self.down(self.activation(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Embeddings of tokens and places, blocks of attention, and a head."""

    def __init__(self, tokens: int, length: int, width: int, blocks: int, activation: MakeActivation) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(tokens, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Attention(width, activation) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        head: Tensor = self.head(self.norm(self.blocks(x)))
        return head


class Recurrent(nn.Module):
    """Reads the rows of a picture one after the other."""

    def __init__(self, width: int, features: int, hidden: int, classes: int, activation: MakeActivation) -> None:
        super().__init__()
        self.into, self.activation = nn.Linear(width, features), activation()
        self.rows = nn.GRU(features, hidden, batch_first=True)
        self.hidden, self.second = nn.Linear(hidden, hidden), activation()
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rows(self.activation(self.into(x.flatten(1, 2))))
        return self.head(self.second(self.hidden(states[:, -1])))
