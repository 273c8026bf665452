"""DTensors: find the local shard of a distributed weight. No function here communicates."""

from __future__ import annotations

import sys

from torch import Tensor


def is_dtensor(weights: Tensor) -> bool:
    """Whether the weights are a DTensor. FSDP2 and tensor parallelism make DTensors."""
    module = sys.modules.get("torch.distributed.tensor")  # if a DTensor exists, it is imported
    return module is not None and isinstance(weights, module.DTensor)


def local_part(name: str, weights: Tensor) -> Tensor:
    """The local shard of a DTensor, which may be empty. Other weights are returned as they are.

    Raises:
        TypeError: the DTensor is a pending partial sum, so no process has its weights.
    """
    if not is_dtensor(weights):
        return weights.detach()
    if any(placement.is_partial() for placement in weights.placements):  # type: ignore[attr-defined]
        raise TypeError(
            f"layer {name!r} is a DTensor with a pending partial sum (placements {placements(weights)}), so no process "
            "has its weights: redistribute it to Replicate() or Shard(...), or leave the layer out with layers="
        )
    local: Tensor = weights._local_tensor  # type: ignore[attr-defined]  # to_local() is an autograd function
    return local.detach()


def shard_position(weights: Tensor) -> tuple[int, ...] | None:
    """The coordinates of this process along the mesh dimensions that shard the weights.

    Processes with equal positions have equal weights. None if this process is not in the mesh, and so has no weights.
    """
    if not is_dtensor(weights):
        return ()
    place = weights.device_mesh.get_coordinate()  # type: ignore[attr-defined]
    if place is None:
        return None
    cuts = [not placement.is_replicate() for placement in weights.placements]  # type: ignore[attr-defined]
    return tuple(number for number, cut in zip(place, cuts, strict=True) if cut)


def placements(weights: Tensor) -> str:
    """The placements as text, for comparisons and messages."""
    if not is_dtensor(weights):
        return "whole"
    return ", ".join(map(str, weights.placements))  # type: ignore[attr-defined]
