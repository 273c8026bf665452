"""Shares: which weights of which layer each process counts, so that all together count every weight once.

Sums of absolute values are additive over parts, whoever has them. A layer lies in *pieces*: whole where it is a plain
tensor, and as a DTensor in one piece for each position on its mesh. Ranks that hold the same piece share its weights
out among them, and with the weights the time of the pass and the memory of the snapshot.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import WeightScaleError
from ..ops.plan import CHUNK, is_dense
from ..weights.dtensor import local_part, placements, shard_position
from ..weights.kinds import layer_kind
from ..weights.layers import LayerSelector, no_layer, select_layers
from .process_group import Ranks

CHECKSUM_PART = 2**24  # weights


class Piece(NamedTuple):
    """What one rank holds of a layer."""

    name: str
    shape: tuple[int, ...]  # of the whole layer
    dtype: str
    kind: str
    placements: str  # how the layer is spread
    position: tuple[int, ...] | None  # which part this is; None where this rank has none of it
    held: int  # weights
    size: int  # bytes of one
    dense: bool  # whether they fill one block of memory, which can be cut anywhere
    checksum: float  # sum of their absolute values


@dataclass(frozen=True)
class Shares:
    """The layers of the whole model, L of them, and what of each this rank counts."""

    names: tuple[str, ...]
    numel: tuple[int, ...]  # weights of the whole layer
    kinds: tuple[str, ...]
    mine: dict[str, range]  # for each layer this rank holds some of: which of its weights here, in the order of memory
    rank: int
    size: int


def agree(model: nn.Module, layers: LayerSelector, ranks: Ranks, *, pipeline: bool, arguments: str) -> Shares:
    """Compare the ranks' models, once, and share their weights out. A collective call.

    Args:
        pipeline: the ranks hold different layers of one model, and not all the same.
        arguments: whatever else must be the same on all ranks, in words.

    Raises:
        TypeError, ValueError: this rank's model has no layers, or some that cannot be read.
        WeightScaleError: the ranks do not fit together; the message is the same on all of them.
    """
    everyone = ranks.all_gather(lambda: (arguments, _pieces(model, layers)))
    held = [pieces for _, pieces in everyone]
    for rank, (theirs, _) in enumerate(everyone):
        if theirs != everyone[0][0]:
            raise WeightScaleError(f"rank {rank} monitors with {theirs}, rank 0 with {everyone[0][0]}: use the same")
    if not any(held):
        raise no_layer(model, layers)
    if not pipeline:
        _check_names(held)
    whole = {name: piece for pieces in reversed(held) for name, piece in pieces.items()}  # the first rank's word counts
    names = tuple(dict.fromkeys(name for pieces in held for name in pieces))
    for name in names:
        _check_layer(name, {rank: pieces[name] for rank, pieces in enumerate(held) if name in pieces}, pipeline)
    return Shares(
        names=names,
        numel=tuple(math.prod(whole[name].shape) for name in names),
        kinds=tuple(whole[name].kind for name in names),
        mine=_share_out(held, ranks.rank),
        rank=ranks.rank,
        size=ranks.size,
    )


def _pieces(model: nn.Module, layers: LayerSelector) -> dict[str, Piece]:
    pieces = {}
    for name, weights in select_layers(model, layers, shards=True).items():
        local = local_part(name, weights)
        pieces[name] = Piece(
            name=name,
            shape=tuple(weights.shape),
            dtype=str(weights.dtype),
            kind=layer_kind(model, name),
            placements=placements(weights),
            position=shard_position(weights),
            held=local.numel(),
            size=local.element_size(),
            dense=is_dense(local),
            checksum=_checksum(local),
        )
    return pieces


def _checksum(weights: Tensor) -> float:
    """Sum of the absolute values, without a copy as large as the weights."""
    flat = weights.reshape(-1)
    if is_dense(weights):
        flat = weights.as_strided((weights.numel(),), (1,), weights.storage_offset())
    parts = [part.double().abs().sum() for part in torch.split(flat, CHECKSUM_PART)]
    return torch.stack(parts).sum().item()


def _check_names(held: Sequence[dict[str, Piece]]) -> None:
    for rank, pieces in enumerate(held):
        missing, extra = sorted(set(held[0]) - set(pieces)), sorted(set(pieces) - set(held[0]))
        if missing or extra:
            raise WeightScaleError(
                f"rank {rank} has another model than rank 0: it lacks {missing[:5] or 'nothing'} and has "
                f"{extra[:5] or 'nothing'} beside; build the same model on every rank, or pass pipeline=True "
                "if the ranks hold stages of one model"
            )


def _check_layer(name: str, pieces: dict[int, Piece], pipeline: bool) -> None:
    """Raise unless the ranks' pieces of a layer are parts of one tensor, and make it up."""
    first, reference = next(iter(pieces.items()))
    stages = "; stages must name their layers as the whole model does, each with its own name" if pipeline else ""
    of_position: dict[tuple[int, ...], tuple[int, Piece]] = {}
    for rank, piece in pieces.items():
        for what in ("shape", "dtype", "placements"):
            one, other = getattr(reference, what), getattr(piece, what)
            if one != other:
                raise WeightScaleError(
                    f"layer {name!r} has {what} {_show(one)} on rank {first} and {_show(other)} on rank {rank}: "
                    f"build the same model on every rank{stages}"
                )
        if piece.position is None:
            continue
        twin_rank, twin = of_position.setdefault(piece.position, (rank, piece))
        same = math.isclose(twin.checksum, piece.checksum, rel_tol=1e-9) or math.isnan(twin.checksum)
        if twin.held != piece.held or not same:
            raise WeightScaleError(
                f"layer {name!r} has other weights on rank {rank} than on rank {twin_rank}, where they must be the "
                "same: load or broadcast them before the monitor is made (DistributedDataParallel broadcasts), or "
                f"monitor each process by itself{stages}"
            )
    found, wanted = sum(piece.held for _, piece in of_position.values()), math.prod(reference.shape)
    if found != wanted:
        raise WeightScaleError(
            f"the ranks hold {found:,} of the {wanted:,} weights of layer {name!r} ({reference.placements}): "
            "pass process_group=, the group of all processes that hold a part of the model"
        )


