"""master_weights: the float32 weights that an optimizer keeps for a 16-bit model, as a module to record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..errors import WeightScaleError
from .layers import LayerSelector, select_layers, unwrap
from .lookup import LayerLookup, fingerprint


class MasterWeights(nn.Module):
    """What `master_weights` returns."""

    model: nn.Module

    def __init__(self, model: nn.Module, find: Callable[[nn.Parameter], Tensor | None], layers: LayerSelector) -> None:
        super().__init__()
        object.__setattr__(self, "model", unwrap(model))  # not a submodule, because its weights are not master weights
        self._find: Callable[[Any], Tensor | None] = find
        self._lookup = LayerLookup(model, tuple(select_layers(model, layers)))
        self._slots: list[tuple[nn.Module, str]] = []  # for each layer, the submodule that has it, and its key
        for name in self._lookup.names:
            *path, key = name.split(".")
            holder: nn.Module = self
            for part in path:
                if part not in holder._modules:
                    holder.add_module(part, nn.Module())
                holder = holder._modules[part]  # type: ignore[assignment]
            self._slots.append((holder, key))
        self._held: list[nn.Parameter] = []
        self._masters: list[Tensor] = []  # what find gave for each; the same objects if they are parameters
        self._trained: list[bool] = []  # requires_grad of each parameter at the last _hold
        self.refresh()

    def refresh(self) -> None:
        """Find all master weights again. Loading an optimizer's state replaces them.

        This runs at each step. If nothing has changed, the only Python code that runs for each layer is `find`.

        Raises:
            WeightScaleError: a layer has no master weight, or the model no longer has the layer.
        """
        try:
            parameters = self._lookup.parameters()
            found = fingerprint(list(map(self._find, parameters)))  # type: ignore[arg-type]
            trained = [parameter.requires_grad for parameter in parameters]
        except (KeyError, TypeError, AttributeError):  # something is missing; _hold raises the error that says what
            self._hold()
            return
        if found != fingerprint(self._held) or trained != self._trained:
            self._hold()

    def pairs(self) -> list[tuple[Tensor, nn.Parameter]]:
        """Of each layer, the tensor that `find` gave, which the optimizer has, and the parameter of this module."""
        return list(zip(self._masters, self._held, strict=True))

    def _hold(self) -> None:
        parameters, _ = self._lookup()
        found = list(map(self._hold_one, self._lookup.names, parameters, self._slots))
        self._masters, self._held = [master for master, _ in found], [held for _, held in found]
        self._trained = [parameter.requires_grad for parameter in parameters]

    def _hold_one(self, name: str, parameter: Tensor, slot: tuple[nn.Module, str]) -> tuple[Tensor, nn.Parameter]:
        holder, key = slot
        try:
            master = self._find(parameter)
        except KeyError:
            master = None
        if not isinstance(master, Tensor):
            raise WeightScaleError(
                f"layer {name!r} has no master weight, find gave {type(master).__name__}: many optimizers make master "
                "weights in their first step, so call master_weights after it; or leave the layer out with layers="
            )
        held = holder._parameters.get(key)
        if held is None or fingerprint([held]) != fingerprint([master]):
            held = master if isinstance(master, nn.Parameter) else nn.Parameter(master.detach())
            holder.register_parameter(key, held)
        if held is not master and held.requires_grad != parameter.requires_grad:
            held.requires_grad_(parameter.requires_grad)
        return master, held


def master_weights(
    model: nn.Module, find: Callable[[nn.Parameter], Tensor | None], *, layers: LayerSelector = None
) -> MasterWeights:
    """The float32 master weights of a 16-bit model, as a module for `RWCMonitor`, `snapshot` or `fast_rwc`.

    The 16-bit weights are the rounded master weights. Rounding loses most small updates; the master weights have all of
    them. Nothing is copied. The optimizer may replace its master weights, for example when its state is loaded. Under
    autocast, and with FSDP2's `MixedPrecisionPolicy`, the model's own parameters are the master weights, and this
    function is not needed.

    Args:
        model: the 16-bit network.
        find: returns the master weight of a parameter.
        layers: which weights are layers, as for `snapshot`.

    Raises:
        WeightScaleError: a layer has no master weight (yet).

    Example:
        >>> import torch
        >>> model = nn.Linear(4, 2).bfloat16()
        >>> masters = {p: p.detach().float().requires_grad_() for p in model.parameters()}
        >>> optimizer = torch.optim.SGD(masters.values(), lr=0.1)
        >>> [(name, weights.dtype) for name, weights in master_weights(model, masters.get).named_parameters()]
        [('weight', torch.float32)]

    If the optimizer keeps the master weights in its state, as Transformer Engine's FusedAdam does, `find` is
    `lambda p: optimizer.state[p]["master_param"]`.
    """
    return MasterWeights(model, find, layers)
