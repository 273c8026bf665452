"""Select the weights that are layers, and check that the pass can read them."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..text import listing
from .dtensor import is_dtensor, local_part
from .norms import biases_and_scales

LayerSelector = str | Callable[[str, nn.Parameter], bool] | None
FLOATING_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside any wrappers of `torch.compile`, DataParallel and DistributedDataParallel."""
    while True:
        if isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


def select_layers(model: nn.Module, layers: LayerSelector = None, *, shards: bool = False) -> dict[str, nn.Parameter]:
    """Select the parameters that are layers, by name, in the order of `named_parameters()`.

    Args:
        model: any module, with or without the wrappers of `torch.compile` and data parallelism.
        layers: None for the authors' rule, every parameter of more than one dimension (no biases, no norm scales, even
            if these have several dimensions, see `biases_and_scales`); a regular expression to search for in the name;
            a predicate `(name, parameter) -> bool`; or `"all"`.
        shards: whether the model is distributed. If so, DTensors are allowed, and this process may have no layers.

    If two parameters share their memory, only the first one is a layer.

    Raises:
        TypeError: `model` is not a module, or a selected weight is complex, integer, sparse or a tensor subclass.
        ValueError: nothing matches, or a selected weight has no data.

    Example:
        >>> list(select_layers(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))))
        ['0.weight', '2.weight']
        >>> list(select_layers(nn.Linear(3, 2), "all"))
        ['weight', 'bias']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    keep = layer_predicate(layers)
    left_out = biases_and_scales(unwrap(model)) if layers is None else set()
    chosen: dict[str, nn.Parameter] = {}
    seen: set[tuple[torch.device, int, int]] = set()
    for name, parameter in unwrap(model).named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise ValueError(f"layer {name!r} is not initialised yet: run the model once before you record it")
        if id(parameter) in left_out or not keep(name, parameter):
            continue
        weights = local_part(name, parameter) if shards else parameter
        check_weights(name, weights)
        storage = (weights.device, weights.data_ptr(), weights.numel())
        if weights.numel() and storage in seen:
            continue
        seen.add(storage)
        chosen[name] = parameter
    if not chosen and not shards:
        raise no_layer(model, layers)
    return chosen


def no_layer(model: nn.Module, layers: LayerSelector) -> ValueError:
    """The error for a model in which nothing was selected."""
    names = [name for name, _ in unwrap(model).named_parameters()]
    found = f"its {len(names)} parameters are {listing(names)}" if names else "it has no parameters"
    return ValueError(
        f"no layer of {type(model).__name__} matches layers={layers!r}: {found} "
        '(the default takes parameters of more than one dimension but biases and norm scales; layers="all" takes all)'
    )


def layer_predicate(layers: LayerSelector) -> Callable[[str, nn.Parameter], bool]:
    """The predicate `(name, parameter) -> bool` for a selector."""
    if layers is None:
        return lambda name, parameter: parameter.dim() > 1
    if layers == "all":
        return lambda name, parameter: True
    if isinstance(layers, str):
        try:
            pattern = re.compile(layers)
        except re.error as error:
            raise ValueError(f"layers={layers!r} is not a regular expression: {error}") from error
        return lambda name, parameter: pattern.search(name) is not None
    if callable(layers):
        return layers
    raise TypeError(f'layers must be None, "all", a regular expression or a predicate, got {type(layers).__name__}')


def check_weights(name: str, weights: Tensor) -> None:
    """Raise `TypeError` or `ValueError` with the layer's name if the pass cannot read these weights."""
    advice = "leave the layer out with layers="
    if is_dtensor(weights):
        raise TypeError(
            f"layer {name!r} is a DTensor, and this process has only a part of it: record the model with RWCMonitor, "
            "which adds up the parts of all processes"
        )
    if weights.layout != torch.strided:
        raise TypeError(f"layer {name!r} must be dense, got layout {weights.layout}; {advice}")
    if weights.dtype not in FLOATING_DTYPES:
        wanted = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATING_DTYPES)
        raise TypeError(f"layer {name!r} must be one of {wanted}, got {weights.dtype}; {advice}")
    if not is_plain(weights):
        raise TypeError(
            f"layer {name!r} is a {type(weights).__name__}, whose memory may not hold plain weights; {advice}"
        )
    if weights.is_neg():
        raise TypeError(f"layer {name!r} is stored with the opposite sign: make it weights.resolve_neg(), or {advice}")
    if weights.device.type == "meta":
        raise ValueError(f"layer {name!r} is on the meta device and has no data: move the model to a real device first")


def is_plain(weights: Tensor) -> bool:
    """Whether the memory of the weights holds their values.

    A subclass that leaves the operations to PyTorch is plain (geoopt's ManifoldParameter). A subclass with operations
    of its own may hold anything, and so may bitsandbytes' quantized parameters.
    """
    if type(weights) in (Tensor, nn.Parameter) or type(weights).__module__.startswith("torch.nn."):
        return True
    own_operations = type(weights).__torch_dispatch__ is not torch._C._disabled_torch_dispatch_impl
    return not own_operations and not hasattr(weights, "quant_state")
