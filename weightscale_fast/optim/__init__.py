"""torch's SGD, Adam and AdamW, which add up the sums of every parameter in the pass that writes the weights.

`RWCMonitor` sees such an optimizer. It then needs no copy of the weights and no pass of its own.
"""

from .adam import Adam, AdamW
from .records_sums import StepSums
from .sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "StepSums"]
