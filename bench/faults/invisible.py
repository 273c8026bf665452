"""Faults that the movement of weights does not show. They are run to see what is said of them; they are no misses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .faults import Faults
from .networks import Network
from .not_trained import weight_of
from .training import Training
from .wrong_rate import layers, scale_weights

INVISIBLE = Faults()
fault = INVISIBLE.add


def classifies(network: Network) -> bool:
    """Whether the network has classes."""
    return network.classes > 0


@fault("the sign of the loss is wrong", "TheDeepChecker", visible=False)
def loss_sign(run: Training) -> None:
    run.on_loss.append(lambda step, loss: -loss)


@fault("the targets belong to other inputs", "TheDeepChecker", visible=False)
def wrong_labels(run: Training) -> None:
    run.on_batch.append(lambda step, x, y: (x, y.roll(1, 0)))


@fault("the targets of a batch are all alike", "C1", visible=False)
def constant_labels(run: Training) -> None:
    run.on_batch.append(lambda step, x, y: (x, torch.zeros_like(y)))


@fault("softmax before a loss that has one", "TheDeepChecker, UMLAUT", visible=False, applies=classifies)
def double_softmax(run: Training) -> None:
    run.make_loss = lambda output, y: run.network.loss(output.softmax(-1), y)


@fault("all weights of a layer begin equal", "TheDeepChecker", visible=False)
def constant_start(run: Training) -> None:
    run.on_model.append(lambda: [nn.init.constant_(weight_of(layer), 0.05) for layer in layers(run.model)])


@fault("all weights begin 100 times too small", "TheDeepChecker", visible=False)
def tiny_start(run: Training) -> None:
    run.on_model.append(lambda: scale_weights(run.model, 0.01))


@fault("the inputs are normalised twice", "TheDeepChecker", visible=False, applies=lambda network: not network.tokens)
def normalised_twice(run: Training) -> None:
    run.on_batch.append(lambda step, x, y: (x / 16, y))


@fault("sigmoids instead of ReLUs", "TheDeepChecker, DeepFD ACH", visible=False)
def sigmoids(run: Training) -> None:
    run.activation = nn.Sigmoid


@fault("the loss is a sum and not a mean, with Adam", "DeepFD", visible=False)
def summed_loss_adam(run: Training) -> None:
    run.on_loss.append(lambda step, loss: loss * 32)


@fault("Adam's eps is 1e-16", "TheDeepChecker", visible=False)
def eps_too_small(run: Training) -> None:
    run.options = {"eps": 1e-16}


@fault("the sign of one layer's gradient is wrong", "TheDeepChecker", visible=False)
def layer_sign(run: Training) -> None:
    run.on_model.append(lambda: weight_of(run.module("middle")).register_hook(lambda gradient: -gradient))


@fault("the model trains in evaluation mode, without dropout", "TrainCheck", visible=False)
def evaluation_mode(run: Training) -> None:
    run.activation = lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.2))
    run.on_model.append(lambda: run.model.eval())


@fault("a mean squared error for classes", "DeepFD LCH", visible=False, applies=classifies)
def wrong_loss(run: Training) -> None:
    run.make_loss = lambda output, y: squares(output, y, run.network.classes)


def squares(output: Tensor, target: Tensor, classes: int) -> Tensor:
    """The mean squared error to one-hot targets."""
    return F.mse_loss(output, F.one_hot(target, classes).float())
