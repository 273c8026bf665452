"""Ranks: the processes that train one model together, and the two collective calls that they make."""

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

from ..errors import WeightScaleError
from ..weights.dtensor import is_dtensor
from ..weights.layers import unwrap

T = TypeVar("T")


class Ranks:
    """Processes that record together; this one is a member.

    Making it, `all_gather` and `all_reduce` are collective calls: every member must make them, in the same order.

    Args:
        members: their global ranks.
        group: a process group of exactly these members, if there is one.

    Attributes:
        rank: the number of this process among the members.
        size: the number of members.
    """

    def __init__(self, members: frozenset[int], group: dist.ProcessGroup | None) -> None:
        self._group = _own_group(members, group)
        self.rank = dist.get_rank(self._group)
        self.size = dist.get_world_size(self._group)

    def all_gather(self, make: Callable[[], T]) -> list[T]:
        """What `make` returns on each rank, in the order of the ranks. If it raises on one rank, this raises on all.

        Raises:
            WeightScaleError: `make` raised on another rank, or a rank did not come.
        """
        mine: T | None = None
        error: Exception | None = None
        try:
            mine = make()
        except Exception as raised:  # of any kind: the other ranks must not wait for this one in vain
            error = raised
        everyone: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(everyone, (mine, error and f"{type(error).__name__}: {error}"), group=self._group)
        except RuntimeError as lost:
            raise _not_all_ranks(self.size, lost) from (error or lost)
        if error is not None:
            raise error
        for rank, (_, message) in enumerate(everyone):
            if message is not None:
                raise WeightScaleError(f"rank {rank} could not make its RWCMonitor: {message}")
        return [theirs for theirs, _ in everyone]

    def all_reduce(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum over all ranks, bit for bit the same on each of them.

        Raises:
            RuntimeError: a rank did not come, or its process is gone.
        """
        if not dist.is_initialized():
            raise RuntimeError("the process group was destroyed before the monitor was closed")
        on_host = "cpu:" in dist.get_backend_config(self._group)
        tensor = torch.from_numpy(numbers).to("cpu" if on_host else torch.accelerator.current_accelerator())
        dist.all_reduce(tensor, group=self._group)
        return tensor.cpu().numpy()


def _own_group(members: frozenset[int], group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    """A new gloo group of the members, or `group` itself if a new one cannot be made.

    Gloo works on the host, so that it waits for no device. A group of its own keeps its calls apart from the
    collectives of the training: a call too few or too many can then never be mixed up with gradients.

    PyTorch names groups by a counter in each process. If only some of the processes made a new group, their counters
    would differ from those of the others. So members that are not all processes use the group of the training.

    Raises:
        WeightScaleError: a member did not come to make the group.
    """
    everyone = len(members) == dist.get_world_size()
    if not everyone and group is not None:
        return group
    backend = "gloo" if dist.is_gloo_available() else None
    wait = _timeout(group or dist.group.WORLD)
    try:
        own = dist.new_group(sorted(members), backend=backend, timeout=wait, use_local_synchronization=not everyone)
    except RuntimeError as error:
        raise _not_all_ranks(len(members), error) from error
    assert isinstance(own, dist.ProcessGroup)  # a process that is no member would get something else
    return own


def _not_all_ranks(size: int, error: RuntimeError) -> WeightScaleError:
    reason = str(error).strip().partition("\n")[0]
    return WeightScaleError(
        f"RWCMonitor did not hear from all {size} ranks: each of them must make one, in the same order ({reason})"
    )


def reshard_fsdp2(model: nn.Module) -> None:
    """Put the DTensors of an FSDP2 model back in their place, if a forward pass without a backward pass gathered them.

    It changes no weight. It does nothing to a model without FSDP2.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not isinstance(model, nn.Module):  # what is no module is refused with the layers
        return
    for module in model.modules():
        if isinstance(module, fsdp.FSDPModule):
            module.reshard()


def find_ranks(model: nn.Module, process_group: object = None, pipeline: bool = False) -> Ranks | None:
    """The ranks of `process_group`, or else those that the model itself names; None for one process alone.

    A model names processes by its wrapper of DistributedDataParallel and by the meshes of its DTensors. If one of these
    groups holds all the others, it is that group. If none does, as with tensor parallelism inside data parallelism, it
    is all processes. DTensors must be in their place: see `reshard_fsdp2`.

    Raises:
        TypeError: `process_group` is no process group; or the model is wrapped by FSDP1, which keeps no layers.
        ValueError: this process is not in the group; or no processes were initialized.
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
    if process_group is None:
        groups = _groups(model) if not pipeline else {}
        together = frozenset[int]().union(*groups)
        if pipeline or (together not in groups and groups):
            together = frozenset(range(dist.get_world_size()))
        group = groups.get(together)
    elif not isinstance(process_group, dist.ProcessGroup):
        raise TypeError(
            f"process_group must be a torch.distributed.ProcessGroup or None, got {type(process_group).__name__}; "
            "a DeviceMesh of one dimension has it as mesh.get_group()"
        )
    elif dist.get_rank(process_group) < 0:
        raise ValueError(f"process {dist.get_rank()} is not in process_group: make its monitor with its own group")
    else:
        group = process_group
        together = frozenset(dist.get_process_group_ranks(process_group))
    if len(together) <= 1 and not any(map(is_dtensor, model.parameters())):
        return None
    return Ranks(together, group)


def hint_of_others() -> str:
    """A hint for the error of a process that records alone and finds its folder taken: other processes may run."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return ""
    return (
        f". {dist.get_world_size()} processes run, of which this monitor knows nothing: give it the model in its "
        "DistributedDataParallel wrapper, or process_group=; or give each process a run_dir of its own"
    )


def _groups(model: nn.Module) -> dict[frozenset[int], dist.ProcessGroup | None]:
    """The processes that the model's wrapper and each of its meshes name, each with its process group if it has one."""
    inner = unwrap(model)
    groups: dict[frozenset[int], dist.ProcessGroup | None] = {}
    for module in model.modules():
        if isinstance(module, nn.parallel.DistributedDataParallel) and unwrap(module) is inner:
            groups[frozenset(dist.get_process_group_ranks(module.process_group))] = module.process_group
    for mesh in {parameter.device_mesh for parameter in model.parameters() if is_dtensor(parameter)}:  # type: ignore[attr-defined]
        groups[frozenset(mesh.mesh.flatten().tolist())] = mesh.get_group() if mesh.ndim == 1 else None
    return groups


def _refuse_fsdp1(model: nn.Module) -> None:
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is not None and any(isinstance(module, fsdp.FullyShardedDataParallel) for module in model.modules()):
        raise TypeError(
            "FullyShardedDataParallel keeps its weights in flat parameters that know no layers: "
            "shard the model with torch.distributed.fsdp.fully_shard"
        )


def _timeout(group: dist.ProcessGroup | None) -> timedelta | None:
    """How long the group waits for a rank; None if that is not known."""
    for device in ("cpu", "cuda"):
        try:
            timeout = group._get_backend(torch.device(device)).options._timeout  # type: ignore[union-attr]
        except (RuntimeError, AttributeError):  # no backend for this device, or one without a timeout
            continue
        return timeout if isinstance(timeout, timedelta) else None
    return None
