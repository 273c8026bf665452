"""assert_learns: for a test of a training loop: does every layer move, and if not, why?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..functional import layer_sums
from ..record.listener import Listener
from ..record.why_still import why_still
from ..text import count
from ..weights.layers import LayerSelector
from ..weights.snapshot import snapshot
from .causes import CAUSES


def assert_learns(
    model: nn.Module, step_function: Callable[[], object], steps: int = 20, *, layers: LayerSelector = None
) -> None:
    """Make some training steps, and raise if a layer did not move. For a test of your own training code.

    A layer must move by its gradient: with AdamW, weight decay alone moves it, too. A layer with `requires_grad=False`
    need not move. The steps really train the model: give a test a model of its own.

    Args:
        model: the network.
        step_function: makes one whole training step: forward, backward, and the optimizers' steps.
        steps: how many steps to make. A layer must move in at least one of them.
        layers: which weights are layers, as for `snapshot`.

    Raises:
        AssertionError: layers did not move, or are NaN or infinite. It names each, with the cause and what to do.
        TypeError, ValueError: a wrong argument.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
        >>> def step():
        ...     optimizer.zero_grad()
        ...     model(torch.ones(2, 4)).square().sum().backward()
        ...     optimizer.step()
        >>> assert_learns(model, step)
        Traceback (most recent call last):
        AssertionError: 1 of 2 layers did not move in 20 steps:
          2.weight: it is not in the optimizer. Give its parameters to the optimizer.
    """
    if not callable(step_function):
        raise TypeError(
            f"step_function must be a function that makes one training step, got {type(step_function).__name__}"
        )
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps must be a whole number, 1 or more, got {steps!r}")
    before = snapshot(model, layers=layers)
    parameters = dict(zip(before.names, before.lookup_in(model).parameters(), strict=True))
    look = _Look(model, parameters)
    listener = Listener(look.step_begins)
    try:
        for _ in range(steps):
            step_function()
    finally:
        listener.end()
    sums = layer_sums(model, before, update=False)
    moved, finite = (sums.moved > 0).tolist(), [math.isfinite(value) for value in sums.delta_l1.tolist()]
    broken = [name for name, is_finite in zip(before.names, finite, strict=True) if not is_finite]
    still = [name for name, has_moved in zip(before.names, moved, strict=True) if not has_moved]
    still = [name for name in still if name not in broken and parameters[name].requires_grad]
    dead = [name for name in before.names if name not in (*still, *broken) and look.is_dead(name)]
    lines = []
    if still:
        lines.append(f"{len(still)} of {count(len(before.names), 'layer')} did not move in {count(steps, 'step')}:")
        lines += [f"  {name}: {look.why(name)}" for name in still]
    if dead:
        lines.append(
            f"{count(len(dead), 'layer')} moved by weight decay or momentum alone, with a gradient of exactly 0:"
        )
        lines.append(f"  {', '.join(dead)}. {CAUSES['zero_gradient'].advice}")
    if broken:
        lines.append(f"{count(len(broken), 'layer')} became NaN or infinite: {', '.join(broken)}")
    if lines:
        raise AssertionError("\n".join(lines))


class _Look:
    """Looks at the gradients before each step of any optimizer, until a layer had one that is not 0."""

    def __init__(self, model: nn.Module, parameters: Mapping[str, Tensor]) -> None:
        self._parameters = parameters
        self._optimizers = 0  # steps of optimizers
        self._why: dict[str, str] = {}  # the last cause of each layer; "rounding" if nothing else explains it
        self._inside = {id(parameter) for parameter in model.parameters()}

    def step_begins(self, optimizer: Optimizer) -> None:
        """An optimizer begins a step."""
        self._optimizers += 1
        groups: dict[int, dict[str, Any]] = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        others = any(key not in self._inside for key in groups)
        for name, parameter in self._parameters.items():
            if id(parameter) in groups:
                why = why_still(parameter, groups, others)
                gradient = parameter.grad
                if why == "" and gradient is not None:
                    is_zero = gradient.layout == torch.strided and not bool(gradient.detach().any())
                    why = "zero_gradient" if is_zero else "rounding"
                if self._why.get(name) != "rounding":
                    self._why[name] = why
            elif name not in self._why:
                self._why[name] = "other_tensors" if others else "not_in_optimizer"

    def is_dead(self, name: str) -> bool:
        """Whether the gradient of a layer was 0 at all steps."""
        return self._why.get(name) == "zero_gradient"

    def why(self, name: str) -> str:
        """The cause in words, and what to do."""
        if not self._optimizers:
            return "no optimizer made a step. Call optimizer.step() in step_function."
        words = CAUSES[self._why[name]]
        return f"{words.because}. {words.advice}"
