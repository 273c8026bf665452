"""OptimizerHook: calls a monitor after each optimizer step, and checks that the optimizer still trains the model."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.hooks import RemovableHandle

from ..eager import always_eager
from ..errors import WeightScaleError
from ..functional import layer_sums
from ..weights.masters import MasterWeights
from ..weights.snapshot import Snapshot
from .listener import Listener
from .outermost import OutermostStep, is_past_step, stepping_frames
from .rate_reader import RateReader
from .recorded_twice import RecordedTwice
from .still_look import StillLook

# Packages whose wrappers of an optimizer do nothing to the weights after its step.
PASS_ON = ("accelerate", "lightning", "lightning_fabric", "pytorch_lightning")


class OptimizerHook:
    """Hooks that an optimizer calls before and after each of its steps.

    If one `step` calls another, as an optimizer that wraps a second one or calls `super().step()`, the outermost call
    is the step.

    Args:
        optimizer: the optimizer that trains the model; or what Accelerate, Lightning or a learning rate scheduler made
            of it.
        model: the model that it trains.
        what: what is recorded of them, to tell a monitor that was made twice from two that differ.

    Raises:
        TypeError: `optimizer` is not an optimizer.
        ValueError: none of its parameters is in the model.
    """

    def __init__(self, optimizer: object, model: nn.Module, what: object) -> None:
        optimizer = unwrap_optimizer(optimizer)
        if not trains(optimizer, model):
            raise ValueError(
                f"optimizer must train the model, but none of the parameters of this {type(optimizer).__name__} is in "
                f"this {type(model).__name__}: it may have been made from copies of the weights, or before the model "
                "was replaced. Make the optimizer from the model's parameters and then the monitor; or leave optimizer "
                "out and call record() after each step"
            )
        self._stepped = False  # whether the optimizer has made a step
        self._had_gradients = _has_gradients(model)  # of a step before
        self._optimizer = weakref.ref(optimizer)  # the hook must not keep the optimizer alive
        self._handles: list[RemovableHandle] = []
        # What start() was given; None when not recording.
        self._calls: tuple[Callable[[bool], None], Callable[[Tensor | None], None]] | None = None
        self._others: Listener | None = None
        self._waiting: Listener | None = None  # until the next step begins
        self._register: Callable[[Optimizer], None] = lambda optimizer: None
        self._outermost = OutermostStep()
        self._twice = RecordedTwice(model, optimizer, what)
        self._warned = False

    @property
    def name(self) -> str:
        """The name of the optimizer's class."""
        optimizer = self._optimizer()
        return "optimizer" if optimizer is None else type(optimizer).__name__

    def rate_reader(self, model: nn.Module, names: Sequence[str]) -> RateReader:
        """What reads the optimizer's rates for these layers."""
        optimizer = self._optimizer()
        assert optimizer is not None
        return RateReader(optimizer, model, names)

    def still_look(self, model: nn.Module, names: Sequence[str], numel: Sequence[int]) -> StillLook:
        """What looks why these layers do not move."""
        return StillLook(model, self._optimizer(), names, numel)

    def start(
        self,
        before_step: Callable[[bool], None],
        after_step: Callable[[Tensor | None], None],
        other_steps: Callable[[Optimizer], None],
    ) -> bool:
        """Begin to call.

        Args:
            before_step: called before each step, with whether a step raised since the last one that ended.
            after_step: called after each step, with what a gradient scaler told a fused optimizer: one number on a
                device. It is not 0 if the scaler found infinite gradients, so that the step changed nothing. Without a
                scaler it is None.
            other_steps: called before each step of any other optimizer, unless it is part of a step of this one.

        Returns:
            Whether a step runs now and `after_step` will be called for it, and `before_step` was not.

        Raises:
            WeightScaleError: the optimizer has no hooks.
        """
        optimizer = self._optimizer()
        assert optimizer is not None
        _remove_ended()
        self._twice.begin()
        self._calls = before_step, after_step

        @always_eager
        def begin(*_: object) -> None:
            _stepping[threading.get_ident()] = self._optimizer
            calls = self._calls  # a signal handler or another thread may close the monitor at any line
            if self._outermost.begin() and calls is not None:
                calls[0](self._outermost.has_raised())

        @always_eager
        def end(stepped: Optimizer, *_: object) -> None:
            calls = self._calls
            if self._outermost.end() and calls is not None:
                self._stepped = True
                calls[1](getattr(stepped, "found_inf", None))

        def register_after(optimizer: Optimizer) -> None:
            self._handles.append(optimizer.register_step_post_hook(end))

        def register(optimizer: Optimizer) -> None:
            if not self._handles:
                register_after(optimizer)
            self._handles.append(optimizer.register_step_pre_hook(begin))
            if not getattr(type(optimizer).step, "hooked", False):  # its class does not call Optimizer.__init__
                optimizer._patch_step_function()

        in_step = False
        try:
            running = stepping_frames(optimizer)
            if running or _steps_elsewhere(optimizer):  # PyTorch may be going through the hooks
                self._wait(optimizer, register)
                if running and not any(map(is_past_step, running)):  # as in a hook before the step, or in a closure
                    register_after(optimizer)  # so that this step has a row
                    in_step = True
            else:
                register(optimizer)
        except (AttributeError, TypeError) as error:
            self.remove()
            raise WeightScaleError(
                f"{type(optimizer).__name__} has no hooks for its steps ({error}): leave optimizer out and call "
                "record() after each step"
            ) from error
        watched, outermost = self._optimizer, self._outermost
        self._others = Listener(other_steps, ignored=lambda other: other is watched() or outermost.is_running())
        return in_step

    def _wait(self, optimizer: Optimizer, register: Callable[[Optimizer], None]) -> None:
        """Register when the optimizer begins its next step: PyTorch calls the hooks of all optimizers first."""
        self._register = register
        self._waiting = Listener(self._step_begins)
        _waiting.setdefault(optimizer, {})[id(self)] = self  # it keeps the monitor alive, as the hooks would

    def _step_begins(self, optimizer: Optimizer) -> None:
        if self._waiting is not None and optimizer is self._optimizer():
            self._wait_no_more()
            self._register(optimizer)

    def _wait_no_more(self) -> None:
        optimizer = self._optimizer()
        if self._waiting is not None and optimizer is not None:
            self._waiting.end()
            _waiting.get(optimizer, {}).pop(id(self), None)
        self._waiting = None

    def check_not_in_hook(self, call: str) -> None:
        """Raise if a hook of the optimizer makes this call when the step is made and not recorded yet."""
        if self._outermost.is_after_step():
            raise WeightScaleError(
                f"a hook of {self.name}.step() called {call}() before the monitor recorded this step, so the weights "
                f"are those of this step and the rows end before it: call {call}() after step() has returned, or "
                "register that hook after the monitor is made"
            )

    def remove(self) -> None:
        """Stop the calls. If the optimizer is in a step, as in `on_finding`, its hooks stay until another hook ends."""
        self._calls = None
        self._twice.end()
        _ended.update((handle.id, (self._optimizer, handle)) for handle in self._handles)
        self._handles = []
        self._wait_no_more()
        _remove_ended()
        if self._others is not None:
            self._others.end()

    def warn_if_unrelated(self, model: nn.Module) -> None:
        """Warn once if the model no longer contains any parameter of the optimizer."""
        optimizer = self._optimizer()
        if optimizer is not None and not trains(optimizer, model):
            self._warn(
                f"no parameter of the {type(optimizer).__name__} that this monitor watches is in the model any more, "
                "so its steps do not train the model (the cause may be load_state_dict with assign=True, or a new "
                "module)"
            )

    def warn_if_steps_missed(self, model: nn.Module, last_row: Snapshot | None) -> None:
        """Warn once if weights moved since the last row but this optimizer made no step. This waits for the device.

        Args:
            last_row: the weights at the last row; None if nobody has them. Then new gradients tell of a training.
        """
        optimizer = self._optimizer()
        if self._warned or (optimizer is not None and self._stepped) or self._outermost.is_running():
            return
        if last_row is not None:
            change = _change(model, last_row)
        else:
            lost = optimizer is None and _has_gradients(model) and not self._had_gradients
            change = "gradients were computed" if lost else ""
        if change:
            what = "does not exist any more" if optimizer is None else f"({type(optimizer).__name__}) made no step"
            self._warn(f"{change} since the last recorded step, but the optimizer that this monitor watches {what}")

    def warn_if_no_step(self, model: nn.Module) -> None:
        """Warn once if there are new gradients and the optimizer never made a step."""
        optimizer = self._optimizer()
        if optimizer is None or self._stepped or self._had_gradients or self._outermost.is_running():
            return
        if _has_gradients(model):
            self._warn_once(
                f"{self.name} made no step, so there is no row, but gradients were computed: the loop does not call "
                "step(), or a gradient scaler skips every step because gradients are infinite"
            )

    def _warn(self, what: str) -> None:
        self._warn_once(
            f"{what}. If the optimizer was rebuilt, the steps of the new one are not recorded: make a new monitor "
            "with the new optimizer, or one without an optimizer, and call record() after each step"
        )

    def _warn_once(self, what: str) -> None:
        if not self._warned:
            warnings.warn(what, stacklevel=2)
        self._warned = True