def _share_out(held: Sequence[dict[str, Piece]], me: int) -> dict[str, range]:
    """What rank `me` counts. The pieces that the same ranks hold are one long row of bytes, cut in equal lengths."""
    holders: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for rank, pieces in enumerate(held):
        for piece in pieces.values():
            if piece.position is not None:
                holders.setdefault((piece.name, piece.position), []).append(rank)
    together: dict[tuple[int, ...], list[Piece]] = {}
    for (name, _), ranks in holders.items():
        if me in ranks:
            together.setdefault(tuple(ranks), []).append(held[me][name])
    mine = {name: range(0) for name in held[me]}
    for ranks_of, row in together.items():
        part = ranks_of.index(me)
        for piece, cuts in zip(row, cut_evenly(row, len(ranks_of)), strict=True):
            mine[piece.name] = range(cuts[part], cuts[part + 1])
    return mine


def cut_evenly(row: Sequence[Piece], parts: int) -> Iterator[list[int]]:
    """For each piece where the parts begin in it, and its end: [parts + 1] numbers of weights.

    Cuts fall between the chunks of the pass, so that float32 sums, which never cross a chunk, stay what they were.

    Example:
        >>> piece = Piece("w", (3, CHUNK), "float32", "linear", "whole", (), 3 * CHUNK, 4, True, 0.0)
        >>> list(cut_evenly([piece, piece], 2)) == [[0, 3 * CHUNK, 3 * CHUNK], [0, 0, 3 * CHUNK]]
        True
    """
    total, before = sum(piece.held * piece.size for piece in row), 0
    for piece in row:
        step = CHUNK if piece.dense else max(piece.held, 1)
        wanted = ((total * part // parts - before) / piece.size for part in range(parts + 1))
        yield [min(max(round(at / step), 0) * step, piece.held) if at < piece.held else piece.held for at in wanted]
        before += piece.held * piece.size


def _show(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value).removeprefix("torch.")
