"""Snapshot: a copy of every layer's weights, in the memory layout that the pass needs."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..ops.plan import Plan, build_plan, is_dense, same_order
from .layers import LayerSelector, check_weights, select_layers
from .lookup import Fingerprint, LayerLookup
from .masters import MasterWeights

# Bytes. A copy and its weights start equally far after a multiple of this, so that both have the same alignment.
ALIGNMENT = 64


class Snapshot:
    """The weights of a model's layers at one moment. `fast_rwc` compares the model with the snapshot and updates it.

    Attributes:
        names: the layers, in network order.
        numel: number of weights of each layer that this snapshot holds.
        lock: held from `plan_for` until the plan has run, because another thread may compare another model.

    Example:
        >>> prev = Snapshot(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
        >>> prev.names, prev.numel, len(prev)
        (('0.weight', '1.weight'), (12, 6), 2)
    """

    names: tuple[str, ...]
    numel: tuple[int, ...]
    lock: threading.RLock

    def __init__(self, model: nn.Module, *, layers: LayerSelector = None) -> None:
        lookup = LayerLookup(model, tuple(select_layers(model, layers)))
        self._take(lookup, lookup.names)

    @classmethod
    def _of(cls, lookup: LayerLookup, names: tuple[str, ...], label: str = "") -> Snapshot:
        """A snapshot of what `lookup` finds: one entry for each of `names`.

        Args:
            label: the rank that holds the weights, if several ranks share the layers. It becomes part of the names in
                `state_dict`, so one checkpoint can hold the entries of all ranks.
        """
        snapshot = cls.__new__(cls)
        snapshot._take(lookup, names, label)
        return snapshot

    def _take(self, lookup: LayerLookup, names: tuple[str, ...], label: str = "") -> None:
        weights, _ = lookup()
        self.lock = threading.RLock()
        self.names = names
        self._label = label
        self.numel = tuple(w.numel() for w in weights)
        self._copy([w.detach() for w in weights])
        self._lookup: LayerLookup | None = lookup
        self._plan: Plan | None = None
        self._seen: Fingerprint | None = None  # of the weights that the plan was built for

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} layers, {sum(self.numel):,} weights, {self.nbytes:,} bytes)"

    def __getstate__(self) -> dict[str, Any]:
        return {"names": self.names, "numel": self.numel, "weights": self._weights, "label": self._label}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.lock = threading.RLock()
        self.names, self.numel, self._label = state["names"], state["numel"], state.get("label", "")
        self._copy(state["weights"])
        self._lookup = self._plan = self._seen = None

    def _copy(self, weights: list[Tensor]) -> None:
        self._arenas, self._weights = copy_to_arenas(weights)

    @property
    def nbytes(self) -> int:
        """The memory of the copy, in bytes."""
        return sum(arena.untyped_storage().nbytes() for arena in self._arenas)

    def state_dict(self) -> dict[str, Tensor]:
        """A copy of the snapshot's weights, by layer name."""
        return {name: weights.clone() for name, weights in self._entries().items()}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Copy the weights of `state_dict()` into this snapshot.

        Raises:
            ValueError: the names or shapes are not this snapshot's. Nothing is loaded in this case.
        """
        state_dict = self.check_state_dict(state_dict)
        for name, weights in self._entries().items():
            weights.copy_(state_dict[name].detach())

    def check_state_dict(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """This snapshot's part of `state_dict`. Raises as `load_state_dict` does, and loads nothing."""
        entries = self._entries()
        if self._label:
            state_dict = self._own_entries(state_dict)
        missing, extra = set(entries) - set(state_dict), set(state_dict) - set(entries)
        if missing or extra:
            raise ValueError(
                "the state has other layers than the snapshot: "
                f"missing {sorted(missing)[:5]}, extra {sorted(extra)[:5]}"
            )
        for name, weights in entries.items():
            check_same(name, state_dict[name], weights, dtype=False, device=False)
        return state_dict

    def _entries(self) -> dict[str, Tensor]:
        entries = dict(zip(self.names, self._weights, strict=True))
        if not self._label:
            return entries
        return {f"{name} ({self._label})": weights for name, weights in entries.items() if weights.numel()}

    def _own_entries(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The entries with this label. The state may also contain entries of other ranks."""
        own = {name: weights for name, weights in state_dict.items() if name.endswith(f"({self._label})")}
        if own.keys() != self._entries().keys():
            others = [name for name in state_dict if name not in self._entries()]
            found = others[0] if others else "fewer layers"
            raise ValueError(
                f"the state is not what {self._label} saved, it has {found!r}: save and load it on every rank, with as "
                "many ranks and the same mesh"
            )
        return own

    def lookup_in(self, model: nn.Module) -> LayerLookup:
        """The lookup that finds the layers in `model`.

        Raises:
            WeightScaleError: the model lacks one of the layers.
        """
        if self._lookup is None or self._lookup.model is not model:
            self._lookup = LayerLookup(model, self.names)
        return self._lookup

    def plan_for(self, model: nn.Module) -> tuple[Plan, list[Tensor]]:
        """The plan that compares `model` with the snapshot, and the model's current weights.

        Raises:
            WeightScaleError: the model lacks one of the layers.
            ValueError: a layer's shape, dtype or device is no longer the snapshot's.
        """
        if isinstance(model, MasterWeights):
            model.refresh()
        cur, seen = self.lookup_in(model)()
        if self._plan is None or seen != self._seen:
            for i, (name, weights) in enumerate(zip(self.names, cur, strict=True)):
                check_same(name, weights, self._weights[i])
                self._follow_layout(i, weights)
            if self._plan is not None:
                self._plan.retire()
            with torch.inference_mode(False):
                self._plan, self._seen = build_plan(cur, self._weights), seen
        return self._plan, cur

    def _follow_layout(self, i: int, weights: Tensor) -> None:
        """Store layer i in the memory order of `weights`, so that the pass reads both in the same order."""
        old = self._weights[i]
        if is_dense(weights) and not same_order(weights, old):
            new = old.as_strided(weights.shape, weights.stride())
            new.copy_(old.clone())
            self._weights[i] = new


@torch.inference_mode(False)  # the pass writes to them later, in any mode
def copy_to_arenas(weights: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """One flat tensor for each device and dtype, and in these the copies of all layers, each in its memory order."""
    offsets: list[int] = []  # in elements
    ends: dict[tuple[torch.device, torch.dtype], int] = {}
    for w in weights:
        size = w.element_size()
        end = ends.get((w.device, w.dtype), 0)
        phase = w.data_ptr() % ALIGNMENT // size
        start = -(-(end - phase) * size // ALIGNMENT) * ALIGNMENT // size + phase
        offsets.append(start)
        ends[w.device, w.dtype] = start + w.numel()
    slack = ALIGNMENT  # an allocation may start at any address; 64 elements are more than enough
    flat = {
        key: torch.empty(end + slack, dtype=key[1], device=key[0], requires_grad=False) for key, end in ends.items()
    }
    copies = []
    for w, offset in zip(weights, offsets, strict=True):
        arena = flat[w.device, w.dtype]
        first = -arena.data_ptr() % ALIGNMENT // arena.element_size()
        stride = w.stride() if is_dense(w) else torch.empty(w.shape, device="meta").stride()
        copies.append(arena.as_strided(w.shape, stride, first + offset))
    torch._foreach_copy_(copies, weights)
    return list(flat.values()), copies


def check_same(name: str, weights: Any, expected: Tensor, *, dtype: bool = True, device: bool = True) -> None:
    """Raise unless `weights` are plain weights of the shape, dtype and device of `expected`."""
    if not isinstance(weights, Tensor):
        raise TypeError(f"layer {name!r} must be a tensor, got {type(weights).__name__}")
    check_weights(name, weights)
    differences = [
        f"{what} {_show(wanted)}, got {_show(got)}"
        for what, wanted, got, matters in (
            ("shape", expected.shape, weights.shape, True),
            ("dtype", expected.dtype, weights.dtype, dtype),
            ("device", expected.device, weights.device, device),
        )
        if matters and wanted != got
    ]
    if differences:
        raise ValueError(
            f"layer {name!r} does not fit the weights to compare with: expected {'; '.join(differences)}; "
            "if the model was changed or moved since the snapshot, take a new one"
        )


def _show(value: object) -> str:
    return str(list(value)) if isinstance(value, torch.Size) else str(value)


def snapshot(model: nn.Module, *, layers: LayerSelector = None) -> Snapshot:
    """Copy the weights of every layer of `model`, for `fast_rwc` to compare with.

    Args:
        model: any module.
        layers: None for every parameter of more than one dimension but biases and norm scales, a regular expression on
            the name, a predicate `(name, parameter) -> bool`, or `"all"`.

    Raises:
        TypeError: `model` is not a module, or a weight is complex, integer, sparse or a tensor subclass.
        ValueError: no layer matches.

    Example:
        >>> snapshot(nn.Linear(100, 10))
        Snapshot(1 layers, 1,000 weights, 4,256 bytes)
    """
    return Snapshot(model, layers=layers)
