"""Network: what is wrong with the network as a whole, in absolute terms.

Letters: L layers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .block import Block, FloatArray, median
from .limits import (
    DECAYING,
    FALLEN_ALL,
    FALLEN_TOO,
    FAST,
    FAST_DECAY,
    GROWING,
    GROWING_BLOCKS,
    LARGE,
    LARGE_STEP,
    NO_STEP,
    ORDINARY_STEP,
    RATE_GONE,
    SHRINKING,
    SLOW,
    SLOW_IF_LARGE,
    SLOW_IF_RISING,
    SMALL_STEP,
)

TINY = np.finfo(float).tiny
KINDS = ("all_stopped", "small_step", "large_step", "slow", "fast", "shrinking", "growing")


class Network:
    """Judges the median layer of a block. Layers that do not move, or lose their steps to rounding, do not count."""

    def __init__(self, horizon: int) -> None:
        self._horizon = horizon  # the steps that a row spans
        self.most_rate = 0.0  # the largest learning rate so far
        self._most_step = 0.0  # the largest step so far, of what the optimizer implies
        self.growth_in_all = 1.0  # how many times larger the weights are than at the begin
        self._first_size: FloatArray | None = None  # [L] the mean weights in the first block
        self._sizes: list[FloatArray] = []  # [L] the mean weights in the last blocks
        self.growth = 1.0  # how many times larger the weights are than some blocks ago
        self._most_level = 0.0  # the largest RWC per learning rate so far

    def badness(
        self, block: Block, stuck: NDArray[np.bool_], ever_moved: NDArray[np.bool_], keeps_gradients: bool
    ) -> dict[str, float]:
        """How far the network is from each limit: above 1 the condition holds.

        Adam's steps are as large as the rate if all gradients point the same way. That is no fault if the data do not
        change from step to step. So `large_step` needs to know that gradients are kept, too.
        """
        moving = (block.level > 0) & np.isfinite(block.level)
        counted = moving & ~stuck
        high, low = median(block.level[counted], "higher"), median(block.level[counted], "lower")
        rate = median(block.lr[ever_moved])
        per_rate = median((block.level / np.where(block.lr > 0, block.lr, np.nan))[counted], "higher")
        # Of the weights that move, because those that are pruned or masked have no step.
        steps = (block.step / np.maximum(block.share, TINY) / block.implied)[counted]
        steps = steps if self._horizon == 1 else np.empty(0)
        step = median(steps, "higher")
        bad = dict.fromkeys(KINDS, 0.0)
        if 2 * np.count_nonzero(np.isnan(block.level)) >= len(block.level):
            return bad  # the finding about NaN says enough
        if 2 * np.count_nonzero(stuck) > np.count_nonzero(ever_moved):
            step = high = np.nan  # the finding about rounding says why
        else:
            bad["all_stopped"] = self._stopped(block, block.peak > 0, ever_moved, rate, step, per_rate)
        self.most_rate = float(np.fmax(self.most_rate, rate))
        if step > 0:
            bad["small_step"] = SMALL_STEP / step if self._most_step <= ORDINARY_STEP else 0.0
            bad["large_step"] = median(steps, "lower") / LARGE_STEP if keeps_gradients else 0.0
            self._most_step = max(self._most_step, step)
        if per_rate > 0:
            self._most_level = max(self._most_level, per_rate)
        decays = rate < DECAYING * self.most_rate
        if high > 0 and not (np.isnan(rate) or decays):
            large = median(block.size[counted]) > LARGE
            limit = SLOW_IF_LARGE if large else SLOW
            bad["slow"] = (SLOW_IF_RISING * limit if block.rises else limit) / high
        if self._horizon == 1:
            bad["fast"] = low / FAST
        shrink = np.where(block.decay == 0, 0.0, block.shrink)[counted]
        # A network that has learnt its data only decays, slowly, and that is no fault.
        shrinks = median(shrink, "lower") if low > FAST_DECAY else 0.0
        bad["shrinking"] = shrinks / SHRINKING
        self.growth = self._growth(block)
        bad["growing"] = self.growth / GROWING
        return {kind: 0.0 if np.isnan(value) else value for kind, value in bad.items()}

    def _growth(self, block: Block) -> float:
        """How many times larger the weights are than 8 blocks ago. Layers that began at 0 do not count."""
        self._sizes = [*self._sizes[-GROWING_BLOCKS:], block.size]
        before = self._sizes[0]
        if self._first_size is None:
            self._first_size = block.size
        began = self._first_size > 0
        self.growth_in_all = median(block.size[began] / self._first_size[began])
        counted = began & (before > 0) & np.isfinite(block.size)
        return median(block.size[counted] / before[counted], "lower")

    def _stopped(
        self,
        block: Block,
        moving: NDArray[np.bool_],
        ever_moved: NDArray[np.bool_],
        rate: float,
        step: float,
        per_rate: float,
    ) -> float:
        if not ever_moved.any():
            return 0.0
        if rate < RATE_GONE * self.most_rate:
            return np.inf
        if not moving.any():  # a network that moves at some of the steps has not stopped
            return np.inf
        bad = 0.0
        fell = per_rate < FALLEN_TOO * self._most_level
        if step > 0 and self._most_step > ORDINARY_STEP and fell:  # small weights make small steps, too
            # Where a network learns its data quickly, Adam still remembers the large gradients for 1,000 steps.
            decays = median(block.shrink[moving], "lower") > SHRINKING
            bad = (SMALL_STEP if decays else NO_STEP) / step
        if per_rate > 0 and self._most_level > 0:
            bad = max(bad, FALLEN_ALL * self._most_level / per_rate)
        return bad
