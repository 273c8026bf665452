"""why_still: what a parameter says about why it does not move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def why_still(parameter: Tensor, groups: Mapping[int, Mapping[str, Any]], others: bool) -> str:
    """The code of the cause, as far as it is known without reading the gradient; empty if the gradient must tell.

    Call it before the optimizer's step, when the gradient is there.

    Args:
        parameter: the parameter.
        groups: the optimizer's groups, by the ids of their parameters.
        others: whether the optimizer has parameters that are not in the model.
    """
    if not parameter.requires_grad:
        return "frozen"
    if id(parameter) not in groups:
        return "other_tensors" if others else "not_in_optimizer"
    if parameter.grad is None:
        return "no_gradient"
    rate = groups[id(parameter)].get("lr")
    return "zero_rate" if isinstance(rate, (int, float)) and rate == 0 else ""
