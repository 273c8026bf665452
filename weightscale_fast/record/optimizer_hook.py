"""OptimizerHook: calls a monitor after each optimizer step, and checks that the optimizer still trains the model."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from ..eager import always_eager
from ..errors import WeightScaleError
from ..functional import layer_sums
from ..weights.masters import MasterWeights
from ..weights.snapshot import Snapshot


class OptimizerHook:
    """A hook that an optimizer calls after each of its steps.

    Args:
        optimizer: the optimizer that trains the model, or a wrapper with an attribute `optimizer`, such as Accelerate's
            and Lightning's.
        model: the model that it trains.

    Raises:
        TypeError: `optimizer` is not an optimizer.
        ValueError: none of its parameters is in the model.
    """

    def __init__(self, optimizer: object, model: nn.Module) -> None:
        optimizer = unwrap_optimizer(optimizer)
        if not trains(optimizer, model):
            raise ValueError(
                f"optimizer must train the model, but none of the parameters of this {type(optimizer).__name__} is in "
                f"this {type(model).__name__}: it may have been made from copies of the weights, or before the model "
                "was replaced. Make the optimizer from the model's parameters and then the monitor; or leave optimizer "
                "out and call record() after each step"
            )
        self._stepped = False  # whether the optimizer has made a step
        self._optimizer = weakref.ref(optimizer)  # the hook must not keep the optimizer alive
        self._handle: RemovableHandle | None = None
        self._warned = False

    def start(self, after_step: Callable[[Tensor | None], None]) -> None:
        """Call `after_step` after each optimizer step.

        Its argument is what a gradient scaler told a fused optimizer: one number on a device. It is not 0 if the scaler
        found infinite gradients, so that the step changed nothing. Without a scaler the argument is None.

        Raises:
            WeightScaleError: the optimizer has no hooks.
        """
        optimizer = self._optimizer()
        assert optimizer is not None

        @always_eager
        def call(stepped: Optimizer, *_: object) -> None:
            self._stepped = True
            after_step(getattr(stepped, "found_inf", None))

        try:
            self._handle = optimizer.register_step_post_hook(call)
        except AttributeError as error:
            raise WeightScaleError(
                f"{type(optimizer).__name__} has no hooks for its steps ({error}): leave optimizer out and call "
                "record() after each step"
            ) from error

    def remove(self) -> None:
        """Stop the calls."""
        if self._handle is not None:
            self._handle.remove()

    def warn_if_unrelated(self, model: nn.Module) -> None:
        """Warn once if the model no longer contains any parameter of the optimizer."""
        optimizer = self._optimizer()
        if optimizer is not None and not trains(optimizer, model):
            self._warn(
                f"no parameter of the {type(optimizer).__name__} that this monitor watches is in the model any more, "
                "so its steps do not train the model (the cause may be load_state_dict with assign=True, or a new "
                "module)"
            )

    def warn_if_steps_missed(self, model: nn.Module, last_row: Snapshot) -> None:
        """Warn once if weights moved since the last row but this optimizer made no step. This waits for the device."""
        optimizer = self._optimizer()
        if self._warned or (optimizer is not None and self._stepped) or not _has_moved(model, last_row):
            return
        what = "does not exist any more" if optimizer is None else f"({type(optimizer).__name__}) made no step"
        self._warn(
            f"the weights moved since the last recorded step, but the optimizer that this monitor watches {what}"
        )

    def _warn(self, what: str) -> None:
        if not self._warned:
            warnings.warn(
                f"{what}. If the optimizer was rebuilt, the steps of the new one are not recorded: make a new monitor "
                "with the new optimizer, or one without an optimizer, and call record() after each step",
                stacklevel=2,
            )
        self._warned = True


def _has_moved(model: nn.Module, since: Snapshot) -> bool:
    """Whether any weight on this process has changed."""
    try:
        sums = layer_sums(model, since, update=False)
    except (TypeError, ValueError, WeightScaleError):  # the model has other layers now, so it cannot be compared
        return False
    return bool((sums.delta_l1 > 0).any())


def unwrap_optimizer(optimizer: object) -> Optimizer:
    """The optimizer inside any wrappers. A wrapper has the optimizer as its attribute `optimizer`.

    Raises:
        TypeError: it is not an optimizer, or a wrapper of one.
    """
    wrapper = optimizer
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer or None, got {type(wrapper).__name__}")
    return optimizer


def trains(optimizer: Optimizer, model: nn.Module) -> bool:
    """Whether the model contains a parameter of the optimizer. True for a model without parameters."""
    inside = {id(parameter) for parameter in model.parameters()}
    if isinstance(model, MasterWeights):
        inside |= {id(parameter) for parameter in model.model.parameters()}
    return not inside or any(id(p) in inside for group in optimizer.param_groups for p in group["params"])
