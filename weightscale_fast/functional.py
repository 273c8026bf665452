"""fast_rwc and layer_sums: every layer's relative weight change, and the sums behind it, in one pass.

Letters: L layers, K sums per layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .eager import always_eager
from .graph_capture import is_capturing, keep_for_replays
from .ops.backends import run_plan
from .ops.plan import Plan, build_plan, sum_dtype
from .ops.sums import DELTA_L1, DELTA_MAX, DELTA_SQ, MOVED, PREV_L1, PREV_SQ, number_of_sums
from .ratios import check_definition
from .weights.layers import select_layers, unwrap
from .weights.overlap import check_own_memory
from .weights.snapshot import Snapshot, check_same

Previous = Snapshot | nn.Module | Mapping[str, Tensor]


class LayerSums(NamedTuple):
    """The sums of the pass, each [L] float64 on the model's device. The sums of a layer's parts add up to its own.

    Of the last three, the squares add up, and the largest change of a layer is that of one of its parts.
    """

    delta_l1: Tensor  # sum |w - prev|
    prev_l1: Tensor  # sum |prev|
    moved: Tensor  # number of weights with w != prev
    ratio_sum: Tensor | None = None  # sum |w - prev| / |prev|; None unless it was requested
    delta_l2: Tensor | None = None  # root of sum (w - prev)^2; None unless l2 was requested, like the next two
    prev_l2: Tensor | None = None  # root of sum prev^2
    delta_max: Tensor | None = None  # max |w - prev|


@always_eager
def fast_rwc(
    model: nn.Module,
    prev: Previous,
    *,
    update: bool = True,
    definition: str = "norm_ratio",
    backend: str | None = None,
) -> Tensor:
    """Compute the relative weight change of every layer since `prev`. The same pass copies the weights into `prev`.

    RWC_l = ||w - prev||_1 / ||prev||_1 (WeightScale, Eq. 1). The weights are read as they are stored.

    Args:
        model: the network, after `optimizer.step()`.
        prev: a `Snapshot`; or a module, a `state_dict` or a dict of clones with the model's names. Of the latter three,
            the weights of more than one dimension are read, and overwritten in place when `update` is True. Several
            threads may use one snapshot: its calls wait for each other.
        update: False leaves `prev` as it is, to measure the change over several steps.
        definition: `"norm_ratio"`; or `"l2_ratio"`, ||w - prev||_2 / ||prev||_2, which others call the update-to-weight
            ratio; or `"mean_ratio"`, the mean of |w - prev| / |prev| that the authors' code computed. Weights near zero
            dominate the last one.
        backend: `"cpu"` (compiled C++), `"triton"` or `"cuda"` (GPUs), or `"torch"` (plain PyTorch, any device). By
            default the one that the variable `WEIGHTSCALE_FAST_BACKEND` names, else the fastest that works here.

    Returns:
        [L] float32 on the model's device, in the order of `Snapshot.names`. The host does not wait for the device.
        There is no autograd graph.

    Raises:
        TypeError, ValueError: `prev` does not fit this model. The message names the layer and says what to do.
        WeightScaleError: the model lost a layer, or the named backend does not work here.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> prev = Snapshot(model)
        >>> with torch.no_grad():
        ...     model.weight.mul_(1.25)  # doctest: +ELLIPSIS
        Parameter containing: ...
        >>> fast_rwc(model, prev), fast_rwc(model, prev)
        (tensor([0.2500]), tensor([0.]))
    """
    check_definition(definition)
    sums = number_of_sums(ratio=definition == "mean_ratio", l2=definition == "l2_ratio")
    _, rwc = _run(model, prev, sums, update, backend)
    return rwc


@always_eager
def layer_sums(
    model: nn.Module,
    prev: Previous,
    *,
    update: bool = True,
    ratio_sum: bool = False,
    l2: bool = False,
    backend: str | None = None,
) -> LayerSums:
    """Compute the sums behind `fast_rwc`, with the same arguments.

    `ratio_sum=True` adds that sum. `l2=True` adds the L2 norms of the change and of the previous weights, and the
    largest change of a weight. `delta_l2 / numel**0.5` is the RMS of the change. Squares are formed and added in
    float64, so that changes of 1e-30 and weights of 1e30 count too.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> prev = Snapshot(model)
        >>> with torch.no_grad():
        ...     model.weight[0, 0] += 1  # doctest: +ELLIPSIS
        >>> sums = layer_sums(model, prev)
        >>> sums.delta_l1.round(decimals=6), sums.moved
        (tensor([1.], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    out, _ = _run(model, prev, number_of_sums(ratio=ratio_sum, l2=l2), update, backend, with_rwc=False)
    sums = LayerSums(out[DELTA_L1], out[PREV_L1], out[MOVED], out[-1] if ratio_sum else None)
    if not l2:
        return sums
    return sums._replace(delta_l2=out[DELTA_SQ].sqrt(), prev_l2=out[PREV_SQ].sqrt(), delta_max=out[DELTA_MAX])


def _run(
    model: nn.Module, prev: Previous, sums: int, update: bool, backend: str | None, *, with_rwc: bool = True
) -> tuple[Tensor, Tensor]:
    """Return [K, L] float64 sums, with K = `sums`, and the ratios [L], which are [0] unless `with_rwc`."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(prev, Snapshot):
        with prev.lock:
            return _run_plan(*prev.plan_for(model), sums, update, backend, with_rwc)
    if isinstance(prev, nn.Module):
        prev = _tensors(prev)
    if not isinstance(prev, Mapping):
        raise TypeError(f"prev must be a Snapshot, a module or a dict of tensors by name, got {type(prev).__name__}")
    known = _tensors(model)
    named = {_inner_name(name, known): tensor for name, tensor in prev.items()}
    layers = select_layers(model)
    _check_fits(layers, known, named)
    twins = _twins(layers, known, named) if update else []
    if update:
        check_own_memory({name: named[name] for name in [*layers, *twins]}, known)
    cur: list[Tensor] = list(layers.values())
    plan = build_plan(cur, [named[name].detach() for name in layers])
    found = _run_plan(plan, cur, sums, update, backend, with_rwc)
    for name in twins:
        named[name].detach().copy_(known[name].detach())
    return found


def _run_plan(
    plan: Plan, cur: list[Tensor], sums: int, update: bool, backend: str | None, with_rwc: bool
) -> tuple[Tensor, Tensor]:
    if is_capturing(plan.device):
        keep_for_replays(plan)
    out = torch.empty(1, sums, len(cur), dtype=sum_dtype(plan.device), device=plan.device)
    rwc = torch.empty(len(cur) if with_rwc else 0, dtype=torch.float32, device=plan.device)
    run_plan(plan, cur, out, plan.zero, update, backend, rwc if with_rwc else None)
    return out[0], rwc


def _check_fits(layers: Mapping[str, Tensor], known: Mapping[str, Tensor], prev: Mapping[str, Tensor]) -> None:
    """Raise unless `prev` has every layer of the model, with memory of its own."""
    missing = set(layers) - set(prev)
    extra = {name for name, tensor in prev.items() if isinstance(tensor, Tensor)} - set(known)
    if missing or extra:
        raise ValueError(
            f"prev is not of this model: it lacks {sorted(missing)[:5] or 'nothing'} "
            f"and has {sorted(extra)[:5] or 'nothing'} beside the model's own names"
        )
    for name, weights in layers.items():
        check_same(name, prev[name], weights)
        if weights.numel() and prev[name].data_ptr() == weights.data_ptr():
            raise ValueError(
                f"prev shares memory with the model (layer {name!r}), so that nothing would ever seem to move: "
                "clone the weights, or use snapshot(model)"
            )


def _twins(layers: Mapping[str, Tensor], known: Mapping[str, Tensor], prev: Mapping[str, Tensor]) -> list[str]:
    """The other names of tied weights, where `prev` has memory of its own for them. The pass updates only the first."""
    own = {(weights.device, weights.data_ptr(), weights.numel()): name for name, weights in layers.items()}
    twins = []
    for name in sorted(known.keys() & prev.keys() - layers.keys()):
        weights, old = known[name], prev[name]
        layer = own.get((weights.device, weights.data_ptr(), weights.numel()))
        if weights.dim() > 1 and layer is not None:
            check_same(name, old, weights)
            if not _tied_alike(weights, old, layers[layer], prev[layer]):
                twins.append(name)
    return twins


def _tied_alike(weights: Tensor, old: Tensor, layer: Tensor, prev: Tensor) -> bool:
    """Whether `old` lies in `prev` as the weights lie in the layer, so that an update of `prev` updates it too."""
    strides, first = (weights.stride(), old.stride()), (layer.stride(), prev.stride())
    as_stored = strides[0] == strides[1] and first[0] == first[1]
    return old.data_ptr() == prev.data_ptr() and (strides == first or as_stored)


def _inner_name(name: str, known: Mapping[str, Tensor]) -> str:
    """Remove the prefixes that torch.compile and data parallelism put before a name in a `state_dict`."""
    inner = name.removeprefix("_orig_mod.").removeprefix("module.").removeprefix("_orig_mod.")
    return name if name in known else inner


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, each under every name that it has."""
    module = unwrap(model)
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
