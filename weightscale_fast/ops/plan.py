"""The plan: tables of addresses, built once. With them one call reads every layer in place.

Letters, the same in Python, C++ and CUDA (csrc/plan.h):
    L  layers of the model, G  layers of a group (one device, one dtype), C  chunks of a group, K  sums per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import WeightScaleError
from ..graph_capture import is_capturing
from .sums import MAX_SUMS

CHUNK = 16 * 1024  # weights: small enough to balance threads, long enough to stream


class Upload(NamedTuple):
    """A copy of tables to a GPU, and the event that marks its end."""

    device: torch.device
    done: torch.cuda.Event


@dataclass(frozen=True)
class Group:
    """The layers with one device and one dtype. The fused pass reads them in place."""

    layers: list[int]  # [G] their indices among the L layers
    prev: Tensor  # 1-D: the whole storage that contains the first layer's previous weights
    chunks: Tensor  # [3, C] int64: address of the current weights, bytes from `prev` to the previous ones, length
    layer_start: Tensor  # [G + 1] int64: the first chunk of each layer
    layer_row: Tensor  # [G] int64: `layers` as a tensor
    partial: Tensor  # [K, C] float64: scratch
    most_chunks: int  # of one layer

    @property
    def device(self) -> torch.device:
        return self.prev.device

    @property
    def tables(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The first five arguments of the compiled passes (register.py)."""
        return self.chunks, self.layer_start, self.layer_row, self.prev, self.partial


@dataclass(frozen=True)
class Plan:
    """How to read the current and the previous weights of L layers."""

    prev: list[Tensor]  # [L] the previous weights in the layers' own shapes
    groups: list[Group]
    strided: list[int]  # layers that are not dense, or whose two memory orders differ: ops/reference.py reads them
    device: torch.device  # of the sums: the device of the first layer
    numel: Tensor  # [L] int64, on that device
    zero: Tensor  # [1] int64, on that device: the cursor for an `out` with one row
    uploads: list[Upload]  # the copies of tables to GPUs that may still be running

    def await_tables(self) -> None:
        """Make the current stream of each GPU wait for its tables. The host does not wait.

        A stream that captures a CUDA graph cannot wait for work outside the graph. It need not wait where
        `torch.cuda.graph` captures, because that synchronizes the device first.
        """
        if self.uploads and not is_capturing(self.uploads[0].device):
            for upload in self.uploads:
                torch.cuda.current_stream(upload.device).wait_event(upload.done)
            if all(upload.done.query() for upload in self.uploads):  # type: ignore[no-untyped-call]
                self.uploads.clear()

    def retire(self) -> None:
        """Keep the tables' memory until the current streams have read it. Call this before the plan is dropped."""
        tables = [table for group in self.groups for table in (group.chunks, group.partial)]
        for table in [self.numel, *tables]:  # the other tables share their memory
            if table.device.type == "cuda" and not is_capturing(table.device):
                table.record_stream(torch.cuda.current_stream(table.device))


def build_plan(cur: Sequence[Tensor], prev: Sequence[Tensor]) -> Plan:
    """Build the plan of a pass over `cur` [L] and `prev` [L]. Both have the same shapes, dtypes and devices."""
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
    """Copy the arrays to `device` as int64 tensors. They are views of one flat tensor, so there is only one copy.

    Each view starts at a multiple of 16 bytes, because Triton compiles a second kernel for other addresses.
    The copy to a GPU uses pinned memory, and the host does not wait for it. It is added to `uploads`.

    Raises:
        WeightScaleError: the current stream captures a CUDA graph, which would repeat the copy at each replay.
    """
    if is_capturing(device):
        raise WeightScaleError(
            "a plan of the weights' addresses cannot be made while a CUDA graph is captured: call fast_rwc with this "
            "Snapshot (or record() of this monitor) once before the capture, and replace no parameter inside it"
        )
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
    chunks_of = -(-numel // CHUNK)  # [G], 0 for an empty layer
    layer_start = np.concatenate([[0], np.cumsum(chunks_of)])
    within = np.arange(layer_start[-1]) - np.repeat(layer_start[:-1], chunks_of)  # [C] index of the chunk in its layer
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
    """The dtype of the sums: float64, but float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def is_dense(weights: Tensor) -> bool:
    """Whether the weights fill one block of memory, each address once, in any order (channels_last too).

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
    """Whether two tensors of the same shape store their elements in the same order."""
    return all(size == 1 or x == y for size, x, y in zip(a.shape, a.stride(), b.stride(), strict=True))
