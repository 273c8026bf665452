"""StepPlan: which parameters of an optimizer a kernel steps, and which ones torch steps."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .table import Entry, Kernel, Table, kernel_for, local

if TYPE_CHECKING:
    from .records_sums import RecordsSums


class StepPlan:
    """The tables of an optimizer's step, kept for the next steps while nothing changes.

    Args:
        optimizer: its states are made here if it has none yet.
        parameters: all of its groups, in their order.
        gradients: of these parameters. Those without one are not stepped.

    Attributes:
        tables: what kernels step.
        rest: of each group, the parameters that torch steps; empty if there are none at all.

    Raises:
        TypeError: a parameter is complex, or a gradient is sparse.
        ValueError: a group is differentiable.
    """

    tables: list[Table]
    rest: list[list[Tensor]]

    def __init__(
        self, optimizer: RecordsSums, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]
    ) -> None:
        for group in optimizer.param_groups:
            check_group(optimizer, group)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            check(optimizer, parameter, gradient)
        self._parameters = parameters
        self._missing = [gradient is None for gradient in gradients]
        self._groups = _groups(optimizer)
        members: dict[tuple[Any, ...], list[Entry]] = {}
        self.rest = [[] for _ in optimizer.param_groups]
        entries = _entries(optimizer, gradients)
        kernels = [_kernel_of(entry) for entry in entries]
        served = [entry for entry, kernel in zip(entries, kernels, strict=True) if kernel is not None]
        shared = overlapping([local(entry.parameter) for entry in served])
        overlaps = {entry.index for entry, one_shares in zip(served, shared, strict=True) if one_shares}
        for entry, kernel in zip(entries, kernels, strict=True):
            if kernel is None or entry.index in overlaps:
                self.rest[entry.group].append(entry.parameter)
            else:
                members.setdefault((kernel, local(entry.parameter).device, *entry.states), []).append(entry)
        if not any(self.rest):
            self.rest = []
        self._keys = list(optimizer.state)
        place = {id(key): place for place, key in enumerate(self._keys)}
        self.tables = [
            Table(kernel, same, [place.get(id(entry.parameter), -1) for entry in same])
            for (kernel, *_), same in members.items()
        ]

    def fits(self, optimizer: RecordsSums, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> bool:
        """Whether the plan is right for the optimizer as it is now."""
        states = list(optimizer.state.values())
        return (
            _same(parameters, self._parameters)
            and [gradient is None for gradient in gradients] == self._missing
            and _groups(optimizer) == self._groups
            and _same(list(optimizer.state), self._keys)
            and all(table.fits(gradients, states) for table in self.tables)
        )


def _same(a: Sequence[object], b: Sequence[object]) -> bool:
    return len(a) == len(b) and all(map(is_, a, b))


def _groups(optimizer: RecordsSums) -> list[tuple[Any, ...]]:
    """What the tables depend on in each group."""
    return [(len(group["params"]), optimizer._state_names(group)) for group in optimizer.param_groups]


def _entries(optimizer: RecordsSums, gradients: Sequence[Tensor | None]) -> list[Entry]:
    """The parameters with a gradient."""
    entries, index = [], 0
    for g, group in enumerate(optimizer.param_groups):
        names = optimizer._state_names(group)
        for parameter in group["params"]:
            gradient = gradients[index]
            if gradient is not None:
                states, step, is_new = optimizer._states_of(group, parameter, names)
                entries.append(Entry(index, g, parameter, gradient, states, step, is_new))
            index += 1
    return entries


def _kernel_of(entry: Entry) -> Kernel | None:
    """The kernel that steps a parameter, or None if torch must."""
    kernel = kernel_for(local(entry.parameter).device)
    return kernel if kernel is not None and entry.can_be_served() else None


def overlapping(weights: Sequence[Tensor]) -> list[bool]:
    """Of each of the weights, whether they share memory with others. Threads may not step these at the same time."""
    start = np.array([w.data_ptr() for w in weights], dtype=np.int64)
    end = start + [w.nbytes for w in weights]
    order = np.lexsort((end, start))  # empty weights first
    reached = np.maximum.accumulate(end[order])
    block = np.cumsum(np.concatenate([[True], start[order][1:] >= reached[:-1]])[: len(weights)])
    shared = np.empty(len(weights), dtype=bool)
    shared[order] = np.bincount(block)[block] > 1
    return [bool(overlaps) for overlaps in shared]


def check_group(optimizer: RecordsSums, group: dict[str, Any]) -> None:
    """Raise `ValueError` if the optimizer cannot step the group."""
    if group.get("differentiable"):
        name = type(optimizer).__name__
        raise ValueError(
            f"weightscale_fast.optim.{name} takes its steps outside of autograd, so differentiable must be False, got "
            f"{group['differentiable']!r}: use torch.optim.{name} to differentiate through a step"
        )


def check(optimizer: RecordsSums, parameter: Tensor, gradient: Tensor | None) -> None:
    """Raise `TypeError` if the optimizer cannot step the parameter."""
    name = type(optimizer).__name__
    if parameter.is_complex():
        raise TypeError(
            f"weightscale_fast.optim.{name} steps real parameters, got one of dtype {parameter.dtype}: make it the two "
            f"real numbers of torch.view_as_real, or give it to torch.optim.{name}"
        )
    if gradient is not None and gradient.layout != torch.strided:
        raise TypeError(
            f"weightscale_fast.optim.{name} needs dense gradients, got one of layout {gradient.layout}: make the layer "
            "with sparse=False, or give its weights to torch.optim.SGD or SparseAdam"
        )
