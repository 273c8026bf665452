"""Faults of the gradients, and of what is done to the weights beside the optimizer's step."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from .faults import Faults
from .networks import Network
from .not_trained import weight_of
from .training import MIDDLE, Training
from .wrong_rate import TOO_FAST_AND_DEAD

BAD_GRADIENTS = Faults()
fault = BAD_GRADIENTS.add


def all_can_die(network: Network) -> bool:
    """Whether dead ReLUs cut the whole network off."""
    return bool(network.all_die)


def no_norm(network: Network) -> bool:
    """Whether nothing takes the scale of the inputs out again: a norm does, and tokens have none."""
    return network.name in ("regression", "cnn")


@fault("a ReLU is dead from the start", "TheDeepChecker, AutoTrainer", "still", "zero_gradient dead_weights")
def dead_relu(run: Training) -> None:
    run.on_model.append(lambda: kill(run, "dies"))


# Without a way around it nearly all layers die.
@fault("a ReLU dies in mid-run", "AutoTrainer dying ReLU", "stopped all_stopped", "zero_gradient dead_weights")
def dead_relu_in_mid_run(run: Training) -> None:
    run.on_step.append(lambda step: kill(run, "dies") if step == MIDDLE else None)


@fault(
    "all ReLUs die in mid-run",
    "AutoTrainer dying ReLU",
    "all_stopped",
    "zero_gradient dead_weights",
    applies=all_can_die,
)
def network_dead_in_mid_run(run: Training) -> None:
    run.on_step.append(lambda step: [kill(run, name) for name in run.network.all_die] if step == MIDDLE else None)


@fault("NaN in a batch", "C1", "not_finite")
def nan_in_a_batch(run: Training) -> None:
    run.on_loss.append(lambda step, loss: loss * (math.nan if step == MIDDLE else 1))


@fault("gradients are never zeroed, with Adam", "TrainCheck so-60335387", "large_step", "accumulated_gradient")
def never_zeroed_adam(run: Training) -> None:
    run.zero_grad = False


@fault(
    "gradients are never zeroed, with SGD",
    "TrainCheck so-60335387",
    f"large_step {TOO_FAST_AND_DEAD}",
    "accumulated_gradient",
)
def never_zeroed_sgd(run: Training) -> None:
    run.optimizer, run.zero_grad = "sgd", False


@fault(
    "gradients are clipped to a norm of 1e-8, with Adam", "Megatron-LM 5395", "small_step slow stuck", "tiny_gradient"
)
def clip_too_tight_adam(run: Training) -> None:
    run.clip = 1e-8


@fault("gradients are clipped to a norm of 1e-5, with SGD", "DeepSpeed 8439", "small_step slow stuck", "tiny_gradient")
def clip_too_tight_sgd(run: Training) -> None:
    run.optimizer, run.clip = "sgd", 1e-5


@fault("Adam's eps is 1", "TheDeepChecker", "small_step slow", "large_eps")
def eps_too_large(run: Training) -> None:
    run.options = {"eps": 1.0}


@fault("the loss is scaled by 1e-8, with Adam", "common", "small_step slow stuck", "tiny_gradient")
def loss_scaled_down_adam(run: Training) -> None:
    run.on_loss.append(lambda step, loss: loss * 1e-8)


@fault("the loss is scaled by 1e-8, with SGD", "common", "small_step slow stuck still", "tiny_gradient rounding")
def loss_scaled_down_sgd(run: Training) -> None:
    run.optimizer = "sgd"
    loss_scaled_down_adam(run)


@fault("the loss is a sum over 1,000 times as much, with SGD", "DeepFD", TOO_FAST_AND_DEAD, "high_rate")
def loss_scaled_up_sgd(run: Training) -> None:
    run.optimizer = "sgd"
    run.on_loss.append(lambda step, loss: loss * 1e3)


@fault("inputs 1,000 times too large, with SGD", "TheDeepChecker, UMLAUT", TOO_FAST_AND_DEAD, applies=no_norm)
def inputs_not_normalised_sgd(run: Training) -> None:
    run.optimizer = "sgd"
    run.on_batch.append(lambda step, x, y: (x * 1e3, y))


@fault("a gradient scaler skips every step", "TrainCheck", "skipped still warning")
def scaler_skips(run: Training) -> None:
    run.scaler, run.options = torch.amp.GradScaler("cpu"), {"fused": False}
    run.on_model.append(lambda: overflow(run))


@fault("a gradient scaler skips every step of a fused optimizer", "TrainCheck", "skipped")
def scaler_skips_fused(run: Training) -> None:
    run.scaler = torch.amp.GradScaler("cpu")
    run.on_model.append(lambda: overflow(run))


@fault("averaged weights are copied back at every step", "common", "warning slow small_step")
def average_copied_back(run: Training) -> None:
    average: list[Tensor] = []

    def copy_back(step: int) -> None:
        weights = [parameter.detach() for parameter in run.model.parameters()]
        if not average:
            average.extend(weight.clone() for weight in weights)
        for mean, weight in zip(average, weights, strict=True):
            mean.lerp_(weight, 1e-3)
            weight.copy_(mean)

    run.on_step.append(copy_back)


@fault("the first weights are loaded again at every step", "common", "warning still")
def weights_reloaded(run: Training) -> None:
    first: dict[str, Tensor] = {}
    run.on_model.append(lambda: first.update(copy.deepcopy(run.model.state_dict())))
    run.on_step.append(lambda step: run.model.load_state_dict(first))


@fault(
    "one layer's gradient is 1,000 times too large from mid-run, with SGD", "common", f"{TOO_FAST_AND_DEAD} large_step"
)
def layer_gradient_explodes(run: Training) -> None:
    run.optimizer = "sgd"
    run.on_gradients.append(lambda step: grow(run) if step >= MIDDLE else None)


def grow(run: Training) -> None:
    """Make one gradient too large."""
    gradient = weight_of(run.module("middle")).grad
    assert gradient is not None
    gradient.mul_(1e3)


def kill(run: Training, name: str) -> None:
    """Let a ReLU give 0 for ever."""
    bias = run.module(name).bias
    assert isinstance(bias, nn.Parameter)
    nn.init.constant_(bias, -1e3)


def overflow(run: Training) -> None:
    """Make the gradient of the head infinite, as a log of 0 in a penalty does."""
    weight_of(run.module("head")).register_hook(lambda gradient: gradient + math.inf)
