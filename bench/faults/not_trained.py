"""Faults of what is trained: layers that the optimizer, the loss or the forward pass does not reach."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from .faults import Faults
from .training import MIDDLE, Training

NOT_TRAINED = Faults()
fault = NOT_TRAINED.add


@fault("a layer is left out of the optimizer", "common", "still", "not_in_optimizer")
def not_in_optimizer(run: Training) -> None:
    run.groups = lambda model: without(model, run.module("middle"))


@fault("the optimizer has a deep copy's parameters", "TrainCheck accelerate-2665", "raised", "other_tensors")
def optimizer_of_a_copy(run: Training) -> None:
    run.groups = lambda model: list(copy.deepcopy(model).parameters())


@fault("the model is replaced after the optimizer is made", "TrainCheck pytorch-115607", "raised", "other_tensors")
def optimizer_of_an_old_model(run: Training) -> None:
    def replace() -> None:
        run.model = run.network.build(run.activation)

    run.on_optimizer.append(replace)


@fault("the same, with a monitor that does not know the optimizer", "TrainCheck pytorch-115607", "still all_stopped")
def old_model_and_record(run: Training) -> None:
    optimizer_of_an_old_model(run)
    run.watch = "none"


@fault("the head is replaced after the optimizer is made", "common", "still", "not_in_optimizer other_tensors")
def head_replaced(run: Training) -> None:
    def replace() -> None:
        old = run.module("head")
        assert isinstance(old, nn.Linear)
        run.model.set_submodule(run.network.head, nn.Linear(old.in_features, old.out_features))

    run.on_optimizer.append(replace)


@fault(
    "a weight is made anew after the optimizer", "TrainCheck accelerate-2665", "still", "not_in_optimizer other_tensors"
)
def weight_made_anew(run: Training) -> None:
    def renew() -> None:
        module = run.module("middle")
        module.weight = nn.Parameter(weight_of(module).detach().clone())

    run.on_optimizer.append(renew)


@fault("a second optimizer has the other layers and never steps", "common", "still", "not_in_optimizer")
def second_optimizer_never_steps(run: Training) -> None:
    run.groups = lambda model: list(model.parameters())[: len(list(model.parameters())) // 2]


@fault("a layer is frozen by mistake", "common", "frozen", "frozen", note=True)
def frozen_by_mistake(run: Training) -> None:
    run.on_model.append(lambda: run.module("middle").requires_grad_(False))


@fault("a layer is frozen by mistake in mid-run", "common", "stopped frozen", "frozen", note=True)
def frozen_in_mid_run(run: Training) -> None:
    def freeze(step: int) -> None:
        if step == MIDDLE:
            run.module("middle").requires_grad_(False)

    run.on_step.append(freeze)


@fault("a frozen layer moves on with an old gradient", "TrainCheck mmpretrain-702", "warning runaway large_step fast")
def frozen_layer_moves(run: Training) -> None:
    old: list[Tensor] = []

    def freeze(step: int) -> None:
        layer = run.module("middle")
        if step == MIDDLE:
            old.extend(parameter.grad.clone() for parameter in layer.parameters() if parameter.grad is not None)
            layer.requires_grad_(False)
        if step >= MIDDLE:
            for parameter, gradient in zip(layer.parameters(), old, strict=True):
                parameter.grad = gradient

    run.on_gradients.append(freeze)


@fault("a layer's output is detached", "common", "still", "no_gradient")
def detached_branch(run: Training) -> None:
    run.on_model.append(lambda: run.module("middle").register_forward_hook(lambda module, x, y: y.detach()))


@fault("forward() does not use a layer", "common", "still", "no_gradient")
def unused_layer(run: Training) -> None:
    run.on_model.append(lambda: run.module("middle").add_module("unused", nn.Linear(16, 16)))


@fault("the loss is detached", "TheDeepChecker", "still all_stopped", "no_gradient")
def loss_detached(run: Training) -> None:
    run.on_loss.append(lambda step, loss: loss.detach().requires_grad_())


@fault("gradients are set to None before the step", "common", "still all_stopped", "no_gradient")
def zeroed_before_step(run: Training) -> None:
    run.on_gradients.append(lambda step: run.optimizers[0].zero_grad())


@fault("gradients are set to 0 before the step", "common", "still all_stopped", "zero_gradient")
def zeroed_to_0_before_step(run: Training) -> None:
    run.on_gradients.append(lambda step: run.optimizers[0].zero_grad(set_to_none=False))


@fault("the rate of a layer's group is 0", "common", "still", "zero_rate")
def group_rate_0(run: Training) -> None:
    group_rate(run, 0.0)


@fault("an update is written to a copy of one weight", "TrainCheck pytorch-mps-addcmul", "still")
def update_of_a_copy(run: Training) -> None:
    class Faulty(torch.optim.Adam):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            weight = weight_of(run.module("middle"))
            before = weight.detach().clone()
            super().step(closure)
            with torch.no_grad():
                weight.copy_(before)

    def replace() -> None:
        run.optimizers = [Faulty(run.model.parameters(), lr=run.rate)]

    run.on_optimizer.append(replace)


@fault("the loss of a part becomes 0 in mid-run", "common", "all_stopped", "zero_gradient")
def loss_weight_0_in_mid_run(run: Training) -> None:
    run.on_loss.append(lambda step, loss: loss * (step < MIDDLE))


@fault("a hook sets a layer's gradient to 0 in mid-run", "common", "stopped", "zero_gradient")
def layer_gradient_0_in_mid_run(run: Training) -> None:
    steps = count_steps(run)

    def hooked() -> None:
        weight_of(run.module("middle")).register_hook(lambda gradient: gradient * (steps[0] < MIDDLE))

    run.on_model.append(hooked)


@fault("a hook lets 4 % of a layer's channels learn", "common", "sparse", "zero_gradient dead_weights")
def most_channels_masked(run: Training) -> None:
    def hooked() -> None:
        weight = weight_of(run.module("middle"))
        mask = torch.zeros_like(weight)
        mask[: max(1, round(0.04 * len(mask)))] = 1
        weight.register_hook(lambda gradient: gradient * mask)

    run.on_model.append(hooked)


def without(model: nn.Module, layer: nn.Module) -> list[nn.Parameter]:
    """The parameters of the model but those of a layer."""
    left_out = {id(parameter) for parameter in layer.parameters()}
    return [parameter for parameter in model.parameters() if id(parameter) not in left_out]


def weight_of(module: nn.Module) -> nn.Parameter:
    """The weight of a layer."""
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def group_rate(run: Training, factor: float, layer: str = "middle") -> None:
    """Give a layer a group of its own, with another rate."""
    run.groups = lambda model: [
        {"params": without(model, run.module(layer))},
        {"params": list(run.module(layer).parameters()), "lr": run.rate * factor},
    ]


def count_steps(run: Training) -> list[int]:
    """A list of one number, the steps so far."""
    steps = [0]
    run.on_step.append(lambda step: steps.__setitem__(0, step + 1))
    return steps
