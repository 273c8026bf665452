"""Twins: the weights that several ranks hold and that must be equal, and what a rank multiplies their checksums by.

Plain tensors have twins on all ranks that hold the layer. A shard has twins if another rank holds the same shard, as
with HSDP. With FSDP2 alone there are none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

from ..ops.plan import is_dense
from ..weights.dtensor import local_part, shard_position
from .process_group import Ranks
from .share_lookup import ShareLookup


class Twin(NamedTuple):
    """Weights of this rank that other ranks hold too.

    Args:
        number: of the layer in `ShareLookup.names`.
        place: of the layer among all layers of the model.
        holders: the ranks that hold these weights, in order.
        factor: what this rank multiplies a checksum by. The products of all holders add up to 0 if the checksums are
            equal. So one sum over all ranks compares any number of layers, whoever holds them.
        words: of 16 bits.
    """

    number: int
    place: int
    holders: tuple[int, ...]
    factor: int
    words: int


class Twins(NamedTuple):
    """The twins of this rank, in network order, and how many layers of the model have twins on any rank."""

    mine: tuple[Twin, ...]
    total: int


def find_twins(lookup: ShareLookup, ranks: Ranks, device: torch.device) -> Twins:
    """Compare what the ranks hold. A collective call.

    Weights on another device, and weights that do not fill one block of memory, are left out.
    """
    held: dict[int, tuple[int, int]] = {}  # {place: (number, words)}
    keys: dict[int, object] = {}
    for i, (name, weights) in enumerate(zip(lookup.names, lookup.parameters(), strict=True)):
        local, position = local_part(name, weights), shard_position(weights)
        if position is not None and local.numel() and local.device == device and is_dense(local):
            place = lookup.places[i]
            held[place] = i, local.numel() * local.element_size() // 2
            keys[place] = position, tuple(local.shape), local.stride()
    holders: dict[tuple[int, object], list[int]] = {}
    for rank, theirs in enumerate(ranks.all_gather(lambda: keys)):
        for place, key in theirs.items():
            holders.setdefault((place, key), []).append(rank)
    mine = []
    for place in sorted(held):
        number, words = held[place]
        together = tuple(holders[place, keys[place]])
        if len(together) > 1:
            mine.append(Twin(number, place, together, _factor(together.index(ranks.rank), len(together)), words))
    return Twins(tuple(mine), len({place for (place, _), together in holders.items() if len(together) > 1}))


def _factor(number: int, holders: int) -> int:
    """The factors of all holders add up to 0. They differ, so that +1 on one rank and -1 on another do not cancel."""
    return -number if number else holders * (holders - 1) // 2


def differing(everyone: list[dict[int, tuple[tuple[int, ...], int]]]) -> tuple[list[int], list[int]]:
    """The places of the layers that are not equal, and the ranks that differ from the first holder, each in order.

    Args:
        everyone: for each rank {place: (holders, checksum)}.

    Example:
        >>> differing([{0: ((0, 1), 5), 1: ((0, 1), 7)}, {0: ((0, 1), 5), 1: ((0, 1), 8)}])
        ([1], [1])
    """
    pairs = [
        (place, rank)
        for rank, theirs in enumerate(everyone)
        for place, (holders, checksum) in theirs.items()
        if checksum != everyone[holders[0]][place][1]
    ]
    return _unique(place for place, _ in pairs), _unique(rank for _, rank in pairs)


def _unique(numbers: Iterable[int]) -> list[int]:
    return sorted(set(numbers))
