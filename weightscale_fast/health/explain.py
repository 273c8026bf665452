"""Explain: why something happened, as far as the record and the monitor know.

Letters: L layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..record.observed import Observed
from .block import Block, median
from .limits import BLOCK, FAST_DECAY, GROWING, LARGE, RATE_GONE

LOW_RATE = 1e-5  # a rate that is low for any optimizer
TINY_GRADIENT = 1e-4  # mean |w_t - w_prev| / lr; for SGD this is the mean absolute gradient
LARGE_GRADIENT = 1.0
LARGE_EPS = 1e-4
HALF = 0.5  # of the weights: if fewer move, the others lose their steps
MOST = 2**62  # steps
FAR_RATE = 5.0  # times the median rate
SMALLER = 10.0  # a gradient below eps times this makes Adam's steps small
NO_STEP = ("zero_rate", "no_gradient", "zero_gradient")
OF_KIND = {
    "sparse": "dead_weights",
    "large_step": "accumulated_gradient",
    "slow": "group_rate",
    "fast": "group_rate",
    "skipped": "overflow",
}


def cause_of_layer(kind: str, layer: int, name: str, block: Block, observed: Observed) -> str:
    """The cause of a finding about one layer; empty if it is not known."""
    if kind in ("still", "stopped", "stuck"):
        if block.lr[layer] == 0:
            return "zero_rate"
        known = _known(name, observed, block.last if kind != "still" else MOST)
        return "rounding" if kind == "stuck" and known not in NO_STEP else known
    if kind == "runaway":
        return "group_rate" if block.lr[layer] > FAR_RATE * median(block.lr[block.lr > 0]) else ""
    return OF_KIND.get(kind, "")


def cause_of_all(
    kind: str, names: Sequence[str], block: Block, observed: Observed, most_rate: float, growth: float
) -> str:
    """The cause of a finding about the whole network; empty if it is not known.

    Args:
        most_rate: the largest learning rate so far.
        growth: how many times larger the weights are than at the begin.
    """
    if kind == "all_stopped":
        if median(block.lr) < RATE_GONE * most_rate:
            return "rate_decayed"
        if _decays_fast(block):
            return "decay"
        if growth > GROWING:
            return "accumulated_gradient" if observed.keeps_gradients else "high_rate"
        return _most_common(names, observed, block.last) or _of_gradients(observed)
    if kind == "small_step":
        return _most_common(names, observed, block.last) or _of_gradients(observed)
    if kind == "shrinking":
        return "decay" if _decays_fast(block) else _most_common(names, observed, block.last) or "decay"
    if kind == "slow":
        return _why_slow(block, observed)
    if kind == "fast" and _decays_fast(block):
        return "decay"
    if kind in ("fast", "growing"):
        if observed.keeps_gradients:
            return "accumulated_gradient"
        gradient = median(np.where(np.isnan(block.implied), block.step, np.nan))
        return "large_gradient" if gradient > LARGE_GRADIENT else "high_rate"
    return OF_KIND.get(kind, "")


def _decays_fast(block: Block) -> bool:
    """Whether weight decay alone, decoupled or not, changes the weights by as much as a healthy step does."""
    return median(block.lr * block.decay) > FAST_DECAY


def _why_slow(block: Block, observed: Observed) -> str:
    if median(block.size) > LARGE:
        return "large_weights"
    if not median(block.lr) > LOW_RATE:
        return "low_rate"
    gradient = observed.gradient
    if gradient is None:
        gradient = median(np.where(np.isnan(block.implied), block.step, np.nan))
    if gradient < TINY_GRADIENT:
        return "tiny_gradient"
    if median(block.share) < HALF:
        return "rounding"
    return "low_rate"


def _of_gradients(observed: Observed) -> str:
    """Adam divides the gradient by its size plus eps. So steps are small only if eps is the larger one."""
    if observed.gradient is None:
        return ""
    if observed.epsilon is None:
        return "tiny_gradient" if observed.gradient < TINY_GRADIENT else ""
    if observed.gradient > SMALLER * observed.epsilon:
        return ""
    return "large_eps" if observed.epsilon > LARGE_EPS else "tiny_gradient"


def _known(name: str, observed: Observed, last: int) -> str:
    """The cause that was seen for a layer, at the latest in the block after step `last`."""
    cause = observed.causes.get(name)
    return cause.why if cause is not None and cause.step <= last + BLOCK else ""


def _most_common(names: Sequence[str], observed: Observed, last: int) -> str:
    """The cause of at least half of these layers."""
    why, count = Counter(_known(name, observed, last) for name in names).most_common(1)[0]
    return why if 2 * count >= len(names) else ""
