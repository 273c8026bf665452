"""The sums of a layer: which there are, and in which row of every [K, ...] tensor each is. csrc/plan.h says the same.

    0 delta_l1    1 prev_l1    2 moved    and if L2 is wanted    3 delta_sq    4 prev_sq    5 delta_max

If it is wanted, ratio_sum is the last row. So K is 3, 4, 6 or 7. delta_max is not a sum: what adds up rows takes the
largest there.
"""

from __future__ import annotations

DELTA_L1, PREV_L1, MOVED, DELTA_SQ, PREV_SQ, DELTA_MAX = range(6)
MAX_SUMS = 7
NUMBERS = (3, 4, 6, 7)  # the possible K


def number_of_sums(*, ratio: bool = False, l2: bool = False) -> int:
    """K, with ratio_sum or without it, and with the three of L2 or without them."""
    return 3 + 3 * l2 + ratio


def has_ratio(K: int) -> bool:
    """Whether the last of K rows is ratio_sum."""
    return K in (4, 7)


def has_l2(K: int) -> bool:
    """Whether K rows have delta_sq, prev_sq and delta_max."""
    return K >= 6
