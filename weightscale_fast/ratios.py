"""The two definitions of Relative Weight Change, from the four sums: the one place where a ratio is formed."""

from __future__ import annotations

from torch import Tensor

DEFINITIONS = ("norm_ratio", "mean_ratio")


def check_definition(definition: str) -> None:
    """Raise `ValueError` unless `definition` is one of `DEFINITIONS`."""
    if definition not in DEFINITIONS:
        raise ValueError(f"definition must be one of {', '.join(map(repr, DEFINITIONS))}, got {definition!r}")


def norm_ratio(delta_l1: Tensor, prev_l1: Tensor) -> Tensor:
    """||w_t - w_prev||_1 / ||w_prev||_1, Eq. 1 of WeightScale and of arXiv 2011.06735.

    0/0 is 0 (nothing was there and nothing moved), x/0 is inf, NaN stays NaN.

    Example:
        >>> import torch
        >>> norm_ratio(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([4.0, 0.0, 0.0]))
        tensor([0.2500, 0.0000,    inf])
    """
    return (delta_l1 / prev_l1).masked_fill_(delta_l1 == 0, 0.0)


def mean_ratio(ratio_sum: Tensor, numel: Tensor) -> Tensor:
    """The mean over a layer's weights of |w_t - w_prev| / |w_prev|: what the authors' code computed for their figures.

    Plain IEEE arithmetic: one zero weight that moves makes the layer inf, one that stays makes it NaN. For weights with
    density at zero its expectation is not finite, so single weights dominate it; `norm_ratio` has no such trouble. A
    layer without weights gives 0.
    """
    return ratio_sum / numel.clamp_min(1)
