"""Ranks: the processes that train one model together, and their two collective calls."""

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
    """The processes that record together. This process is one of these members.

    The constructor, `all_gather` and `all_reduce` are collective calls: every member must make them, in the same order.

    Args:
        members: the global ranks of the members.
        group: a process group of exactly these members, if there is one.

    Attributes:
        rank: the number of this process among the members.
        size: the number of members.
    """

    def __init__(self, members: frozenset[int], group: dist.ProcessGroup | None) -> None:
        self._group = _own_group(members, group)
        self.rank = dist.get_rank(self._group)
        self.size = dist.get_world_size(self._group)

    def all_gather(self, make: Callable[[], T], what: str = "make its RWCMonitor") -> list[T]:
        """What `make` returns on each rank, in the order of the ranks. If it raises on one rank, this raises on all.

        Args:
            make: called on this rank.
            what: what every rank does with it, for the messages.

        Raises:
            WeightScaleError: `make` raised on another rank, or a rank did not make this call.
        """
        mine: T | None = None
        error: Exception | None = None
        try:
            mine = make()
        except Exception as raised:  # any exception, because the other ranks wait for this one's call
            error = raised
        everyone: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(everyone, (mine, error and f"{type(error).__name__}: {error}"), group=self._group)
        except RuntimeError as failed:
            raise _missing_rank(self.size, failed, what) from (error or failed)
        if error is not None:
            raise error
        for rank, (_, message) in enumerate(everyone):
            if message is not None:
                raise WeightScaleError(f"rank {rank} could not {what}: {message}")
        return [theirs for theirs, _ in everyone]

    def all_reduce(self, numbers: NDArray[np.float64], *, largest: bool = False) -> NDArray[np.float64]:
        """The sum over all ranks, or the largest number of them, bit for bit the same on each rank.

        Raises:
            RuntimeError: a rank did not make this call, or its process has ended.
        """
        if not dist.is_initialized():
            raise RuntimeError("the process group was destroyed before the monitor was closed")
        on_host = "cpu:" in dist.get_backend_config(self._group)
        tensor = torch.from_numpy(numbers).to("cpu" if on_host else torch.accelerator.current_accelerator())
        dist.all_reduce(tensor, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, group=self._group)
        return tensor.cpu().numpy()


def _own_group(members: frozenset[int], group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    """A new Gloo group of the members; or `group`, if the members are not all processes.

    Gloo works on the host, so it does not wait for a device. A new group keeps the monitor's collective calls apart
    from those of the training. If a rank makes one call too few or too many, that call cannot be mistaken for one that
    sends gradients.

    PyTorch names groups by a counter in each process. If only some processes made a new group, their counters would
    differ from those of the others. So if the members are not all processes, they use the group of the training.

    Raises:
        WeightScaleError: a member did not call this.
    """
    everyone = len(members) == dist.get_world_size()
    if not everyone and group is not None:
        return group
    backend = "gloo" if dist.is_gloo_available() else None
    wait = _timeout(group or dist.group.WORLD)
    try:
        own = dist.new_group(sorted(members), backend=backend, timeout=wait, use_local_synchronization=not everyone)
    except RuntimeError as error:
        raise _missing_rank(len(members), error) from error
    assert isinstance(own, dist.ProcessGroup)  # new_group returns something else to a process that is not a member
    return own


def _missing_rank(size: int, error: RuntimeError, what: str = "make its RWCMonitor") -> WeightScaleError:
    reason = str(error).strip().partition("\n")[0]
    return WeightScaleError(
        f"RWCMonitor got no answer from some of the {size} ranks: every rank must {what}, in the same order ({reason})"
    )


def reshard_fsdp2(model: nn.Module) -> None:
    """Shard the parameters of an FSDP2 model again, if a forward pass without a backward pass has gathered them.

    It changes no weight. It does nothing to a model without FSDP2.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not isinstance(model, nn.Module):  # select_layers refuses what is not a module
        return
    for module in model.modules():
        if isinstance(module, fsdp.FSDPModule):
            module.reshard()


def find_ranks(model: nn.Module, process_group: object = None, pipeline: bool = False) -> Ranks | None:
    """The ranks of `process_group`, or those that the model itself names; None if one process records alone.

    A model names processes by its DistributedDataParallel wrapper and by the meshes of its DTensors. If one of these
    groups contains all the others, its ranks record together. If none does, as with tensor parallelism inside data
    parallelism, all processes record together. The parameters must be sharded: see `reshard_fsdp2`.

    Raises:
        TypeError: `process_group` is not a process group; or the model is wrapped by FSDP1, which keeps no layers.
        ValueError: this process is not in the group; or torch.distributed is not initialized.
    """
    ready = dist.is_available() and dist.is_initialized()
    if not ready and (pipeline or process_group is not None):
        raise ValueError(
            "process_group and pipeline need several processes: call torch.distributed.init_process_group() first, "
            "or leave both arguments out"
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
            "a DeviceMesh of one dimension gives it by mesh.get_group()"
        )
    elif dist.get_rank(process_group) < 0:
        raise ValueError(f"process {dist.get_rank()} is not in process_group: pass the group that this process is in")
    else:
        group = process_group
        together = frozenset(dist.get_process_group_ranks(process_group))
    if len(together) <= 1 and not any(map(is_dtensor, model.parameters())):
        return None
    return Ranks(together, group)


def has_joined(model: nn.Module) -> bool:
    """Whether the loop has used `DistributedDataParallel.join()`, so that ranks make different numbers of steps."""
    return any(
        isinstance(module, nn.parallel.DistributedDataParallel) and module._join_config.enable
        for module in (model, getattr(model, "_orig_mod", None))
    )


def hint_of_others() -> str:
    """A hint for a process that records alone and whose run folder exists: another process may have made it."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return ""
    return (
        f". {dist.get_world_size()} processes run, but this monitor records one process alone: to record them "
        "together, pass the model in its DistributedDataParallel wrapper, or process_group=; to record them "
        "separately, give each its own run_dir"
    )


def _groups(model: nn.Module) -> dict[frozenset[int], dist.ProcessGroup | None]:
    """The sets of processes that the model's wrapper and its meshes name, each with its process group if it has one."""
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
            "FullyShardedDataParallel keeps its weights in flat parameters, not in layers: "
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
