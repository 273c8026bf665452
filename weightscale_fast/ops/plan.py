"""The plan: tables of addresses, built once, that let one call read every layer where it lies.

Letters, the same in Python, C++ and CUDA (csrc/plan.h):
    C  chunks, L  layers of a group (one device, one dtype), M  layers of the whole model, K  sums per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..graph_capture import is_capturing

MAX_SUMS = 4  # delta_l1, prev_l1, moved, ratio_sum: the rows of every [K, ...] tensor, in this order
CHUNK = 16 * 1024  # weights: small enough to share out, long enough to stream


class Upload(NamedTuple):
    """A copy of tables to a GPU, and the event that ends it."""

    device: torch.device
    done: torch.cuda.Event


@dataclass(frozen=True)
class Group:
    """The layers of one device and dtype that the fused pass reads in place."""

    layers: list[int]  # [L] their numbers among the M layers
    prev: Tensor  # 1-D, the whole storage that holds the first layer's previous weights
    chunks: Tensor  # [3, C] int64: address of the current weights, bytes from `prev` to the previous ones, length
    layer_start: Tensor  # [L + 1] int64: the first chunk of each layer
    layer_row: Tensor  # [L] int64: `layers` as a tensor
    partial: Tensor  # [K, C] float64: scratch
    most_chunks: int  # of any of the layers

    @property
    def device(self) -> torch.device:
        return self.prev.device

    @property
    def tables(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The first five arguments of the compiled passes (register.py)."""
        return self.chunks, self.layer_start, self.layer_row, self.prev, self.partial


@dataclass(frozen=True)
class Plan:
    """How to read M layers' current and previous weights."""

    prev: list[Tensor]  # [M] the previous weights in the layers' own shapes
    groups: list[Group]
    strided: list[int]  # layers whose memory is not one dense block, or not in one order: the reference reads them
    device: torch.device  # where the sums go: that of the first layer
    numel: Tensor  # [M] int64, on that device
    zero: Tensor  # [1] int64, on that device: the cursor of an `out` of one row
    uploads: list[Upload]  # one for each GPU: the copy of the tables to it, which the host did not wait for

    def await_tables(self) -> None:
        """Make the current stream of each GPU wait until the tables are there. The host does not wait.

        A stream that captures a CUDA graph cannot wait for what was begun outside of the graph. It need not: the begin
        of a capture synchronizes the device.
        """
        if self.uploads and not is_capturing(self.uploads[0].device):
            for upload in self.uploads:
                torch.cuda.current_stream(upload.device).wait_event(upload.done)
            if all(upload.done.query() for upload in self.uploads):  # type: ignore[no-untyped-call]
                self.uploads.clear()

    def retire(self) -> None:
        """Say that the current streams may still read the tables, which are about to be dropped."""
        for group in self.groups:
            if group.device.type == "cuda" and not is_capturing(group.device):
                for table in (group.chunks, group.partial):
                    table.record_stream(torch.cuda.current_stream(group.device))


def build_plan(cur: Sequence[Tensor], prev: Sequence[Tensor]) -> Plan:
    """Lay out the pass over `cur` [M] and `prev` [M], equal in shape, dtype and device."""
    members: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    strided = []
    for i, (w, p) in enumerate(zip(cur, prev, strict=True)):
        if is_dense(w) and same_order(w, p):
            members.setdefault((w.device, w.dtype), []).append(i)
        else:
            strided.append(i)
    uploads: list[Upload] = []
    home = cur[0].device
    numel, zero = upload_tables([np.array([w.numel() for w in cur]), np.zeros(1)], home, uploads)
    return Plan(
        prev=list(prev),
        groups=[_build_group(layers, cur, prev, uploads) for layers in members.values()],
        strided=strided,
        device=home,
        numel=numel,
        zero=zero,
        uploads=uploads,
    )


def upload_tables(arrays: Sequence[np.ndarray], device: torch.device, uploads: list[Upload]) -> list[Tensor]:
    """The arrays as int64 tensors on `device`: views of one flat tensor, so that one copy brings them all.

    Each starts at a multiple of 16 bytes: Triton compiles a kernel anew for an address that is none.
    The copy to a GPU goes through pinned memory, and the host does not wait for it; it is added to `uploads`.
    """
    flat = np.zeros(sum(array.size + array.size % 2 for array in arrays), dtype=np.int64)
    parts, end = [], 0
    for array in arrays:
        flat[end : end + array.size] = array.ravel()
        parts.append(slice(end, end + array.size))
        end += array.size + array.size % 2
    table = torch.from_numpy(flat)
    if device.type == "cuda":
        table = table.pin_memory().to(device, non_blocking=True)
        uploads.append(Upload(device, torch.cuda.current_stream(device).record_event()))
    else:
        table = table.to(device)
    return [table[part].view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def _build_group(layers: list[int], cur: Sequence[Tensor], prev: Sequence[Tensor], uploads: list[Upload]) -> Group:
    first = prev[layers[0]]
    base = first.new_empty(0).set_(first.untyped_storage())
    numel = np.array([cur[i].numel() for i in layers])
    chunks_of = -(-numel // CHUNK)  # [L], none for an empty layer
    layer_start = np.concatenate([[0], np.cumsum(chunks_of)])
    within = np.arange(layer_start[-1]) - np.repeat(layer_start[:-1], chunks_of)  # [C] number of the chunk in its layer
    start = within * CHUNK
    cur_address = np.array([cur[i].data_ptr() for i in layers])
    prev_offset = np.array([prev[i].data_ptr() for i in layers]) - base.data_ptr()
    chunk_table = np.stack(
        [
            np.repeat(cur_address, chunks_of) + start * base.element_size(),
            np.repeat(prev_offset, chunks_of) + start * base.element_size(),
            np.minimum(np.repeat(numel, chunks_of) - start, CHUNK),
        ]
    )
    chunks, starts, rows = upload_tables([chunk_table, layer_start, np.array(layers)], base.device, uploads)
    return Group(
        layers=layers,
        prev=base,
        chunks=chunks,
        layer_start=starts,
        layer_row=rows,
        partial=torch.empty(MAX_SUMS, chunks.shape[1], dtype=torch.float64, device=base.device),
        most_chunks=int(chunks_of.max()),
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
