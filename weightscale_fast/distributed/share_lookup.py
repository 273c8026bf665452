"""SharedSnapshot: the previous weights of this rank's share of every layer, and no others."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import WeightScaleError
from ..ops.plan import is_dense
from ..weights.dtensor import is_dtensor, local_part
from ..weights.lookup import Fingerprint, LayerLookup, fingerprint
from ..weights.snapshot import Snapshot
from .shares import Shares


class SharedSnapshot(Snapshot):
    """A snapshot of as many entries as the whole model has layers, each with the weights that this rank counts.

    An entry may be empty: its layer is counted on other ranks, or lies in another stage of a pipeline. `numel` is what
    is counted here.
    """

    def __init__(self, model: nn.Module, shares: Shares) -> None:
        self._rank = f"rank {shares.rank} of {shares.size}"
        self._take(ShareLookup(model, shares))
        self.names = shares.names

    def _entries(self) -> dict[str, Tensor]:
        """This rank's weights, by names that no other rank has, so that one checkpoint may hold them all."""
        entries = zip(self.names, self._weights, strict=True)
        return {f"{name} ({self._rank})": weights for name, weights in entries if weights.numel()}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take the weights of `state_dict()` on the same rank of as many; those of other ranks may be among them.

        Raises:
            ValueError: the state is of another rank, of another number of them, or of another model.
        """
        mine = {name: weights for name, weights in state_dict.items() if name.endswith(f"({self._rank})")}
        if set(mine) != set(self._entries()):
            others = [name for name in state_dict if name not in self._entries()]
            found = others[0] if others else "fewer layers"
            raise ValueError(
                f"the state is not what {self._rank} saved, it has {found!r}: save and load it on every rank, with as "
                "many ranks and the same mesh"
            )
        super().load_state_dict(mine)


class ShareLookup(LayerLookup):
    """Finds this rank's share of every layer of a model: views of the memory where it lies."""

    def __init__(self, model: nn.Module, shares: Shares) -> None:
        super().__init__(model, tuple(shares.mine))
        self._ranges = list(shares.mine.values())
        place = {name: i for i, name in enumerate(shares.names)}
        self.places = [place[name] for name in shares.mine]  # among all layers of the model
        self._layers = len(shares.names)
        parameters = self.parameters()
        self._spread = [is_dtensor(parameter) for parameter in parameters]
        local = [local_part(name, parameter) for name, parameter in zip(self.names, parameters, strict=True)]
        self._layout = [(w.shape, w.stride()) for w in local]
        self._cur: list[Tensor] = []
        self._seen: Fingerprint | None = None

    def __call__(self) -> tuple[list[Tensor], Fingerprint]:
        """The weights to count, an entry for each layer of the whole model, and what of them a plan depends on.

        Raises:
            WeightScaleError: a parameter was removed, or lies gathered.
            ValueError: it has another shape or memory layout than before.
        """
        parameters = self.parameters()
        try:
            local = [p._local_tensor if spread else p for p, spread in zip(parameters, self._spread, strict=True)]  # type: ignore[attr-defined]
        except AttributeError:
            local = parameters  # some are gathered: _cut says which
        seen = fingerprint(local)
        if seen != self._seen:
            self._cur, self._seen = self._cut(parameters, local), seen
        return self._cur, seen

    def _cut(self, parameters: list[Tensor], local: list[Tensor]) -> list[Tensor]:
        device = local[0].device if local else torch.device("cpu")
        cur = [torch.empty(0, device=device)] * self._layers
        for i, (name, parameter) in enumerate(zip(self.names, parameters, strict=True)):
            if is_dtensor(parameter) != self._spread[i]:
                raise WeightScaleError(
                    f"layer {name!r} was {_kind(self._spread[i])} when the monitor was made and is "
                    f"{_kind(not self._spread[i])} now: with FSDP2, record when the weights are sharded "
                    "(after a backward pass, or model.reshard())"
                )
            weights = local[i].detach()
            if (weights.shape, weights.stride()) != self._layout[i]:
                shape, stride = self._layout[i]
                raise ValueError(
                    f"layer {name!r} has another shape or memory layout than when the monitor was made: expected shape "
                    f"{list(shape)}, strides {list(stride)}, got {list(weights.shape)}, {list(weights.stride())}; "
                    "make a new monitor"
                )
            cur[self.places[i]] = _part(weights, self._ranges[i])
        return cur


def _part(weights: Tensor, part: range) -> Tensor:
    """The weights numbered `part` in the order of memory; all of them, or none, where memory has no order."""
    if len(part) == weights.numel():
        return weights
    if not part:
        return weights.new_empty(0)
    assert is_dense(weights)
    return weights.as_strided((len(part),), (1,), weights.storage_offset() + part.start)


def _kind(spread: bool) -> str:
    return "a DTensor" if spread else "a plain tensor"