# Those that wait for the next step of their optimizer.
_waiting: weakref.WeakKeyDictionary[Optimizer, dict[int, OptimizerHook]] = weakref.WeakKeyDictionary()
_ended: dict[int, tuple[weakref.ref[Optimizer], RemovableHandle]] = {}  # hooks that call nothing and may be removed


# By thread: the optimizer whose step it made last. It may still go through the hooks of that step, or of the next one.
_stepping: dict[int, weakref.ref[Optimizer]] = {}


def _steps_elsewhere(optimizer: Optimizer) -> bool:
    """Whether another thread may be in a step of this optimizer."""
    others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
    return any(made() is optimizer for thread, made in list(_stepping.items()) if thread in others)


def _remove_ended() -> None:
    """Remove hooks that ended. PyTorch may be going through those of an optimizer that makes a step, so they stay."""
    for reference, handle in list(_ended.values()):
        optimizer = reference()
        if optimizer is None or not (stepping_frames(optimizer) or _steps_elsewhere(optimizer)):
            handle.remove()
            _ended.pop(handle.id, None)


def _has_gradients(model: nn.Module) -> bool:
    return any(parameter.grad is not None for parameter in model.parameters())


def _change(model: nn.Module, since: Snapshot) -> str:
    """How the weights on this process have changed; empty if they have not."""
    try:
        sums = layer_sums(model, since, update=False)
    except (TypeError, ValueError, WeightScaleError) as error:
        return f"the layers changed ({error})"
    return "the weights moved" if bool((sums.delta_l1 > 0).any()) else ""


