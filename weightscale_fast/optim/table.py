"""Table: the addresses of the parameters that a kernel steps.

Letters: P parameters of the table, G groups of the optimizer, K sums per parameter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..ops.backends import ENVIRONMENT
from ..ops.extension import load_error
from ..ops.plan import is_dense, same_order
from ..ops.register_step import PARAMETER_ROWS
from ..weights.dtensor import is_dtensor
from ..weights.layers import is_plain

# Rows of `parameters`, in the words of csrc/step_table.h.
WEIGHT, GRADIENT, FIRST_STATE, STEP, STEP_BYTES, WEIGHTS, DTYPE, GROUP, NEW_STATE = 0, 1, 2, 5, 6, 7, 8, 9, 10
STILL, SGD, ADAM, ADAMW = range(4)  # the rules
DTYPES = {torch.float16: 5, torch.float32: 6, torch.float64: 7, torch.bfloat16: 15}  # as c10::ScalarType numbers them
WIDEST = 64  # bytes of a vector register

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor], None]  # parameters [11, P], groups [7, G], scale, sums [K, P]


def kernel_for(device: torch.device) -> Kernel | None:
    """The kernel that steps parameters on this device, or None if torch must."""
    if device.type != "cpu" or (os.environ.get(ENVIRONMENT) or "cpu") != "cpu" or load_error() is not None:
        return None
    return _step_on_cpu


def _step_on_cpu(parameters: Tensor, groups: Tensor, scale: Tensor, sums: Tensor) -> None:
    torch.ops.weightscale_fast.optimizer_step.default(parameters, groups, scale, sums, WIDEST)


@dataclass
class Entry:
    """One parameter of an optimizer, with a gradient."""

    index: int  # among all parameters of the optimizer
    group: int
    parameter: Tensor
    gradient: Tensor
    states: dict[str, Tensor]  # those as large as the parameter
    step: Tensor | None  # Adam's number of steps
    is_new: bool  # whether the step fills the states for the first time

    def can_be_served(self) -> bool:
        """Whether a kernel can read and write the tensors: plain, dense, of one dtype, and in the same memory order."""
        if is_dtensor(self.parameter) and not (
            is_dtensor(self.gradient) and self.parameter.placements == self.gradient.placements  # type: ignore[attr-defined]
        ):
            return False
        if self.step is not None and (
            self.step.device.type != "cpu" or self.step.dtype not in (torch.float32, torch.float64)
        ):
            return False
        w = local(self.parameter)
        what = w.device, w.dtype, w.shape, torch.strided
        return (
            w.dtype in DTYPES
            and is_dense(w)
            and all(
                is_plain(t) and (t.device, t.dtype, t.shape, t.layout) == what and same_order(t, w) and not t.is_neg()
                for t in map(local, (self.parameter, self.gradient, *self.states.values()))
            )
        )


def local(tensor: Tensor) -> Tensor:
    """The part of the tensor that this process has: of a DTensor, the shard."""
    return tensor._local_tensor if is_dtensor(tensor) else tensor  # type: ignore[attr-defined]


class Table:
    """Parameters of one device whose states have the same names, and their addresses.

    Args:
        kernel: what steps them.
        entries: the parameters.
        places: where the state of each is among the values of the optimizer's `state`.
    """

    def __init__(self, kernel: Kernel, entries: Sequence[Entry], places: Sequence[int]) -> None:
        self.parameters = [entry.parameter for entry in entries]  # [P]
        self._kernel = kernel
        self._places = places
        self._indices = [entry.index for entry in entries]
        self._names = list(entries[0].states) + ["step"] * (entries[0].step is not None)
        self._new = [(place, entry.states) for place, entry in zip(places, entries, strict=True) if entry.is_new]
        self._sharded = any(map(is_dtensor, self.parameters))
        weights = self._local(self.parameters)
        self._dtypes = [w.dtype for w in weights]
        self._numel = list(map(Tensor.numel, weights))
        self._strides = list(map(Tensor.stride, weights))
        self._addresses = [list(map(Tensor.data_ptr, weights))]
        for name in entries[0].states:
            states = self._local([entry.states[name] for entry in entries])
            self._addresses.append(list(map(Tensor.data_ptr, states)))
        self._versioned = [p for p in {*self.parameters, *weights} if not p.is_inference()]

        self._table = np.zeros((PARAMETER_ROWS, len(entries)), dtype=np.int64)
        self._table[WEIGHT] = self._addresses[0]
        for row, addresses in enumerate(self._addresses[1:], FIRST_STATE):
            self._table[row] = addresses
        steps = [entry.step for entry in entries if entry.step is not None]
        if steps:
            self._addresses.append(list(map(Tensor.data_ptr, steps)))
            self._table[STEP] = self._addresses[-1]
            self._table[STEP_BYTES] = [step.element_size() for step in steps]
        self._table[WEIGHTS] = self._numel
        self._table[DTYPE] = [DTYPES[dtype] for dtype in self._dtypes]
        self._table[GROUP] = [entry.group for entry in entries]
        self._table[NEW_STATE] = [entry.is_new for entry in entries]

    def _local(self, tensors: list[Tensor]) -> list[Tensor]:
        return list(map(local, tensors)) if self._sharded else tensors

    def fits(self, gradients: Sequence[Tensor | None], states: Sequence[dict[str, Any]]) -> bool:
        """Whether the table is right for these gradients of all parameters, and for the values of `state`."""
        own: list[Tensor] = [gradients[i] for i in self._indices]  # type: ignore[misc]
        try:
            own = self._local(own)
            addresses = [list(map(Tensor.data_ptr, self._local(self.parameters)))]
            for name in self._names:
                tensors = self._local([states[place][name] for place in self._places])
                addresses.append(list(map(Tensor.data_ptr, tensors)))
            return (
                addresses == self._addresses
                and list(map(Tensor.stride, self._local(self.parameters))) == self._strides
                and not any(map(Tensor.is_neg, own))
                and {*map(type, own)} <= {Tensor, torch.nn.Parameter}
                and list(map(Tensor.stride, own)) == self._strides
                and list(map(Tensor.numel, own)) == self._numel
                and [gradient.dtype for gradient in own] == self._dtypes
            )
        except (AttributeError, KeyError, RuntimeError, TypeError):  # no such state, or a tensor without memory
            return False

    def step(
        self,
        gradients: Sequence[Tensor | None],
        states: Sequence[dict[str, Any]],
        groups: Sequence[Sequence[float]],
        scale: Tensor | None,
        K: int,
    ) -> Tensor:
        """Step the parameters.

        Args:
            gradients: of all parameters of the optimizer.
            states: the values of the optimizer's `state`.
            groups: [G, 7] the numbers of each group.
            scale: what the gradients are divided by.
            K: how many sums; 0 for none.

        Returns:
            [K, P] float64.
        """
        own: list[Tensor] = self._local([gradients[i] for i in self._indices])  # type: ignore[misc]
        self._table[GRADIENT] = list(map(Tensor.data_ptr, own))
        sums = torch.empty(K, len(self.parameters), dtype=torch.float64, device="cpu")
        numbers = torch.tensor(groups, dtype=torch.float64, device="cpu").T.contiguous()
        divisor = torch.empty(0, device="cpu") if scale is None else scale.detach().reshape(1).to("cpu", torch.float32)
        self._kernel(torch.from_numpy(self._table), numbers, divisor, sums)
        torch.autograd.graph.increment_version(self._versioned)
        if self._new and any(numbers[0] != STILL):
            for place, new in self._new:
                states[place].update(new)
            self._new = []
            self._table[NEW_STATE] = 0
        return sums
