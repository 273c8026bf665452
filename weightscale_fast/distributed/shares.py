"""Shares: which weights of each layer a rank counts. All ranks together count every weight once.

A sum of absolute values can be added up from any parts, so any rank may count a weight that it holds. A layer consists
of *pieces*: a plain tensor is one piece, and a DTensor has one piece for each position on its mesh. If several ranks
hold the same piece, they divide its weights among them. This also divides the time of the pass and the memory of the
snapshot.

Letters: L layers of the whole model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import WeightScaleError
from ..ops.plan import CHUNK, is_dense
from ..text import listing
from ..weights.dtensor import local_part, placements, shard_position
from ..weights.kinds import layer_kind
from ..weights.layers import LayerSelector, no_layer, select_layers
from .process_group import Ranks

CHECKSUM_PART = 2**24  # weights


class Piece(NamedTuple):
    """The part of a layer that one rank holds."""

    name: str
    shape: tuple[int, ...]  # of the whole layer
    dtype: str
    kind: str
    placements: str  # how the layer is distributed over the mesh
    position: tuple[int, ...] | None  # which piece this is; None if this rank holds none
    held: int  # number of weights
    size: int  # bytes of one weight
    dense: bool  # whether the weights fill one block of memory, which can be cut anywhere
    checksum: float  # sum of their absolute values


@dataclass(frozen=True)
class Shares:
    """The layers of the whole model, and which weights of each this rank counts."""

    names: tuple[str, ...]  # [L]
    numel: tuple[int, ...]  # [L] weights of the whole layer
    kinds: tuple[str, ...]  # [L]
    mine: dict[str, range]  # {layer on this rank: numbers of the local weights to count, in memory order}
    rank: int
    size: int


def agree(
    model: nn.Module, layers: LayerSelector, ranks: Ranks, *, pipeline: bool, arguments: Mapping[str, object]
) -> Shares:
    """Compare the ranks' models and arguments, and divide the weights. A collective call.

    Args:
        pipeline: whether the ranks hold different layers of one model.
        arguments: the arguments that must be the same on all ranks, by name; picklable.

    Raises:
        TypeError, ValueError: this rank's model has no layers, or layers that cannot be read.
        WeightScaleError: the ranks do not fit together. The message is the same on all ranks.
    """
    everyone = ranks.all_gather(lambda: (dict(arguments), _pieces(model, layers)))
    held = [pieces for _, pieces in everyone]
    _check_arguments([theirs for theirs, _ in everyone])
    if not any(held):
        raise no_layer(model, layers)
    if not pipeline:
        _check_names(held)
    # For each layer the piece of the first rank that has it. It knows the shape and the kind of the whole layer.
    whole = {name: piece for pieces in reversed(held) for name, piece in pieces.items()}
    names = tuple(dict.fromkeys(name for pieces in held for name in pieces))
    for name in names:
        _check_layer(name, {rank: pieces[name] for rank, pieces in enumerate(held) if name in pieces}, pipeline)
    return Shares(
        names=names,
        numel=tuple(math.prod(whole[name].shape) for name in names),
        kinds=tuple(whole[name].kind for name in names),
        mine=_divide(held, ranks.rank),
        rank=ranks.rank,
        size=ranks.size,
    )


def _check_arguments(everyone: Sequence[Mapping[str, object]]) -> None:
    for name, wanted in everyone[0].items():
        for rank, theirs in enumerate(everyone):
            if theirs[name] != wanted:
                raise WeightScaleError(
                    f"rank {rank} monitors with {name}={theirs[name]!r}, rank 0 with {name}={wanted!r}: pass the same"
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
    """The sum of the absolute values. It makes no copy as large as the weights."""
    flat = weights.reshape(-1)
    if is_dense(weights):
        flat = weights.as_strided((weights.numel(),), (1,), weights.storage_offset())
    parts = [part.double().abs().sum() for part in torch.split(flat, CHECKSUM_PART)]
    return torch.stack(parts).sum().item()


def _check_names(held: Sequence[dict[str, Piece]]) -> None:
    for rank, pieces in enumerate(held):
        missing, extra = (sorted(map(repr, names)) for names in (held[0].keys() - pieces, pieces.keys() - held[0]))
        if missing or extra:
            raise WeightScaleError(
                f"rank {rank} has another model than rank 0: it lacks {listing(missing) or 'no layer'}, and the layers "
                f"that only it has are {listing(extra) or 'none'}; build the same model on every rank, or pass "
                "pipeline=True if the ranks hold stages of one model"
            )


def _check_layer(name: str, pieces: dict[int, Piece], pipeline: bool) -> None:
    """Raise unless the ranks' pieces of a layer belong to one tensor and together are the whole tensor."""
    first, reference = next(iter(pieces.items()))
    stages = "; pipeline stages must give each layer its name in the whole model" if pipeline else ""
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
                f"layer {name!r} has other weights on rank {rank} than on rank {twin_rank}, but they must be equal: "
                "load or broadcast them before the monitor is made (DistributedDataParallel broadcasts), or give each "
                f"process its own monitor{stages}"
            )
    found, wanted = sum(piece.held for _, piece in of_position.values()), math.prod(reference.shape)
    if found != wanted:
        raise WeightScaleError(
            f"the ranks hold {found:,} of the {wanted:,} weights of layer {name!r} ({reference.placements}): "
            "pass the group of all processes that hold a part of the model as process_group="
        )


def _divide(held: Sequence[dict[str, Piece]], me: int) -> dict[str, range]:
    """The weights that rank `me` counts. Pieces with the same ranks are put in a row, and the row is cut evenly."""
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
    """Cut a row of pieces into parts of about the same number of bytes.

    A cut falls only between two chunks of the pass. Float32 sums are taken within a chunk, so no cut changes them.

    Returns:
        For each piece [parts + 1] numbers: the weight at which each part begins, and the end of the piece.

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
