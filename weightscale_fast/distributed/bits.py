"""Checksums of the stored bits of weights. They are integers, so they do not depend on the order of the sums, on the
number of threads or on the device; and -0.0 is not 0.0.

Each word of bits is multiplied by an odd number that belongs to its place, and the products are added up modulo 2^64.
So one changed word always changes the sum, and swapped words do too. Several changed words cancel as seldom as random
numbers of 64 bits; if all of them differ only in their highest bit, of 33 bits.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ON_CPU = 2**18  # words that are multiplied at a time: the products fit the cache of a processor
ON_GPU = 2**20  # few kernels, and 16 MiB of memory
SMALL = 4  # layers of at most this part of a batch are multiplied together


def multipliers(first: int, count: int) -> NDArray[np.int64]:
    """Odd numbers that look random (the output function of SplitMix64), the same in every process."""
    z = np.arange(first + 1, first + 1 + count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31)) | np.uint64(1)).view(np.int64)


def words(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """The bits of dense weights in memory order, as a flat view of integers."""
    return weights.as_strided((weights.numel(),), (1,), weights.storage_offset()).view(dtype)


def _word(weights: Tensor) -> torch.dtype:
    return torch.int16 if weights.element_size() == 2 else torch.int32


class _Batch(NamedTuple):
    """Words that are multiplied at a time: of several small layers, or a part of a large one."""

    layers: list[int]
    start: int  # the first word, in the one layer that is cut
    length: int
    ends: Tensor | None  # [layers] the last word of each layer; None for a part of a large one


class Checksums:
    """Computes a checksum of every layer, with few operations for many small layers. Nothing waits for a GPU.

    Args:
        weights: of each layer, dense, on one device.
        groups: of each layer. Layers of different groups are not multiplied together. So if two processes have the
            same layers of a group, these get the same multipliers, whatever other layers there are.
    """

    def __init__(self, weights: Sequence[Tensor], groups: Sequence[Hashable]) -> None:
        device = weights[0].device
        most = ON_CPU if device.type == "cpu" else ON_GPU
        self._table = torch.from_numpy(multipliers(0, most)).to(device)
        self._zero = torch.zeros(1, dtype=torch.int64, device=device)
        self._batches: list[_Batch] = []
        together: dict[Hashable, list[int]] = {}
        for i, (w, group) in enumerate(zip(weights, groups, strict=True)):
            together.setdefault((group, _word(w)), []).append(i)
        for layers in together.values():
            self._fill([(i, words(weights[i], _word(weights[i])).numel()) for i in layers], most, device)
        self._layers = np.array([i for batch in self._batches for i in batch.layers])
        starts = [batch.start // most for batch in self._batches for _ in batch.layers]
        self._factors = multipliers(0, max(starts) + 1)[starts]

    def _fill(self, lengths: list[tuple[int, int]], most: int, device: torch.device) -> None:
        """Make the batches of (layer, words) that belong to one group."""
        small: list[list[tuple[int, int]]] = [[]]
        room = most
        for i, length in lengths:
            if length > most // SMALL:
                starts = range(0, length, most)
                self._batches += [_Batch([i], start, min(most, length - start), None) for start in starts]
                continue
            if length > room:
                small.append([])
                room = most
            small[-1].append((i, length))
            room -= length
        for batch in filter(None, small):
            ends = np.cumsum([length for _, length in batch])
            last = torch.from_numpy(ends - 1).to(device)
            self._batches.append(_Batch([i for i, _ in batch], 0, int(ends[-1]), last))

    def start(self, weights: Sequence[Tensor]) -> Tensor:
        """What `of` makes checksums of, on the device."""
        bits = [words(w, _word(w)) for w in weights]
        sums = []
        for layers, start, length, ends in self._batches:
            if ends is None:
                part = bits[layers[0]][start : start + length]
                sums.append((part * self._table[:length]).sum().reshape(1))
            else:
                products = torch.cat([bits[i] for i in layers]) * self._table[:length]
                sums.append(torch.diff(torch.cumsum(products, 0)[ends], prepend=self._zero))
        return torch.cat(sums)

    def of(self, started: Tensor) -> NDArray[np.int64]:
        """[layers] the checksums, from what `start` returned, on the host."""
        checksums = np.zeros(self._layers.max() + 1, np.int64)
        np.add.at(checksums, self._layers, started.numpy() * self._factors)
        return checksums
