"""Ranks: the processes that hold one model, and the two things they ever say to each other.

They speak over a gloo group of their own: on the host, so that no device is waited for, and apart from the training's
collectives, so that one call too few or too many can never mix with gradients.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn

from .dtensor import is_dtensor
from .errors import WeightScaleError
from .layers import unwrap

T = TypeVar("T")


class Ranks:
    """The processes of a group. Every method is a collective call: all of them must make it, in the same order.

    Attributes:
        rank: the number of this process in the group.
        size: how many there are.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self._group = group
        if dist.is_gloo_available():
            members = dist.get_process_group_ranks(group)
            own = dist.new_group(members, backend="gloo", timeout=_timeout(group), use_local_synchronization=True)
            assert isinstance(own, dist.ProcessGroup)  # this process is one of the members
            self._group = own

    def gather(self, make: Callable[[], T]) -> list[T]:
        """What `make` returns on every rank, in their order; where it raises on one, this raises on all.

        Raises:
            WeightScaleError: it raised on another rank, or a rank did not come.
        """
        mine: T | None = None
        error: Exception | None = None
        try:
            mine = make()
        except Exception as raised:  # whatever it is, the others must not wait for this rank in vain
            error = raised
        everyone: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(everyone, (mine, error and f"{type(error).__name__}: {error}"), group=self._group)
        except RuntimeError as lost:
            raise WeightScaleError(
                f"RWCMonitor did not hear from all {self.size} ranks: each of them must make one, in the same order "
                f"({_first_line(lost)})"
            ) from (error or lost)
        if error is not None:
            raise error
        for rank, (_, message) in enumerate(everyone):
            if message is not None:
                raise WeightScaleError(f"rank {rank} could not make its RWCMonitor: {message}")
        return [theirs for theirs, _ in everyone]

    def add(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum over all ranks, the same bits on each.

        Raises:
            RuntimeError: a rank did not come, or its process is gone.
        """
        device = "cpu" if dist.is_gloo_available() else torch.device("cuda", torch.cuda.current_device())
        tensor = torch.from_numpy(numbers).to(device)
        dist.all_reduce(tensor, group=self._group)
        return tensor.cpu().numpy()


def find_ranks(model: nn.Module, process_group: object = None, pipeline: bool = False) -> Ranks | None:
    """The ranks that `process_group` or else the model itself names; None for one process alone.

    A model says so by its wrapper of DistributedDataParallel or by its DTensors. Where these name several groups, as
    the meshes of tensor parallelism in data parallelism do, it is all processes.

    Raises:
        TypeError: `process_group` is no process group; or the model is of FSDP1, which keeps no layers.
        ValueError: this process is not in the group, or there is none.
    """
    ready = dist.is_available() and dist.is_initialized()
    if not ready and (pipeline or process_group is not None):
        raise ValueError(
            "process_group and pipeline need several processes: call torch.distributed.init_process_group() first, "
            "or leave them out"
        )
    if not ready:
        return None
    _refuse_fsdp1(model)
    _release_gathered(model)
    group = process_group or (dist.group.WORLD if pipeline else _group_of(model))
    if group is None:
        return None
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"process_group must be a torch.distributed.ProcessGroup or None, got {type(group).__name__}; "
            "a DeviceMesh of one dimension has it as mesh.get_group()"
        )
    if dist.get_rank(group) < 0:
        raise ValueError(f"process {dist.get_rank()} is not in process_group: make its monitor with its own group")
    if dist.get_world_size(group) == 1 and not any(map(is_dtensor, model.parameters())):
        return None
    return Ranks(group)


def _group_of(model: nn.Module) -> dist.ProcessGroup | None:
    groups: dict[tuple[int, ...], dist.ProcessGroup | None] = {}  # ranks -> the group, or None if nobody has made it
    inner = unwrap(model)
    for module in model.modules():
        if isinstance(module, nn.parallel.DistributedDataParallel) and unwrap(module) is inner:
            groups[tuple(dist.get_process_group_ranks(module.process_group))] = module.process_group
    for parameter in filter(is_dtensor, model.parameters()):
        mesh = parameter.device_mesh  # type: ignore[attr-defined]
        groups[tuple(sorted(mesh.mesh.flatten().tolist()))] = mesh.get_group() if mesh.ndim == 1 else None
    if not groups:
        return None
    first = next(iter(groups.values()))
    return first if len(groups) == 1 and first is not None else dist.group.WORLD


def _refuse_fsdp1(model: nn.Module) -> None:
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and any(isinstance(module, fsdp.FullyShardedDataParallel) for module in model.modules()):
        raise TypeError(
            "FullyShardedDataParallel keeps its weights in flat parameters that know no layers: "
            "shard the model with torch.distributed.fsdp.fully_shard"
        )


def _release_gathered(model: nn.Module) -> None:
    """Let go of what FSDP2 gathered in a forward pass that no backward pass followed: its DTensors then are back."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    for module in model.modules():
        if fsdp is not None and isinstance(module, fsdp.FSDPModule):
            module.reshard()


def _timeout(group: dist.ProcessGroup) -> timedelta | None:
    """How long the group waits for a rank, or None where it does not say."""
    for device in ("cpu", "cuda"):
        try:
            timeout = group._get_backend(torch.device(device)).options._timeout
        except (RuntimeError, AttributeError):
            continue
        return timeout if isinstance(timeout, timedelta) else None
    return None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
