"""RateReader: reads the learning rate and the weight decay of each layer from the optimizer, as each row is recorded.

Letters: n rows, L layers.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import WeightScaleError
from ..weights.layers import unwrap
from ..weights.lookup import LayerLookup
from ..weights.masters import MasterWeights
from ..weights.paths import find_parameters
from .host_copy import HostCopy
from .rates import Rates, join

NOT_KNOWN = float("nan")  # one object, so that two tuples with it are equal

Rate = float | HostCopy  # a copy if the rate is a tensor on a GPU


class _Since(NamedTuple):
    """The rates from a row on, one of each group, and the group of each layer."""

    row: int
    lr: tuple[Rate, ...]
    weight_decay: tuple[Rate, ...]
    group_of: NDArray[np.int32]  # [L]; a layer that no group trains has the last one, whose rates are not known


class RateReader:
    """Reads the rates at each row, and keeps them until the rows leave the device. It never waits for a device.

    The reading takes a few microseconds: it compares the groups with the last reading. A row in a replay of a CUDA
    graph has no rate, because Python does not run then.

    Args:
        optimizer: whose groups are read.
        model: the network, or a `MasterWeights`.
        names: of the recorded layers, L of them. Other pipeline stages have some of them.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module, names: Sequence[str]) -> None:
        self._optimizer = weakref.ref(optimizer)
        self._layers = len(names)
        found = find_parameters(unwrap(model), names)
        self._places = [i for i, parameter in enumerate(found) if parameter is not None]  # of the layers that are here
        here = tuple(names[i] for i in self._places)
        # An optimizer may have master weights in its groups, or the parameters of the 16-bit model.
        models = [model, model.model] if isinstance(model, MasterWeights) else [model]
        self._masters = model if isinstance(model, MasterWeights) else None
        self._lookups = [LayerLookup(each, here) for each in models]
        self._sizes: list[int] | None = None  # of the groups, as the layers were found in them; None to find them anew
        self._group_of = np.zeros(0, np.int32)  # [L]
        self._copies: dict[int, tuple[weakref.ref[Tensor], int, HostCopy]] = {}
        self.restart(0)

    def restart(self, row: int) -> None:
        """Forget all rows. The next row has this number."""
        self._next = row
        self._log: list[_Since] = []
        self._given: list[object] = []  # the groups' rates at the last reading
        self._has_tensors = False

    def find_layers_anew(self) -> None:
        """Call this if the model has other parameters than before."""
        self._sizes = None

    def read(self, row: int) -> None:
        """Keep the rates of this row, which is recorded now."""
        optimizer = self._optimizer()
        if optimizer is None:
            return
        groups = optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        given = [group.get("lr") for group in groups] + [group.get("weight_decay", 0.0) for group in groups]
        if sizes != self._sizes:
            self._group_of, self._sizes, self._given = self._find_groups(groups), sizes, []
        if row > self._next:  # replays of a CUDA graph
            self._log.append(_Since(self._next, (NOT_KNOWN,), (NOT_KNOWN,), np.zeros(self._layers, np.int32)))
            self._given = []
        self._next = row + 1
        # Most optimizers have the same numbers as before, as the same objects. Tensors may be written to.
        if len(given) == len(self._given) and all(map(operator.is_, given, self._given)) and not self._has_tensors:
            return
        self._given, self._has_tensors = given, any(isinstance(rate, Tensor) for rate in given)
        rates = list(map(self._rate, given))
        since = _Since(row, (*rates[: len(groups)], NOT_KNOWN), (*rates[len(groups) :], NOT_KNOWN), self._group_of)
        if not self._log or self._log[-1][1:3] != since[1:3] or self._log[-1].group_of is not since.group_of:
            self._log.append(since)

    def rates(self, first: int, n: int) -> Rates:
        """The rates of n rows from number `first` on. A GPU has to be waited for only if a rate is a tensor on it."""
        end = min(first + n, self._next)
        parts = []
        for i, since in enumerate(self._log):
            until = min(self._log[i + 1].row if i + 1 < len(self._log) else end, end)
            rows = until - max(since.row, first)
            if rows > 0:
                lr, weight_decay = ([_value(rate) for rate in rates] for rates in since[1:3])
                parts.append(Rates(np.tile(lr, (rows, 1)), np.tile(weight_decay, (rows, 1)), since.group_of))
        missing = n - sum(map(len, parts))
        if missing:
            known, unknown = parts, Rates.unknown(missing, self._layers)
            parts = [*known, unknown] if not self._log or first >= self._log[0].row else [unknown, *known]
        return join(parts) if parts else Rates.unknown(0, self._layers)

    def forget(self, row: int) -> None:
        """Forget the rows before this one."""
        while len(self._log) > 1 and self._log[1].row <= row:
            self._log.pop(0)

    def _find_groups(self, groups: Sequence[dict[str, object]]) -> NDArray[np.int32]:
        """[L] the number of each layer's group; the number of groups where there is none."""
        number = {id(p): i for i, group in enumerate(groups) for p in group["params"]}  # type: ignore[attr-defined]
        for master, held in self._masters.pairs() if self._masters is not None else ():
            if id(master) in number:
                number[id(held)] = number[id(master)]
        group_of = np.full(self._layers, len(groups), np.int32)
        for lookup in self._lookups:
            try:
                parameters = lookup.parameters()
            except WeightScaleError:  # the model was changed; the next row says so
                continue
            for place, parameter in zip(self._places, parameters, strict=True):
                group_of[place] = number.get(id(parameter), group_of[place])
        return group_of

    def _rate(self, rate: object) -> Rate:
        if isinstance(rate, float):
            return rate
        if isinstance(rate, Tensor) and rate.numel() == 1:
            return float(rate) if rate.device.type == "cpu" else self._copy(rate)
        return float(rate) if isinstance(rate, (int, np.number)) else NOT_KNOWN

    def _copy(self, rate: Tensor) -> HostCopy:
        """A copy of a rate on a GPU. The same object as before if nothing wrote to the rate since."""
        held = self._copies.get(id(rate))
        if held is None or held[0]() is not rate or held[1] != rate._version:
            held = self._copies[id(rate)] = (weakref.ref(rate), rate._version, HostCopy(rate.detach().reshape(())))
        return held[2]


def _value(rate: Rate) -> float:
    if isinstance(rate, float):
        return rate
    rate.wait()
    return float(rate.tensors[0])
