"""The choice of backend, and the run of a plan on it.

Letters: L layers of the model, G layers of a group, K sums per layer (see sums.py), R rows of `out`.
"""

from __future__ import annotations

import functools
import importlib
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from ..errors import WeightScaleError, check_one_of
from ..graph_capture import is_capturing
from . import reference
from .plan import Group, Plan
from .trial import run_once


class Backend(Protocol):
    """The functions of a backend's module."""

    def refusal(self, device: torch.device) -> str | None: ...

    def run(
        self, plan: Plan, group: Group, cur: Sequence[Tensor], out: Tensor, rwc: Tensor, cursor: Tensor, update: bool
    ) -> None: ...


BACKENDS = {"cpu": "cpu", "triton": "triton", "cuda": "cuda", "torch": "reference"}  # name -> module
ENVIRONMENT = "WEIGHTSCALE_FAST_BACKEND"


def load_backend(name: str) -> Backend:
    """Import the backend's module.

    Raises:
        ValueError: no backend has that name.
    """
    check_one_of("backend", name, BACKENDS)
    return cast(Backend, importlib.import_module(f".{BACKENDS[name]}", __package__))


def choose_backend(device: torch.device, name: str | None = None) -> Backend:
    """Choose the backend `name`, else the one in `WEIGHTSCALE_FAST_BACKEND`, else the first that can serve the device.

    Raises:
        ValueError: no backend has that name.
        WeightScaleError: the named backend cannot serve the device. The message says why.
    """
    return _choose(device, name or os.environ.get(ENVIRONMENT))


@functools.cache  # called at every step, and the answer never changes
def _choose(device: torch.device, name: str | None) -> Backend:
    if name:
        backend = load_backend(name)
        reason = backend.refusal(device)
        if reason is not None:
            raise WeightScaleError(
                f"backend {name!r} cannot serve {device}: {reason}; leave backend= out, or {ENVIRONMENT} "
                "unset, to choose one"
            )
        return backend
    if is_capturing(device):  # a trial would fail here, and its result would be kept
        raise WeightScaleError(
            f"the backend for {device} cannot be chosen while a CUDA graph is captured: call fast_rwc, or make the "
            "monitor, once before the capture"
        )
    order = ("cpu", "torch") if device.type == "cpu" else ("triton", "cuda", "torch")
    reasons = {}
    for name in order:
        backend = load_backend(name)
        reason = backend.refusal(device)
        if reason is None:
            break
        reasons[name] = reason
    if device.type == "cuda" and name == "torch":
        warn_of_slow_backend(device, reasons)
    return backend


def warn_of_slow_backend(device: torch.device, reasons: Mapping[str, str]) -> None:
    """Warn that the `torch` backend serves a GPU. `reasons` has, for each other backend, why it cannot."""
    why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
    warnings.warn(
        f"weights on {device} are read by the 'torch' backend until this process ends, about ten times slower than the "
        f"fused pass, because no other works ({why})",
        stacklevel=2,
    )


def warm_up(plan: Plan, sums: int, *, update: bool) -> None:
    """Choose the backends of the plan's groups for `sums` sums per layer, and run each once on one weight.

    This compiles and loads the kernels before the first step. A CUDA graph may capture that step.
    """
    for group in plan.groups:
        backend = choose_backend(group.device)
        run_once(
            backend.run, group.device, dtype=group.prev.dtype, sums=sums, update=update, most_chunks=group.most_chunks
        )


def run_plan(
    plan: Plan,
    cur: Sequence[Tensor],
    out: Tensor,
    cursor: Tensor,
    update: bool,
    backend: str | None = None,
    rwc: Tensor | None = None,
) -> None:
    """Fill row `cursor` [1] modulo R of out [R, K, L] with the sums of every layer; with `update`, prev <- cur.

    If `rwc` [L] float32 is given, the relative weight change is written to it: norm_ratio if K is 3, l2_ratio if K is
    6, else mean_ratio. The host does not wait for a device. No autograd graph is made.
    """
    plan.await_tables()
    fused = rwc is not None and not plan.strided and all(group.device == out.device for group in plan.groups)
    ratios = rwc if rwc is not None and fused else out.new_empty(0, dtype=torch.float32)
    for group in plan.groups:
        chosen = choose_backend(group.device, backend)
        if group.device == out.device:
            chosen.run(plan, group, cur, out, ratios, cursor, update)
        else:
            run_elsewhere(chosen, plan, group, cur, out, cursor, update)
    if plan.strided:
        reference.run_layers(plan.strided, cur, plan.prev, out, cursor, update)
    if rwc is not None and not fused:
        rwc.copy_(reference.ratio_of_row(out, cursor, plan.numel))


def run_elsewhere(
    backend: Backend, plan: Plan, group: Group, cur: Sequence[Tensor], out: Tensor, cursor: Tensor, update: bool
) -> None:
    """Run a group that is on another device than `out`, and bring the sums of all its layers over in one copy."""
    local = out.new_empty((1, *out.shape[1:]), device=group.device)  # [1, K, L]
    zero = torch.zeros(1, dtype=torch.int64, device=group.device)
    backend.run(plan, group, cur, local, local.new_empty(0, dtype=torch.float32), zero, update)
    on_gpu = out.device.type != "cpu"  # the CPU would read its copy before it is there
    sums = local[0].index_select(1, group.layer_row).to(out.device, non_blocking=on_gpu)  # [K, G]
    layers = group.layer_row.to(out.device, non_blocking=on_gpu)
    out.transpose(1, 2).index_put_((cursor % len(out), layers), sums.T)