def unwrap_optimizer(optimizer: object) -> Optimizer:
    """The optimizer whose steps are recorded: the one that was given, or the one inside a wrapper that passes steps on.

    Any other optimizer that wraps a second one, such as Lookahead, may change weights after the inner step. So its own
    steps are recorded.

    Raises:
        TypeError: it is not an optimizer.
    """
    given = optimizer
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer) and _passes_on(optimizer):
        optimizer = inner
    if isinstance(optimizer, Optimizer):
        return optimizer
    name = type(given).__name__
    if isinstance(inner, Optimizer):
        raise TypeError(
            f"optimizer must be a torch.optim.Optimizer or None, got {name}, which wraps {type(inner).__name__} and "
            "has no hooks for its steps: leave optimizer out and call record() after each step; or pass the optimizer "
            f"inside, if {name} does not change weights after its step"
        )
    raise TypeError(f"optimizer must be a torch.optim.Optimizer or None, got {name}")


def _passes_on(wrapper: object) -> bool:
    packages = {cls.__module__.partition(".")[0] for cls in type(wrapper).__mro__}
    return isinstance(wrapper, LRScheduler) or not packages.isdisjoint(PASS_ON)


def trains(optimizer: Optimizer, model: nn.Module) -> bool:
    """Whether the model contains a parameter of the optimizer. True for a model without parameters."""
    inside = {id(parameter) for parameter in model.parameters()}
    if isinstance(model, MasterWeights):
        inside |= {id(parameter) for parameter in model.model.parameters()}
        inside |= {id(master) for master, _ in model.pairs()}
    return not inside or any(id(p) in inside for group in optimizer.param_groups for p in group["params"])
