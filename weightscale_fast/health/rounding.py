"""Rounding: layers of which few weights move, because steps are lost to rounding or weights are dead.

Letters: L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .block import Block, FloatArray
from .limits import LOST, SIXTEEN_BIT, SPARSE, STUCK

SPACING = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float64": 2.0**-52}  # of numbers of size 1, at most
FLOAT32 = 2.0**-23
FILTERS = ("conv", "depthwise", "pointwise", "pointwise_linear", "squeeze_excite")
LOOKED_UP = ("embedding",)  # only the rows of a batch move
COARSE = 4.0  # spacings: weights that move by less are near the limit of their numbers
HALF = 0.5  # of the weights: if more of them move, their steps are not lost
FEW_WEIGHTS = 32  # a smaller layer has too few weights for shares
TINY = np.finfo(float).tiny


class Rounding:
    """Tells layers that lose their steps to rounding from layers of which most weights have no gradient.

    Where weights are rounded to the nearest number, those that move do so by about one spacing. If they are rounded at
    random, or sums are compensated, few weights move, too, but the whole step arrives. So the step is compared with
    the one that the optimizer implies.
    """

    def __init__(self, kinds: Sequence[str], dtypes: Sequence[str], numel: FloatArray) -> None:
        self.sixteen_bit = np.isin(dtypes, SIXTEEN_BIT)
        self._spacing = np.array([SPACING.get(dtype, FLOAT32) for dtype in dtypes])
        self._filters = np.isin(kinds, FILTERS)
        self._looked_up = np.isin(kinds, LOOKED_UP)
        self._numel = numel

    def badness(self, block: Block) -> dict[str, FloatArray]:
        """How far each layer [L] is from a limit: above 1 the condition holds."""
        judged = np.isfinite(block.level)
        with np.errstate(invalid="ignore", divide="ignore"):
            arrived = block.step / block.implied
            # How far a weight that moves moves, in spacings of a weight of mean size.
            coarse = block.level / block.share / self._spacing < COARSE
        moves = block.most_share > 0
        lost = arrived < LOST
        unknown = np.isnan(arrived)
        stuck = STUCK / np.maximum(block.share, TINY)
        in_sixteen = self.sixteen_bit & (lost | unknown)
        in_thirty_two = moves & ~self.sixteen_bit & ~self._looked_up & coarse & (lost | unknown)
        # Most of the step is lost: so it is, however many weights move. At the steps at which a layer has a gradient,
        # most of its weights move.
        most_lost = lost & coarse & (block.most_share < HALF)
        stuck = np.where(most_lost, np.maximum(stuck, LOST / np.maximum(arrived, TINY)), stuck)
        stuck = np.where(judged & (in_sixteen | in_thirty_two), stuck, 0.0)
        # Only filters, because the inputs of a linear layer may be sparse; but momentum shows all that ever moved.
        dense = self._filters | (~np.isnan(block.implied) & ~self._looked_up)
        sparse = SPARSE / np.maximum(block.most_share, TINY)
        sparse = np.where(judged & moves & dense & ~coarse & (self._numel >= FEW_WEIGHTS), sparse, 0.0)
        return {"stuck": stuck, "sparse": np.where(stuck > 1, 0.0, sparse)}
