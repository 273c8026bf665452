"""Whether tensors share memory. `fast_rwc` writes to the previous weights, so nothing else may be there.

Only tensors whose spans of addresses meet are looked at closely. So ordinary tensors cost a sort.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..ops.plan import is_dense


def check_own_memory(prev: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> None:
    """Raise unless writing to one tensor of `prev` changes neither another one, nor itself, nor the model.

    Args:
        prev: the previous weights by name, as far as something is written to them.
        model: all parameters and buffers of the model by name.

    Raises:
        ValueError: two of them share memory. The message names them.
    """
    for name, weights in prev.items():
        if _repeats_an_address(weights):
            raise ValueError(
                f"prev of layer {name!r} has several elements at one address (it was expanded), so it cannot be "
                "updated: clone the weights, or pass update=False"
            )
    spans = [(*_span(weights), name, weights, True) for name, weights in prev.items() if weights.numel()]
    spans += [(*_span(weights), name, weights, False) for name, weights in model.items() if _has_memory(weights)]
    spans.sort(key=lambda span: span[:2])
    open_spans: list[tuple[int, int, str, Tensor, bool]] = []
    for span in spans:
        start, _, name, weights, is_prev = span
        open_spans = [other for other in open_spans if other[1] > start]
        for _, _, other_name, other, other_is_prev in open_spans:
            if (is_prev or other_is_prev) and weights.device == other.device and _overlap(weights, other):
                raise _shared(name, is_prev, other_name, other_is_prev)
        open_spans.append(span)


def _shared(name: str, is_prev: bool, other: str, other_is_prev: bool) -> ValueError:
    if is_prev and other_is_prev:
        return ValueError(
            f"prev of layer {name!r} shares memory with prev of layer {other!r}, so updating one would change the "
            "other (the weights may have been tied): clone each of them, or pass update=False"
        )
    layer, own = (name, other) if is_prev else (other, name)
    return ValueError(
        f"prev shares memory with the model (prev of layer {layer!r} with the model's {own!r}), so that an update "
        "would change the model: clone the weights, or use snapshot(model)"
    )


def _has_memory(weights: Tensor) -> bool:
    return type(weights).__torch_dispatch__ is torch._C._disabled_torch_dispatch_impl and (
        weights.layout == torch.strided and weights.numel() > 0 and weights.device.type != "meta"
    )


def _repeats_an_address(weights: Tensor) -> bool:
    if is_dense(weights):
        return False
    start, end = _span(weights)
    taken = torch.zeros((end - start) // weights.element_size(), dtype=torch.bool, device="cpu")
    taken.as_strided(weights.shape, weights.stride()).fill_(True)
    return int(taken.sum()) < weights.numel()


def _span(weights: Tensor) -> tuple[int, int]:
    """The first address of the weights, and the one after the last."""
    start = weights.data_ptr()
    steps = sum((size - 1) * stride for size, stride in zip(weights.shape, weights.stride(), strict=True))
    return start, start + (steps + 1) * weights.element_size()


def sharing_memory(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> list[int]:
    """The indices of the tensors that share an element with one of the others."""
    others = [other for other in others if _has_memory(other)]
    starts, ends = np.array([_span(other) for other in others], dtype=np.int64).reshape(-1, 2).T
    found = []
    for i, tensor in enumerate(tensors):
        if tensor.numel():
            start, end = _span(tensor)
            near = [others[j] for j in np.flatnonzero((starts < end) & (ends > start))]
            if any(other.device == tensor.device and _overlap(tensor, other) for other in near):
                found.append(i)
    return found


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one device, whose spans meet, share an element."""
    (first, end), (b_first, b_end) = _span(a), _span(b)
    low, size = min(first, b_first), a.element_size()
    if b.element_size() != size or (first - b_first) % size:
        return True
    taken = torch.zeros((max(end, b_end) - low) // size, dtype=torch.bool, device="cpu")
    taken.as_strided(a.shape, a.stride(), (first - low) // size).fill_(True)
    return bool(taken.as_strided(b.shape, b.stride(), (b_first - low) // size).any())
