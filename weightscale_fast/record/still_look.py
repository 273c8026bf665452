"""StillLook: looks why layers do not move. It costs nothing while all of them do.

Letters: L layers.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import WeightScaleError
from ..graph_capture import is_capturing
from ..weights.layers import unwrap
from ..weights.lookup import LayerLookup
from ..weights.masters import MasterWeights
from ..weights.paths import find_parameters
from .gradient_size import GradientSize, dense_gradient
from .host_copy import HostCopy
from .implied_step import implied_step
from .kept_gradient import KeptGradient
from .observed import Cause, Observed
from .rows import Rows
from .why_still import why_still

FloatArray = NDArray[np.float64]

TINY = 0.07  # of the step that an optimizer implies; the check's limit
TINY_RWC = 1e-5  # for an optimizer that implies none
NEARLY = 1e-3  # of the median layer's RWC; a layer that moves less is nearly still
OFTEN = 32  # rows


class StillLook:
    """Looks at the gradients of layers that did not move in a row, before the next step.

    It reads the rows 2, 4, 8, 16 and every 32nd while they are in the ring, and the last row that arrives on the host.
    If a layer is still in such a row, its parameter says why. On a GPU all answers come a few steps later, because
    nobody waits for them. If the steps of the whole network are tiny, the size of the gradients is measured, too.

    Args:
        model: the network. Nothing is looked at in `MasterWeights`, because their gradients may be elsewhere.
        optimizer: the watched optimizer; None if the loop calls `record()`. The gradients may be gone then, so only a
            gradient that is there counts.
        names: of the recorded layers, L of them. Other ranks may have some of them.
        numel: their weights.

    Attributes:
        observed: what is known.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer | None, names: Sequence[str], numel: Sequence[int]
    ) -> None:
        self._model, self._names = model, names
        self._numel = np.asarray(numel, np.float64)
        self._optimizer = None if optimizer is None else weakref.ref(optimizer)
        self._row: tuple[int, HostCopy] | None = None  # a row [K, L] that is on its way to the host, and its step
        self._wanted: dict[int, tuple[int, bool]] = {}  # layers to look at: a step, and whether they moved in its row
        self._measure = False  # whether to measure the gradients
        # A layer, a step, whether it moved, and whether its gradient is not 0.
        self._asked: list[tuple[int, int, bool, HostCopy]] = []
        self._size, self._kept = GradientSize(), KeptGradient()
        found = find_parameters(unwrap(model), names)
        here = [i for i, place in enumerate(found) if place is not None and not isinstance(model, MasterWeights)]
        self._places = {place: i for i, place in enumerate(here)}  # the index in the lookup of each layer that is here
        self._lookup = LayerLookup(model, tuple(names[i] for i in here))
        self.observed = Observed()
        if optimizer is not None:
            self.observed = Observed(type(optimizer).__name__, implied_step=self._implied(optimizer))

    def resume(self, known: Observed, step: int) -> None:
        """Keep what was known of the run up to `step`, at which it goes on."""
        mine = self.observed
        same = (known.optimizer, known.implied_step) == (mine.optimizer, mine.implied_step)
        self.observed = replace(known.go_back(step), **_of_optimizer(known if same else replace(mine, since=step)))
        self._restart()

    def go_back(self, step: int) -> None:
        """The record went back to this step."""
        self.observed = self.observed.go_back(step)
        self._restart()

    def _restart(self) -> None:
        """Forget what is under way."""
        self._row, self._measure = None, False
        self._wanted, self._asked = {}, []
        self._size.restart()
        self._kept.restart()

    def row_added(self, number: int, step: int, row: Callable[[], Tensor]) -> None:
        """The row of `step` was added to the ring, as the last of `number` rows. `row` returns it, [K, L]."""
        if number % OFTEN == 0 or (number >= 2 and number & (number - 1) == 0):
            last = row()
            if not is_capturing(last.device):
                self._row = step, HostCopy(last)
                if self._optimizer is not None:
                    self._kept.mark(self._parameters())
        if self._optimizer is None:
            self.look()

    def rows_arrived(self, rows: Rows) -> None:
        """Rows arrived on the host, added up over all ranks."""
        if len(rows.steps):
            self._judge(int(rows.steps[-1]), rows.delta_l1[-1], rows.prev_l1[-1])

    def look(self) -> None:
        """Look at the layers that did not move: before a step, or after it if no optimizer is watched."""
        if self._row is not None and self._row[1].has_arrived():
            step, copy = self._row
            self._row = None
            sums = copy.tensors[0].numpy()
            self._judge(step, sums[0], sums[1])
        if self._kept.is_marked:
            keeps = self._kept.look(self._parameters())
            if keeps is not None and keeps != self.observed.keeps_gradients:
                self.observed = replace(self.observed, keeps_gradients=keeps)
        if self._wanted or self._measure:
            self._look_at_parameters()
        self.collect()

    def _judge(self, step: int, delta_l1: FloatArray, prev_l1: FloatArray) -> None:
        """Choose the layers [L] to look at: those that did not move in this row, or almost not."""
        moves = delta_l1 > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            rwc = np.where(moves, delta_l1 / prev_l1, 0.0)
            implied = np.array([np.nan if size is None else size for size in self.observed.implied_step])
            share = delta_l1 / self._numel / self._rates() / implied if len(implied) else np.full(len(rwc), np.nan)
        known = share[np.isfinite(share)]
        ordinary = np.median(rwc[moves]) if moves.any() else 0.0
        if len(known):
            self._measure = bool(np.median(known) < TINY)
            slow = (share < TINY) & self._measure
        else:
            self._measure = bool(moves.any() and ordinary < TINY_RWC)
            slow = (rwc < TINY_RWC) & self._measure
        slow |= (rwc < NEARLY * ordinary) | ~moves
        chosen = np.flatnonzero(slow & (self._numel > 0) & np.isfinite(delta_l1)).tolist()
        self._wanted = {i: (step, bool(moves[i])) for i in chosen if i in self._places}

    def _rates(self) -> FloatArray:
        """[L] the learning rates now; NaN where they are no numbers."""
        rates = np.full(len(self._names), np.nan)
        groups = self._groups()
        for place, parameter in self._parameters().items():
            rate = groups.get(id(parameter), {}).get("lr")
            if isinstance(rate, float) and rate > 0:
                rates[place] = rate
        return rates

    def _parameters(self) -> dict[int, nn.Parameter]:
        """The parameters of the layers that are here, by their place; none if the model was changed."""
        try:
            found: list[Any] = self._lookup.parameters()
        except WeightScaleError:  # the next row says so
            return {}
        return {place: found[i] for place, i in self._places.items() if found[i] is not None}

    def _groups(self) -> dict[int, dict[str, Any]]:
        """The group of each parameter of the optimizer, by its id."""
        optimizer = None if self._optimizer is None else self._optimizer()
        groups = [] if optimizer is None else optimizer.param_groups
        return {id(p): group for group in groups for p in group["params"]}

    def _implied(self, optimizer: Optimizer) -> tuple[float | None, ...]:
        groups, parameters = self._groups(), self._parameters()
        steps: list[float | None] = [None] * len(self._names)
        for place, parameter in parameters.items():
            if id(parameter) in groups:
                steps[place] = implied_step(optimizer, groups[id(parameter)], parameter)
        return tuple(steps)

    def _look_at_parameters(self) -> None:
        wanted, self._wanted = self._wanted, {}
        measure, self._measure = self._measure, False
        parameters, groups = self._parameters(), self._groups()
        inside = {id(parameter) for parameter in unwrap(self._model).parameters()}
        others = any(key not in inside for key in groups)
        for place, (step, moved) in wanted.items():
            if place in parameters:
                self._look_at(place, step, moved, parameters[place], groups, others)
        if measure:
            self._size.measure(parameters.values())

    def _look_at(
        self,
        place: int,
        step: int,
        moved: bool,
        parameter: nn.Parameter,
        groups: dict[int, dict[str, Any]],
        others: bool,
    ) -> None:
        if self._optimizer is None:  # the gradients may be gone, so None says nothing
            groups = {id(parameter): {}}
        why = why_still(parameter, groups, others)
        if why and not (why == "no_gradient" and self._optimizer is None):
            self._note(place, step, why)
        gradient = None if why else dense_gradient(parameter)
        if gradient is not None and not is_capturing(gradient.device):
            self._asked.append((place, step, moved, HostCopy(gradient.detach().any())))

    def collect(self) -> None:
        """Take the answers that have arrived by now."""
        late = []
        for place, step, moved, copy in self._asked:
            if not copy.has_arrived():
                late.append((place, step, moved, copy))
            elif not bool(copy.tensors[0]):
                self._note(place, step, "zero_gradient")
            elif not moved and self._optimizer is not None:
                self._note(place, step, "rounding")
        self._asked = late
        size = self._size.collect()
        if size is not None:
            eps = next((group.get("eps") for group in self._groups().values()), None)
            epsilon = float(eps) if isinstance(eps, (int, float)) and 0 <= eps < sys.float_info.max else None
            self.observed = replace(self.observed, gradient=size, epsilon=epsilon)

    def _note(self, place: int, step: int, why: str) -> None:
        name = self._names[place]
        known = self.observed.causes.get(name)
        if known is None or known.why != why:
            self.observed = replace(self.observed, causes={**self.observed.causes, name: Cause(why, step)})


def _of_optimizer(observed: Observed) -> dict[str, Any]:
    return {name: getattr(observed, name) for name in ("optimizer", "since", "implied_step")}
