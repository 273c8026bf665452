"""The plan: tables of addresses, built once, that let one call read every layer where it lies.

Letters, the same in Python, C++ and CUDA (csrc/plan.h):
    C  chunks, L  layers of a group (one device, one dtype), M  layers of the whole model, K  sums per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MAX_SUMS = 4  # delta_l1, prev_l1, moved, ratio_sum: the rows of every [K, ...] tensor, in this order
CHUNK = 16 * 1024  # weights: small enough to share out, long enough to stream


@dataclass(frozen=True)
class Group:
    """The layers of one device and dtype that the fused pass reads in place."""

    layers: list[int]  # [L] their numbers among the M layers
    prev: Tensor  # 1-D, the whole storage that holds the first layer's previous weights
    chunks: Tensor  # [3, C] int64: address of the current weights, bytes from `prev` to the previous ones, length
    layer_start: Tensor  # [L + 1] int64: the first chunk of each layer
    layer_row: Tensor  # [L] int64: `layers` as a tensor
    partial: Tensor  # [K, C] float64: scratch

    @property
    def device(self) -> torch.device:
        return self.prev.device


@dataclass(frozen=True)
class Plan:
    """How to read M layers' current and previous weights."""

    prev: list[Tensor]  # [M] the previous weights in the layers' own shapes
    groups: list[Group]
    strided: list[int]  # layers whose memory is not one dense block, or not in one order: the reference reads them
    device: torch.device  # where the sums go: that of the first layer
    numel: Tensor  # [M] int64, on that device
    zero: Tensor  # [1] int64, on that device: the cursor of an `out` of one row


def build_plan(cur: Sequence[Tensor], prev: Sequence[Tensor]) -> Plan:
    """Lay out the pass over `cur` [M] and `prev` [M], equal in shape, dtype and device."""
    members: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    strided = []
    for i, (w, p) in enumerate(zip(cur, prev, strict=True)):
        if is_dense(w) and same_order(w, p):
            members.setdefault((w.device, w.dtype), []).append(i)
        else:
            strided.append(i)
    return Plan(
        prev=list(prev),
        groups=[_build_group(layers, cur, prev) for layers in members.values()],
        strided=strided,
        device=cur[0].device,
        numel=torch.tensor([w.numel() for w in cur], device=cur[0].device),
        zero=torch.zeros(1, dtype=torch.int64, device=cur[0].device),
    )


def _build_group(layers: list[int], cur: Sequence[Tensor], prev: Sequence[Tensor]) -> Group:
    first = prev[layers[0]]
    base = first.new_empty(0).set_(first.untyped_storage())
    numel = np.array([cur[i].numel() for i in layers])
    chunks_of = -(-numel // CHUNK)  # [L], none for an empty layer
    layer_start = np.concatenate([[0], np.cumsum(chunks_of)])
    within = np.arange(layer_start[-1]) - np.repeat(layer_start[:-1], chunks_of)  # [C] number of the chunk in its layer
    start = within * CHUNK
    cur_address = np.array([cur[i].data_ptr() for i in layers])
    prev_offset = np.array([prev[i].data_ptr() for i in layers]) - base.data_ptr()
    chunks = np.stack(
        [
            np.repeat(cur_address, chunks_of) + start * base.element_size(),
            np.repeat(prev_offset, chunks_of) + start * base.element_size(),
            np.minimum(np.repeat(numel, chunks_of) - start, CHUNK),
        ]
    )

    def table(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(base.device)

    return Group(
        layers=layers,
        prev=base,
        chunks=table(chunks),
        layer_start=table(layer_start),
        layer_row=table(np.array(layers)),
        partial=torch.empty(MAX_SUMS, chunks.shape[1], dtype=torch.float64, device=base.device),
    )


def sum_dtype(device: torch.device) -> torch.dtype:
    """float64, but on MPS, which has none."""
    return torch.float32 if device.type == "mps" else torch.float64


def is_dense(weights: Tensor) -> bool:
    """Whether the weights fill one block of memory, each address once, in whatever order (channels_last too).

    Example:
        >>> is_dense(torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last))
        True
        >>> is_dense(torch.empty(3, 1).expand(3, 4)), is_dense(torch.empty(4, 6)[:, :3])
        (False, False)
    """
    expected = 1
    for stride, size in sorted((stride, size) for size, stride in zip(weights.shape, weights.stride(), strict=True)):
        if size > 1 and stride != expected:
            return weights.numel() == 0
        expected *= size
    return True


def same_order(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape lay their elements out in the same order."""
    return all(size == 1 or x == y for size, x, y in zip(a.shape, a.stride(), b.stride(), strict=True))
