"""Training: a plain loop with places at which a fault changes it, recorded by a monitor as a user would do it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import weightscale_fast as wsf

from .blocks import MakeActivation
from .networks import Network

STEPS = 400
MIDDLE = STEPS // 2  # when faults begin that begin in mid-run
PACKAGE = str(Path(wsf.__file__).parent)


@dataclass
class Training:
    """What a training does. A fault or a clean run sets the fields, and adds functions to those at the end.

    Args:
        network: what is trained.
        optimizer: one of `Network.rates`.
        scale: the factor to the network's learning rate.
        options: of the optimizer.
        schedule: the factor to the learning rate at a step.
        clip: the largest norm of all gradients.
        accumulate: backward passes for each step.
        autocast: whether the forward pass is in bfloat16.
        dtype: of the weights.
        activation: makes an activation.
        seed: of the weights and of the batches.
        steps: how many.
        watch: which optimizer the monitor gets. "one" if there is only one, and otherwise the loop calls `record()`;
            "first" of two, with the layers that it trains; "none".
        zero_grad: whether the gradients are zeroed before a backward pass.
        scaler: a gradient scaler.
        make_loss: the loss of an output and a target; by default the network's.
        groups: the parameter groups of the optimizer; by default all parameters.
        on_model: called after the model is made, before the optimizer is.
        on_optimizer: called after the optimizer is made, before the monitor is.
        on_batch, on_loss: change the inputs and targets, or the loss, at a step.
        on_gradients: called before the optimizer's step.
        on_step: called after it.
    """

    network: Network
    optimizer: str = "adam"
    scale: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    schedule: Callable[[int], float] | None = None
    clip: float | None = None
    accumulate: int = 1
    autocast: bool = False
    dtype: torch.dtype = torch.float32
    activation: MakeActivation = nn.ReLU
    seed: int = 0
    steps: int = STEPS
    watch: str = "one"
    zero_grad: bool = True
    scaler: torch.amp.GradScaler | None = None
    make_loss: Callable[[Tensor, Tensor], Tensor] | None = None
    groups: Callable[[nn.Module], list[Any]] | None = None
    on_model: list[Callable[[], object]] = field(default_factory=list)
    on_optimizer: list[Callable[[], object]] = field(default_factory=list)
    on_batch: list[Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]] = field(default_factory=list)
    on_loss: list[Callable[[int, Tensor], Tensor]] = field(default_factory=list)
    on_gradients: list[Callable[[int], object]] = field(default_factory=list)
    on_step: list[Callable[[int], object]] = field(default_factory=list)
    model: nn.Module = field(init=False)
    optimizers: list[Optimizer] = field(init=False)
    losses: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.network.rates[self.optimizer] * self.scale

    def module(self, name: str) -> nn.Module:
        """A module of the model: "first", "middle", "head", "dies", or its own name."""
        return self.model.get_submodule(getattr(self.network, name, name))

    def run(self, run_dir: Path | None = None) -> Outcome:
        """Train, and record it.

        Args:
            run_dir: where to; None for a record in memory.
        """
        outcome = Outcome()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self._run(run_dir, outcome)
            except (ValueError, wsf.WeightScaleError) as error:
                if not _from_package(error):
                    raise
                outcome.raised = str(error)
        outcome.warned = [str(warning.message) for warning in caught if warning.filename.startswith(PACKAGE)]
        outcome.losses = self.losses
        return outcome

    def _run(self, run_dir: Path | None, outcome: Outcome) -> None:
        torch.manual_seed(self.seed)
        self.model = self.network.build(self.activation)
        self.model.to(self.dtype)
        _call(self.on_model)
        self.optimizers = make_optimizers(self)
        _call(self.on_optimizer)
        watched = None if self.watch == "none" else self.optimizers[0]
        layers = None
        if len(self.optimizers) > 1 and self.watch == "first":
            trained = {id(weight) for group in self.optimizers[0].param_groups for weight in group["params"]}
            layers = lambda name, weight: id(weight) in trained  # noqa: E731
        elif len(self.optimizers) > 1:
            watched = None
        with wsf.RWCMonitor(self.model, watched, run_dir=run_dir, layers=layers) as monitor:
            self._train(monitor if watched is None else None)
            outcome.history = monitor.history()

    def _train(self, monitor: wsf.RWCMonitor | None) -> None:
        generator = torch.Generator().manual_seed(self.seed + 1)
        rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        for step in range(self.steps):
            if self.schedule is not None:
                for optimizer, base in zip(self.optimizers, rates, strict=True):
                    for group, rate in zip(optimizer.param_groups, base, strict=True):
                        group["lr"] = rate * self.schedule(step)
            for optimizer in self.optimizers if self.zero_grad else ():
                optimizer.zero_grad()
            for _ in range(self.accumulate):
                self._backward(step, generator)
            _call(self.on_gradients, step)
            if self.clip is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            for optimizer in self.optimizers:
                if self.scaler is None:
                    optimizer.step()
                else:
                    self.scaler.step(optimizer)
                    self.scaler.update()
            _call(self.on_step, step)
            if monitor is not None:
                monitor.record()

    def _backward(self, step: int, generator: torch.Generator) -> None:
        x, y = self.network.draw(generator)
        for change in self.on_batch:
            x, y = change(step, x, y)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            output = self.model(x.to(self.dtype) if x.is_floating_point() else x)
        y = y.to(torch.float32) if y.is_floating_point() else y
        loss = (self.make_loss or self.network.loss)(output.float(), y)
        self.losses.append(float(loss.detach()))
        loss = loss / self.accumulate
        for alter in self.on_loss:
            loss = alter(step, loss)
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()


@dataclass
class Outcome:
    """What came of a run: its record, unless the monitor raised; and what the monitor said."""

    history: wsf.RWCHistory | None = None
    raised: str = ""
    warned: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    @property
    def first_loss(self) -> float:
        """The mean loss of the first 5 batches."""
        return sum(self.losses[:5]) / len(self.losses[:5]) if self.losses else float("nan")

    @property
    def last_loss(self) -> float:
        """The mean loss of the last 40 batches."""
        return sum(self.losses[-40:]) / len(self.losses[-40:]) if self.losses else float("nan")


def make_optimizers(training: Training) -> list[Optimizer]:
    """The optimizer that a training names. Muon takes only matrices, so it needs a second one for the rest."""
    groups = training.groups(training.model) if training.groups else list(training.model.parameters())
    rate, options = training.rate, training.options
    if training.optimizer == "muon":
        matrices = [p for p in training.model.parameters() if p.dim() == 2]
        rest = [p for p in training.model.parameters() if p.dim() != 2]
        second = torch.optim.AdamW(rest, lr=training.network.rates["adamw"])
        return [torch.optim.Muon(matrices, lr=rate, **options), second]
    return [OPTIMIZERS[training.optimizer](groups, lr=rate, **options)]


def _momentum(*args: Any, **options: Any) -> Optimizer:
    return torch.optim.SGD(*args, **{"momentum": 0.9, "fused": True} | options)


# Fused, because on a CPU the loops of the others take as long as all the rest of a step.
OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {
    "sgd": lambda *args, **options: torch.optim.SGD(*args, **{"fused": True} | options),
    "momentum": _momentum,
    "adam": lambda *args, **options: torch.optim.Adam(*args, **{"fused": True} | options),
    "adamw": lambda *args, **options: torch.optim.AdamW(*args, **{"fused": True} | options),
    "rmsprop": torch.optim.RMSprop,
}


def _call(functions: list[Any], *args: object) -> None:
    for function in functions:
        function(*args)


def _from_package(error: BaseException) -> bool:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(PACKAGE)
