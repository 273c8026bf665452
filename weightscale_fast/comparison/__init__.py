"""Two runs side by side: the first step and layer that differ, and how it went on."""

from .result import Comparison
from .runs import compare

__all__ = ["Comparison", "compare"]
