"""The small networks that the faults are put into. They learn real or made data, and a step takes 1 to 3 ms on a CPU.

The limits of `check_health` may be tuned on TUNED_ON. HELD_OUT must not be looked at for that: they show how well the
limits hold on networks that nobody tuned them for. A false alarm in `residual` changed one rule: a spike without a jump
of the rate must be larger. `recurrent` was added after that, and nothing was changed since.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import MakeActivation, Recurrent, Residual, Separable, Transformer

BATCH = 32
TUNED_ON = ("regression", "cnn")
HELD_OUT = ("depthwise", "transformer", "residual", "recurrent")


@dataclass(frozen=True)
class Network:
    """A network, its data, and the names of the modules that faults need.

    Args:
        build: makes the model, given what makes an activation.
        draw: makes a batch of inputs and targets from a generator.
        rates: a good learning rate for each optimizer.
        first, middle, head: the names of modules with a weight. In front of `head` nothing depends on it.
        dies: the name of the module whose bias goes into a ReLU; with a bias of -1,000 that ReLU is dead.
        all_die: the same for every ReLU, if the network is dead without them.
        tokens: whether the inputs are tokens, which cannot be scaled.
        classes: the number of classes; 0 for a regression.
    """

    name: str
    build: Callable[[MakeActivation], nn.Module]
    draw: Callable[[torch.Generator], tuple[Tensor, Tensor]]
    rates: Mapping[str, float]
    first: str
    middle: str
    head: str
    dies: str
    all_die: tuple[str, ...] = ()
    tokens: bool = False
    classes: int = 0

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The loss that a sane training has."""
        if not self.classes:
            return F.mse_loss(output, target)
        return F.cross_entropy(output.flatten(0, -2), target.flatten())


def from_table(x: Tensor, y: Tensor) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    """Batches of random rows."""

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        return x[rows], y[rows]

    return draw


def normalised(x: Tensor) -> Tensor:
    """Columns of mean 0 and standard deviation 1."""
    return (x - x.mean(0)) / x.std(0)


def to_reverse(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences of 8 tokens of 12 that are to be written backwards. One target in ten is wrong, so a loss is left."""
    tokens, wrong = torch.randint(12, (2, BATCH, 8), generator=generator)
    return tokens, torch.where(torch.rand(BATCH, 8, generator=generator) < 0.1, wrong, tokens.flip(1))


def regression() -> Network:
    """Diabetes: 10 numbers of a patient, one to predict; two hidden layers."""
    x, y = (torch.tensor(array, dtype=torch.float32) for array in load_diabetes(return_X_y=True))
    return Network(
        name="regression",
        build=lambda activation: nn.Sequential(
            nn.Linear(10, 64), activation(), nn.Linear(64, 64), activation(), nn.Linear(64, 1)
        ),
        draw=from_table(normalised(x), normalised(y)[:, None]),
        rates={"sgd": 0.05, "momentum": 0.01, "adam": 2e-3, "adamw": 2e-3, "rmsprop": 1e-3, "muon": 0.01},
        first="0",
        middle="2",
        head="4",
        dies="2",
        all_die=("0", "2"),
    )


def digits() -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    """Batches of 8 x 8 pictures of digits."""
    x, y = load_digits(return_X_y=True)
    pictures = torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8)
    return from_table((pictures - 4.88) / 6.02, torch.tensor(y))


def cnn() -> Network:
    """Digits: two convolutions and two linear layers."""
    return Network(
        name="cnn",
        build=lambda activation: nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            activation(),
            nn.Conv2d(16, 16, 3, stride=2, padding=1),
            activation(),
            nn.Flatten(),
            nn.Linear(256, 32),
            activation(),
            nn.Linear(32, 10),
        ),
        draw=digits(),
        rates={"sgd": 0.1, "momentum": 0.02, "adam": 2e-3, "adamw": 2e-3, "rmsprop": 5e-4, "muon": 0.01},
        first="0",
        middle="2",
        head="7",
        dies="2",
        all_die=("0", "2", "5"),
        classes=10,
    )


def depthwise() -> Network:
    """Digits: three depthwise separable blocks with batch norm."""
    return Network(
        name="depthwise",
        build=lambda activation: nn.Sequential(
            Separable(1, 16, activation),
            Separable(16, 32, activation, stride=2),
            Separable(32, 32, activation),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        ),
        draw=digits(),
        rates={"sgd": 0.2, "momentum": 0.05, "adam": 3e-3, "adamw": 3e-3, "rmsprop": 1e-3, "muon": 0.02},
        first="0.depth",
        middle="2.depth",
        head="5",
        dies="1.norm2",
        all_die=("0.norm1", "0.norm2", "1.norm1", "1.norm2", "2.norm1", "2.norm2"),
        classes=10,
    )


def transformer() -> Network:
    """Sequences to write backwards: embeddings, and two layers of attention with layer norm."""
    return Network(
        name="transformer",
        build=lambda activation: Transformer(12, 8, 32, 2, activation),
        draw=to_reverse,
        rates={"sgd": 0.3, "momentum": 0.05, "adam": 3e-3, "adamw": 3e-3, "rmsprop": 1e-3, "muon": 0.02},
        first="tokens",
        middle="blocks.0.up",
        head="head",
        dies="blocks.0.up",
        tokens=True,
        classes=12,
    )


def residual() -> Network:
    """Breast cancer: 30 numbers of a cell, two classes; three residual blocks with layer norm."""
    x, y = load_breast_cancer(return_X_y=True)
    return Network(
        name="residual",
        build=lambda activation: nn.Sequential(
            nn.Linear(30, 32),
            Residual(32, 64, activation),
            Residual(32, 64, activation),
            Residual(32, 64, activation),
            nn.LayerNorm(32),
            nn.Linear(32, 2),
        ),
        draw=from_table(normalised(torch.tensor(x, dtype=torch.float32)), torch.tensor(y)),
        rates={"sgd": 0.05, "momentum": 0.01, "adam": 1e-3, "adamw": 1e-3, "rmsprop": 5e-4, "muon": 0.01},
        first="0",
        middle="2.up",
        head="5",
        dies="2.up",
        classes=2,
    )


def recurrent() -> Network:
    """Digits, row by row: a recurrent layer between linear ones."""
    return Network(
        name="recurrent",
        build=lambda activation: Recurrent(8, 16, 32, 10, activation),
        draw=digits(),
        rates={"sgd": 0.2, "momentum": 0.05, "adam": 3e-3, "adamw": 3e-3, "rmsprop": 1e-3, "muon": 0.02},
        first="into",
        middle="hidden",
        head="head",
        dies="hidden",
        all_die=("hidden",),
        classes=10,
    )


MAKERS = {make.__name__: make for make in (regression, cnn, depthwise, transformer, residual, recurrent)}


@functools.cache
def network(name: str) -> Network:
    """One of MAKERS, with its data, loaded once."""
    return MAKERS[name]()
