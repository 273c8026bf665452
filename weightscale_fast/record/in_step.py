"""InStep: a baseline without a copy. The optimizer adds up the sums in its step, as `weightscale_fast.optim` does.

Letters: K sums per layer, L layers, P parameters of the optimizer, R rows of the ring.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from operator import is_
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..distributed.share_lookup import ShareLookup
from ..errors import WeightScaleError
from ..ops.backends import run_plan
from ..ops.plan import Plan, build_plan
from ..ops.sums import has_l2, has_ratio
from ..optim.records_sums import RecordsSums, StepSums
from ..optim.table import local
from ..weights.lookup import Fingerprint
from ..weights.masters import MasterWeights
from ..weights.overlap import sharing_memory
from ..weights.snapshot import check_same
from ..weights.uncopied import Uncopied
from .ring import Ring


class _Places(NamedTuple):
    """Where the sums of the layers are."""

    seen: tuple[Fingerprint, list[Sequence[Tensor]]]  # the weights, and the parameters of each part of the step's sums
    layers: list[Tensor]  # for each part, the layers that are in it, by their number
    columns: list[Tensor]  # for each part, the columns of these layers
    rest: Tensor  # the layers that the step did not move: [n] their numbers
    plan: Plan | None  # reads these


class InStep:
    """Takes the sums that the optimizer's step adds up.

    Layers that the step does not move are read once for the sum of their weights. With several ranks, one of those that
    hold the same weights counts them.

    Args:
        weights: finds the layers.
        optimizer: whose steps are recorded.
        K: the sums of a row.
    """

    name = "before_step"

    def __init__(self, weights: Uncopied, model: nn.Module, optimizer: RecordsSums, K: int) -> None:
        self.weights = weights
        self.plan: Plan | None = weights.plan_for(model)[0]
        self._expected = [w.detach().to("meta") for w in weights.lookup_in(model)()[0]]
        self._optimizer = weakref.ref(optimizer)
        self._l2, self._ratio = has_l2(K), has_ratio(K)
        self._places: _Places | None = None

    def step_begins(self, model: nn.Module) -> None:
        """A step begins that will have a row."""
        optimizer = self._optimizer()
        if optimizer is not None:
            optimizer.request_sums(l2=self._l2, ratio=self._ratio)

    def is_known(self) -> bool:
        """Whether the step gave its sums."""
        return self._sums() is not None

    def _sums(self) -> list[StepSums] | None:
        optimizer = self._optimizer()
        return None if optimizer is None else optimizer.step_sums

    @torch.no_grad()
    def fill(self, model: nn.Module, ring: Ring) -> bool:
        """Fill the next row of the ring; whether some weights have another address than at the last row."""
        parts = self._sums()
        assert parts is not None
        with self.weights.lock:
            places, changed = self._find(model, parts, ring.rows.device)
            K, L = ring.rows.shape[1:]
            row = ring.rows.new_zeros(K, L)
            for part, layers, columns in zip(parts, places.layers, places.columns, strict=True):
                sums = part.sums[_rows_of(K, len(part.sums))].index_select(1, columns)
                row.index_copy_(1, layers, sums.to(row.device, row.dtype))
            if places.plan is not None:
                out = ring.rows.new_zeros(1, K, len(places.rest))
                run_plan(places.plan, places.plan.prev, out, places.plan.zero, update=False)
                row.index_copy_(1, places.rest, out[0])
            ring.rows.index_copy_(0, ring.cursor % len(ring.rows), row[None])
        return changed

    def _find(self, model: nn.Module, parts: list[StepSums], device: torch.device) -> tuple[_Places, bool]:
        """The places of the sums, and whether some weights have another address than at the last row."""
        if isinstance(model, MasterWeights):
            model.refresh()
        lookup = self.weights.lookup_in(model)
        cur, addresses = lookup()
        stepped = [part.parameters for part in parts]
        last = self._places
        if last is not None and last.seen[0] == addresses and _same(last.seen[1], stepped):
            return last, False
        numbers = {
            _key(parameter): (part, column)
            for part, parameters in enumerate(stepped)
            for column, parameter in enumerate(parameters)
        }
        for name, weights, expected in zip(self.weights.names, cur, self._expected, strict=True):
            check_same(name, weights, expected, device=False)
        self.plan = None  # it and the snapshot hold the weights that the model had when the monitor was made
        self.weights.forget()
        counted = lookup.begins_here() if isinstance(lookup, ShareLookup) else [True] * len(lookup.names)
        found: list[list[tuple[int, int]]] = [[] for _ in parts]
        rest = set(range(len(cur)))
        for place, parameter, counts in zip(lookup.places, lookup.parameters(), counted, strict=True):
            part, column = numbers.get(_key(parameter), (-1, -1))
            if part >= 0:
                rest.discard(place)
                if counts:
                    found[part].append((place, column))
        left = [cur[i] for i in sorted(rest)]
        self._check_apart(sorted(rest), cur, stepped)
        self._places = _Places(
            (addresses, stepped),
            [torch.tensor([place for place, _ in each], dtype=torch.int64, device=device) for each in found],
            [
                torch.tensor([column for _, column in each], dtype=torch.int64, device=part.sums.device)
                for part, each in zip(parts, found, strict=True)
            ],
            torch.tensor(sorted(rest), dtype=torch.int64, device=device),
            build_plan(left, left) if left else None,
        )
        return self._places, last is not None and last.seen[0] != addresses

    def _check_apart(self, rest: list[int], cur: list[Tensor], stepped: list[Sequence[Tensor]]) -> None:
        """Raise if the step moves part of the memory of a layer of which it has no sums."""
        moved = [local(p).detach() for parameters in stepped for p in parameters]
        for i in sharing_memory([cur[i].detach() for i in rest], moved)[:1]:
            raise WeightScaleError(
                f"layer {self.weights.names[rest[i]]!r} shares memory with a parameter of the optimizer and is not "
                'that parameter, so the optimizer has no sums of it: make the monitor with baseline="last_row"'
            )

    def monitor_starts(self, *, in_step: bool) -> None:
        """The monitor is made. In a step that will have a row, its sums are asked for, if it is not too late."""
        optimizer = self._optimizer()
        if in_step and optimizer is not None:
            optimizer.request_sums(l2=self._l2, ratio=self._ratio)

    def forget(self) -> None:
        """No step runs any more."""


def _rows_of(K: int, given: int) -> list[int]:
    """The rows of a step's `given` sums that a record of K sums has. Another monitor may have asked for more."""
    return [*range(6 if has_l2(K) else 3), *([given - 1] if has_ratio(K) else [])]


def _key(parameter: Tensor) -> tuple[int, int]:
    """What tells the weights of this process: their address and number. A master weight may be in another object."""
    weights = local(parameter)
    return weights.data_ptr(), weights.numel()


def _same(last: list[Sequence[Tensor]], now: list[Sequence[Tensor]]) -> bool:
    """Whether they are the same parameters."""
    return len(last) == len(now) and all(
        len(a) == len(b) and all(map(is_, a, b)) for a, b in zip(last, now, strict=True)
    )
