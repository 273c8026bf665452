"""Watch: warns of two things that a record does not show, frozen weights that move and layers that are new.

Letters: n rows, L layers.
"""

from __future__ import annotations

import warnings
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.optim import Optimizer

from ..errors import WeightScaleError
from ..text import listing
from ..weights.layers import LayerSelector, layer_predicate, unwrap
from ..weights.lookup import LayerLookup
from ..weights.norms import biases_and_scales
from .listener import Listener
from .new_gradient import NewGradient
from .rows import Rows

LOOKS = 64  # layers whose requires_grad is read at each row, which takes a few microseconds at most
CLOSE = 8  # rows in which a layer that was found frozen is looked at closely
STEPS = 1024  # steps of any optimizer after which a close look ends, if no row comes any more
SPANS = 4096  # spans of steps in which a layer was frozen; kept until the rows of these steps arrive on the host


class _Close(NamedTuple):
    """A close look at a layer: it was frozen, and not trained, after step `since` until step `until`."""

    since: int
    until: int
    rows: int
    steps: int  # of any optimizer
    gradient: NewGradient  # since its begin


class Watch:
    """Looks at some layers at each row, and warns when the rows have arrived. It warns once for each layer.

    A layer that is frozen at two rows may have been trained in between, as each part of a GAN is while the other is
    frozen. So a layer that was found frozen is looked at closely in the next 8 rows: at their ends, and when any
    optimizer begins a step. If it then requires a gradient, or has a new one that is not 0, it is trained. A movement
    counts only in rows with a close look. One in a later row leads to the next close look.
    """

    def __init__(self, model: nn.Module, lookup: LayerLookup, layers: LayerSelector, names: tuple[str, ...]) -> None:
        self._model, self._lookup, self._names = model, lookup, names
        self._is_layer = layer_predicate(layers)
        self._default_rule = layers is None
        self._known = {name for name, _ in unwrap(model).named_parameters()}
        self._warned: set[int] = set()
        self.restart(0)
        self._listener = Listener(self._step_begins)

    def restart(self, step: int) -> None:
        """Forget everything seen so far. The next row is the first after `step`."""
        starts = range(0, len(self._lookup.names), LOOKS)
        self._requires = [self._lookup.requires_grad(start, start + LOOKS) for start in starts]
        self._turn = 0
        # {number of a frozen layer in the lookup: the step since which every look found it frozen}
        self._frozen: dict[int, int] = {}
        self._trained: set[int] = set()  # those of them that are trained between the looks
        self._close: dict[int, _Close] = {}  # the close looks that go on, by the number of the layer
        self._suspects: set[int] = set()  # layers for the next close look
        # The close looks that ended. The length has a limit, because ranks that keep no rows never clear it.
        self._ended: deque[tuple[int, _Close]] = deque(maxlen=SPANS)
        for turn, part in enumerate(self._requires):
            self._change(turn, [True] * len(part), part, step)

    def end(self) -> None:
        """Listen to the optimizers no more."""
        self._listener.end()

    def look(self, step: int) -> None:
        """Look at the next layers. The row of `step` was just recorded."""
        if not self._requires:
            return
        self._look_closely(step)
        suspects, self._suspects = self._suspects, set()
        self._look_closely_at([i for i in suspects if i in self._frozen], step)
        turn = self._turn
        now = self._lookup.requires_grad(turn * LOOKS, (turn + 1) * LOOKS)
        if now != self._requires[turn]:
            self._change(turn, self._requires[turn], now, step)
            self._requires[turn] = now
        self._turn = (turn + 1) % len(self._requires)

    def _change(self, turn: int, before: list[bool], now: list[bool], step: int) -> None:
        new = []
        for i, (required, requires) in enumerate(zip(before, now, strict=True), turn * LOOKS):
            if required and not requires:
                self._frozen[i] = step
                new.append(i)
            elif requires and not required:
                del self._frozen[i]
                self._trained.discard(i)
                self._end(i)
        self._look_closely_at(new, step)

    def _look_closely_at(self, frozen: list[int], step: int) -> None:
        if not frozen:
            return
        try:
            parameters = self._lookup.parameters()
        except WeightScaleError:  # the model was changed; the next row says so
            return
        for i in frozen:
            parameter = parameters[i]
            self._close[i] = _Close(step, step, 0, 0, NewGradient(None if parameter is None else parameter.grad))

    def _look_closely(self, step: int) -> None:
        self._find_trained()
        for i, look in list(self._close.items()):
            self._close[i] = look._replace(until=step, rows=look.rows + 1)
            if look.rows + 1 == CLOSE:
                self._end(i)

    def _step_begins(self, _: Optimizer) -> None:
        """Any optimizer of this process begins a step."""
        self._find_trained()
        for i, look in list(self._close.items()):
            self._close[i] = look._replace(steps=look.steps + 1)
            if look.steps + 1 == STEPS:
                self._end(i)

    def _find_trained(self) -> None:
        """End the close looks at layers that are trained now."""
        if not self._close:
            return
        try:
            parameters = self._lookup.parameters()
        except WeightScaleError:  # the model was changed; the next row says so
            return
        for i, look in list(self._close.items()):
            parameter = parameters[i]
            came: int | None = look.until
            if parameter is not None and not parameter.requires_grad:
                came = look.gradient.look(parameter.grad, look.until)
            if came is not None:
                self._close[i] = look._replace(until=came)
                self._trained.add(i)
                self._end(i)

    def _end(self, i: int) -> None:
        look = self._close.pop(i, None)
        if look is not None and look.rows:
            self._ended.append((i, look))

    def check(self, rows: Rows) -> None:
        """Warn if frozen layers moved in these rows, or if layers are new. The rows follow those of the last call."""
        self._check_frozen(rows)
        self._check_new()

    def _check_frozen(self, rows: Rows) -> None:
        if not len(rows.steps) or not (self._frozen or self._ended):
            return
        last = int(rows.steps[-1])
        moved: NDArray[np.bool_] = rows.delta_l1 > 0  # [n, L]; False for NaN
        ever = set(np.flatnonzero(moved.any(axis=0)).tolist())
        found: dict[int, str] = {}
        ended = [self._ended.popleft() for _ in range(len(self._ended))]
        for i, look in [*ended, *list(self._close.items())]:
            column = self._lookup.places[i]
            if column in ever and i not in self._warned:
                came = look.gradient.wait()  # it was asked for before these rows ended
                until = look.until if came is None else came
                steps = rows.steps[moved[:, column] & (rows.steps > look.since) & (rows.steps <= until)]
                if len(steps):
                    found.setdefault(i, f"{self._names[column]!r} at step {steps[0]}")
        self._ended.extend((i, look) for i, look in ended if look.until > last)
        done = self._close.keys() | self._trained | self._warned | found.keys()
        for i, since in list(self._frozen.items()):
            column = self._lookup.places[i]
            if column in ever and i not in done and moved[rows.steps > since, column].any():
                self._suspects.add(i)
        if found:
            self._warned |= found.keys()
            named = listing([found[i] for i in sorted(found)])
            warnings.warn(
                f"{named} moved while frozen (requires_grad=False). Possible causes: weight "
                "decay or momentum of an optimizer that still has their gradients, another optimizer that trains them, "
                "or code that writes to them",
                stacklevel=2,
            )

    def _check_new(self) -> None:
        root = unwrap(self._model)
        parameters = dict(root.named_parameters())
        if parameters.keys() <= self._known:
            return
        no_layers = self._recorded()  # pruning or torch.compile may have given them new names
        if self._default_rule:
            no_layers |= biases_and_scales(root)
        new = [
            name
            for name, parameter in parameters.items()
            if name not in self._known and id(parameter) not in no_layers and self._is_layer(name, parameter)
        ]
        self._known |= parameters.keys()
        if new:
            warnings.warn(
                f"the model has new layers since the monitor was made, {listing(list(map(repr, new)))}: they are not "
                "recorded. To record them, make a new monitor with another run_dir",
                stacklevel=2,
            )

    def _recorded(self) -> set[int]:
        """The ids of the recorded parameters; none if the model lost one, which the next row says."""
        try:
            return {id(parameter) for parameter in self._lookup.parameters()}
        except WeightScaleError:
            return set()
