"""The choice of backend, and the run of a plan on it.

Letters: M layers of the model, K sums per layer (3, or 4 with the ratios), R rows of out.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

from ..errors import WeightScaleError
from . import reference
from .plan import Group, Plan


class Backend(Protocol):
    """What a backend's module offers."""

    def refusal(self, device: torch.device) -> str | None: ...

    def run(
        self, plan: Plan, group: Group, cur: Sequence[Tensor], out: Tensor, cursor: Tensor, update: bool
    ) -> None: ...


BACKENDS = {"cpu": "cpu", "triton": "triton", "cuda": "cuda", "torch": "reference"}  # name -> module
ENVIRONMENT = "WEIGHTSCALE_FAST_BACKEND"


def load_backend(name: str) -> Backend:
    """The backend's module.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, BACKENDS))}, got {name!r}")
    return cast(Backend, importlib.import_module(f".{BACKENDS[name]}", __package__))


def choose_backend(device: torch.device, name: str | None = None) -> Backend:
    """The backend asked for, else the one `WEIGHTSCALE_FAST_BACKEND` names, else the first that can serve the device.

    Raises:
        ValueError: no backend has that name.
        WeightScaleError: the named one cannot serve the device; the message says why.
    """
    return _choose(device, name or os.environ.get(ENVIRONMENT))


@functools.cache  # what a machine can do stays as it is, and this is asked at every step
def _choose(device: torch.device, name: str | None) -> Backend:
    if name:
        backend = load_backend(name)
        reason = backend.refusal(device)
        if reason is not None:
            raise WeightScaleError(
                f"backend {name!r} cannot serve {device}: {reason}; leave backend= out to choose one"
            )
        return backend
    order = ("cpu", "torch") if device.type == "cpu" else ("triton", "cuda", "torch")
    return next(backend for backend in map(load_backend, order) if backend.refusal(device) is None)


def run_plan(
    plan: Plan, cur: Sequence[Tensor], out: Tensor, cursor: Tensor, update: bool, backend: str | None = None
) -> None:
    """Fill row `cursor` [1] modulo R of out [R, K, M] with the sums of every layer; with `update`, prev <- cur.

    Nothing here waits for a device, and no autograd graph is made.
    """
    for group in plan.groups:
        chosen = choose_backend(group.device, backend)
        if group.device == out.device:
            chosen.run(plan, group, cur, out, cursor, update)
        else:  # a model on several devices: its sums meet on that of the first layer
            local = torch.zeros_like(out[:1], device=group.device)
            chosen.run(plan, group, cur, local, torch.zeros(1, dtype=torch.int64, device=group.device), update)
            for i in group.layers:
                out[:, :, i].index_copy_(0, cursor % len(out), local[:, :, i].to(out.device))
    if plan.strided:
        reference.run_layers(plan.strided, cur, plan.prev, out, cursor, update)
