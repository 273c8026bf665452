"""ShareLookup: finds this rank's share of every layer, and no other weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..errors import WeightScaleError
from ..ops.plan import is_dense
from ..weights.dtensor import is_dtensor, local_part
from ..weights.lookup import Fingerprint, LayerLookup, fingerprint
from .shares import Shares


class ShareLookup(LayerLookup):
    """Finds this rank's share of every layer of a model, as views of the memory where it lies.

    A call returns one entry for each layer of the whole model. An entry is empty if other ranks count the layer, or if
    it lies in another stage of a pipeline.
    """

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
        """The weights to count, one entry for each layer of the whole model, and their fingerprint.

        Raises:
            WeightScaleError: a parameter was removed, or is gathered (unsharded) now.
            ValueError: a parameter has another shape or memory layout than before.
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
            cur[self.places[i]] = _slice(weights, self._ranges[i])
        return cur


def _slice(weights: Tensor, numbers: range) -> Tensor:
    """The weights with these numbers, counted in memory order.

    Weights that do not fill one block of memory have no such order. Of them a rank counts all, or none.
    """
    if len(numbers) == weights.numel():
        return weights
    if not numbers:
        return weights.new_empty(0)
    assert is_dense(weights)
    return weights.as_strided((len(numbers),), (1,), weights.storage_offset() + numbers.start)


def _kind(spread: bool) -> str:
    return "a DTensor" if spread else "a plain tensor"
