"""Faults of the learning rate: of one group, of the network, of its schedule, and of the weights that it must fit."""

from __future__ import annotations

import torch
from torch import nn

from .faults import Faults
from .not_trained import group_rate, weight_of
from .training import MIDDLE, Training

WRONG_RATE = Faults()
fault = WRONG_RATE.add

TOO_FAST = "fast growing runaway not_finite spike"
# A step so large that nothing lives on after it: that the network stopped is then the right name too.
TOO_FAST_AND_DEAD = f"{TOO_FAST} stopped all_stopped"


@fault("the rate of a layer's group is 10,000 times too low", "DeepFD LCH", "slow stopped", "group_rate low_rate")
def group_rate_low(run: Training) -> None:
    group_rate(run, 1e-4)


@fault("the rate of a layer's group is 100 times too high", "DeepFD LCH", TOO_FAST, "group_rate high_rate")
def group_rate_high(run: Training) -> None:
    group_rate(run, 100)


@fault("Adam's rate is 10,000 times too low", "DeepFD HLR, TheDeepChecker", "slow", "low_rate")
def low_rate_adam(run: Training) -> None:
    run.scale = 1e-4


@fault("SGD's rate is 10,000 times too low", "DeepFD HLR, TheDeepChecker", "slow", "low_rate")
def low_rate_sgd(run: Training) -> None:
    run.optimizer, run.scale = "sgd", 1e-4


@fault("Adam's rate is 300 times too high", "DeepFD HLR, TheDeepChecker", TOO_FAST_AND_DEAD, "high_rate")
def high_rate_adam(run: Training) -> None:
    run.scale = 300


@fault("SGD's rate is 100 times too high", "DeepFD HLR, TheDeepChecker", TOO_FAST_AND_DEAD, "high_rate")
def high_rate_sgd(run: Training) -> None:
    run.optimizer, run.scale = "sgd", 100


@fault("momentum 0.999 with SGD's rate for 0", "common", f"{TOO_FAST} large_step", "high_rate accumulated_gradient")
def momentum_too_high(run: Training) -> None:
    run.optimizer, run.options = "sgd", {"momentum": 0.999}


@fault("one step has 1,000 times the rate", "common", f"spike {TOO_FAST_AND_DEAD}", "high_rate rate_spike")
def rate_spike(run: Training) -> None:
    run.schedule = lambda step: 1000.0 if step == MIDDLE else 1.0


@fault("a step decay meant for epochs counts batches", "common", "slow all_stopped", "rate_decayed low_rate zero_rate")
def decay_per_batch(run: Training) -> None:
    run.schedule = lambda step: 0.1 ** (step // 5)


@fault("an exponential decay meant for epochs counts batches", "common", "slow all_stopped", "rate_decayed low_rate")
def slower_decay_per_batch(run: Training) -> None:
    run.schedule = lambda step: 0.9**step


@fault("a warm-up of a million steps", "common", "slow", "low_rate")
def endless_warm_up(run: Training) -> None:
    run.schedule = lambda step: (step + 1) / 1e6


@fault("the rate becomes 0 for all in mid-run", "common", "all_stopped", "zero_rate rate_decayed")
def rate_0_in_mid_run(run: Training) -> None:
    run.schedule = lambda step: float(step < MIDDLE)


@fault("bfloat16 weights, whose steps are rounded away", "torchao 1124", "stuck still slow", "rounding low_rate")
def bfloat16_lost(run: Training) -> None:
    run.dtype, run.options = torch.bfloat16, {"fused": False}
    run.scale = 1e-6 / run.network.rates["adam"]


@fault("bfloat16 weights at a rate that float32 can learn with", "torchtune 2254", "stuck", "rounding")
def bfloat16_mostly_lost(run: Training) -> None:
    run.dtype, run.options = torch.bfloat16, {"fused": False}
    run.scale = 3e-5 / run.network.rates["adam"]


@fault(
    "weights in units of 1e-6, so that float32 loses the steps", "common", "stuck still slow", "rounding large_weights"
)
def float32_lost(run: Training) -> None:
    def scale() -> None:
        for module in layers(run.model):
            with torch.no_grad():
                for parameter in module.parameters(recurse=False):
                    parameter.mul_(1e6)
            module.register_forward_hook(lambda module, x, y: y / 1e6)

    run.on_model.append(scale)


@fault("all weights begin 50 times too large", "TheDeepChecker, DeepFD ACH", "slow", "large_weights")
def huge_start(run: Training) -> None:
    run.on_model.append(lambda: scale_weights(run.model, 50))


@fault(
    "huge weights saturate tanh",
    "AutoTrainer",
    "slow small_step still sparse",
    "large_weights tiny_gradient zero_gradient",
)
def saturated_tanh(run: Training) -> None:
    run.activation = nn.Tanh
    run.on_model.append(lambda: scale_weights(run.model, 100))


@fault(
    "huge weights saturate a sigmoid under SGD",
    "AutoTrainer",
    "slow small_step still sparse",
    "large_weights tiny_gradient zero_gradient",
)
def saturated_sigmoid(run: Training) -> None:
    run.activation, run.optimizer = nn.Sigmoid, "sgd"
    run.on_model.append(lambda: scale_weights(run.model, 100))


@fault("AdamW with a weight decay of 30", "TheDeepChecker over-regularisation", "shrinking fast", "decay")
def too_much_decay_adamw(run: Training) -> None:
    run.optimizer, run.options = "adamw", {"weight_decay": 30.0}


@fault("SGD with a weight decay of 1", "TheDeepChecker over-regularisation", "shrinking fast all_stopped", "decay")
def too_much_decay_sgd(run: Training) -> None:
    run.optimizer, run.options = "sgd", {"weight_decay": 1.0}


def layers(model: nn.Module) -> list[nn.Module]:
    """The modules with weights, without norms."""
    return [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding))]


def scale_weights(model: nn.Module, factor: float) -> None:
    """Multiply the weights of all layers."""
    with torch.no_grad():
        for module in layers(model):
            weight_of(module).mul_(factor)
