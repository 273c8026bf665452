"""Watch: warns of two things that a record does not show, frozen weights that move and layers that are new.

Letters: n rows, L layers.
"""

from __future__ import annotations

import warnings
from collections import deque

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..errors import WeightScaleError
from ..text import listing
from ..weights.layers import LayerSelector, layer_predicate, unwrap
from ..weights.lookup import LayerLookup
from ..weights.norms import biases_and_scales
from .rows import Rows

LOOKS = 64  # layers whose requires_grad is read at each row, which takes a few microseconds at most
SPANS = 4096  # spans of steps in which a layer was frozen; kept until the rows of these steps arrive on the host


class Watch:
    """Looks at some layers at each row, and warns when the rows have arrived. It warns once for each layer.

    A layer counts as frozen between two looks if it was frozen at both. With more than 64 layers, each row looks at the
    next 64. It can then miss a layer that is frozen for only a few steps.
    """

    def __init__(self, model: nn.Module, lookup: LayerLookup, layers: LayerSelector, names: tuple[str, ...]) -> None:
        self._model, self._lookup, self._names = model, lookup, names
        self._is_layer = layer_predicate(layers)
        self._default_rule = layers is None
        self._known = {name for name, _ in unwrap(model).named_parameters()}
        self._warned: set[int] = set()
        self.restart(0)

    def restart(self, step: int) -> None:
        """Forget everything seen so far. The next row is the first after `step`."""
        starts = range(0, len(self._lookup.names), LOOKS)
        self._trained = [self._lookup.requires_grad(start, start + LOOKS) for start in starts]
        self._looked = [step for _ in starts]  # the step of the last look at each part
        self._turn = 0
        # {number of a frozen layer in the lookup: the step since which it is frozen}
        self._frozen = {
            start + i: step
            for start, part in zip(starts, self._trained, strict=True)
            for i, trained in enumerate(part)
            if not trained
        }
        # (number of the layer, frozen after this step, until this step), for layers that are no longer frozen. The
        # length has a limit, because ranks that keep no rows never clear it.
        self._thawed: deque[tuple[int, int, int]] = deque(maxlen=SPANS)

    def look(self, step: int) -> None:
        """Look at the next layers. The row of `step` was just recorded."""
        if not self._looked:
            return
        turn = self._turn
        now = self._lookup.requires_grad(turn * LOOKS, (turn + 1) * LOOKS)
        if now != self._trained[turn]:
            self._change(turn, now, step)
        self._looked[turn] = step
        self._turn = (turn + 1) % len(self._looked)

    def _change(self, turn: int, now: list[bool], step: int) -> None:
        for i, (before, trained) in enumerate(zip(self._trained[turn], now, strict=True), turn * LOOKS):
            if before and not trained:
                self._frozen[i] = step
            elif trained and not before:
                self._thawed.append((i, self._frozen.pop(i), self._looked[turn]))
        self._trained[turn] = now

    def check(self, rows: Rows) -> None:
        """Warn if frozen layers moved in these rows, or if layers are new. The rows follow those of the last call."""
        self._check_frozen(rows)
        self._check_new()

    def _check_frozen(self, rows: Rows) -> None:
        spans = list(self._thawed) + [(i, since, self._looked[i // LOOKS]) for i, since in self._frozen.items()]
        self._thawed.clear()
        if not spans:
            return
        moved: NDArray[np.bool_] = rows.delta_l1 > 0  # [n, L]; False for NaN
        ever = set(np.flatnonzero(moved.any(axis=0)).tolist())
        found = {}
        for i, since, until in spans:
            column = self._lookup.places[i]
            if column in ever and i not in self._warned:
                steps = rows.steps[moved[:, column] & (rows.steps > since) & (rows.steps <= until)]
                if len(steps):
                    found[i] = f"{self._names[column]!r} at step {steps[0]}"
        if found:
            self._warned |= found.keys()
            warnings.warn(
                f"{listing(list(found.values()))} moved while frozen (requires_grad=False). Possible causes: weight "
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
