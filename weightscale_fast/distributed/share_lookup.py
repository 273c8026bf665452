"""ShareLookup: finds this rank's share of every layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import WeightScaleError
from ..ops.plan import is_dense
from ..weights.dtensor import is_dtensor, local_part
from ..weights.lookup import Fingerprint, LayerLookup, fingerprint
from .shares import Shares


class ShareLookup(LayerLookup):
    """Finds this rank's share of every layer, as views of the model's own memory.

    A call returns one entry for each layer of the whole model. An entry is empty if other ranks count the layer, or if
    the layer belongs to another pipeline stage.
    """

    def __init__(self, model: nn.Module, shares: Shares) -> None:
        super().__init__(model, tuple(shares.mine))
        self._ranges = list(shares.mine.values())
        place = {name: i for i, name in enumerate(shares.names)}
        self.places = [place[name] for name in shares.mine]  # among all layers of the model
        self._layers = len(shares.names)
        parameters = self.parameters()
        self._is_dtensor = [is_dtensor(parameter) for parameter in parameters]
        local = [local_part(name, parameter) for name, parameter in zip(self.names, parameters, strict=True)]
        self._layout = [(w.shape, w.stride()) for w in local]
        self._cur: list[Tensor] = []
        self._seen: Fingerprint | None = None

    def __call__(self) -> tuple[list[Tensor], Fingerprint]:
        """The weights that this rank counts, one entry for each layer of the whole model, and their fingerprint.

        Raises:
            WeightScaleError: a parameter was removed, or is gathered (unsharded) now.
            ValueError: a parameter has another shape or memory layout than before.
        """
        try:
            return self._find()
        except TypeError:  # one is None: it was renamed, or set to None
            self._walk()
        return self._find()

    def begins_here(self) -> list[bool]:
        """Of each parameter here, whether this rank counts its first weight. Of the ranks that hold it, one does."""
        return [len(numbers) > 0 and numbers.start == 0 for numbers in self._ranges]

    def _find(self) -> tuple[list[Tensor], Fingerprint]:
        parameters = self.parameters()
        try:
            local = [p._local_tensor if sharded else p for p, sharded in zip(parameters, self._is_dtensor, strict=True)]  # type: ignore[attr-defined]
        except AttributeError:
            local = parameters  # some are gathered, and _own_shares raises an error that names the first
        seen = fingerprint(local)
        if seen != self._seen:
            self._cur, self._seen = self._own_shares(parameters, local), seen
        return self._cur, seen

    def _own_shares(self, parameters: list[Tensor], local: list[Tensor]) -> list[Tensor]:
        device = local[0].device if local else torch.device("cpu")
        cur = [torch.empty(0, device=device)] * self._layers
        for i, (name, parameter) in enumerate(zip(self.names, parameters, strict=True)):
            if is_dtensor(parameter) != self._is_dtensor[i]:
                raise WeightScaleError(
                    f"layer {name!r} was {_kind(self._is_dtensor[i])} when the monitor was made, but is "
                    f"{_kind(not self._is_dtensor[i])} now: with FSDP2, record while the weights are sharded "
                    "(after a backward pass, or after model.reshard())"
                )
            weights = local[i].detach()
            if (weights.shape, weights.stride()) != self._layout[i]:
                shape, stride = self._layout[i]
                raise ValueError(
                    f"layer {name!r} has another shape or memory layout than when the monitor was made: expected shape "
                    f"{list(shape)}, strides {list(stride)}, got {list(weights.shape)}, {list(weights.stride())}; "
                    "make a new monitor"
                )
            cur[self.places[i]] = _slice(weights, self._ranges[i])
        return cur


def _slice(weights: Tensor, numbers: range) -> Tensor:
    """The weights with these numbers, in memory order.

    Weights that do not fill one block of memory have no such order. A rank counts all of them or none.
    """
    if len(numbers) == weights.numel():
        return weights
    if not numbers:
        return weights.new_empty(0)
    assert is_dense(weights)
    return weights.as_strided((len(numbers),), (1,), weights.storage_offset() + numbers.start)


def _kind(is_dtensor: bool) -> str:
    return "a DTensor" if is_dtensor else "a plain tensor"
