"""Launch settings of the Triton kernels: a static table, so that the same machine always gives the same bits.

Never tuned while a model trains: a kernel that writes in place cannot be tried twice on the same weights.
"""

from __future__ import annotations

from typing import NamedTuple


class Launch(NamedTuple):
    """How a program of stage 1 walks its chunk."""

    block: int  # weights that a program takes at a time
    num_warps: int
    most_registers: int  # of a thread, with the ratios; what decides how many programs a multiprocessor holds


# Bytes of a weight -> settings, for an architecture such as "sm_90" or else for its vendor: "sm" is NVIDIA, whose warps
# have 32 threads, "gfx" AMD, where they have 64. Each thread gets at least one 16-byte load of each stream.
TABLE: dict[str, dict[int, Launch]] = {
    "sm": {2: Launch(1024, 4, 96), 4: Launch(1024, 4, 96), 8: Launch(512, 4, 96)},
    "gfx": {2: Launch(2048, 4, 96), 4: Launch(1024, 4, 96), 8: Launch(512, 4, 96)},
}
STAGE_2 = Launch(256, 4, 64)  # partial sums of a layer that are added at a time

# There is no a * b + c in the kernels that could be fused, and Triton 3.9 warns where nothing is said.
OPTIONS = {"enable_fp_fusion": False}


def launch_for(architecture: str, element_size: int) -> Launch:
    """The settings for weights of `element_size` bytes.

    Example:
        >>> launch_for("sm_90", 4)
        Launch(block=1024, num_warps=4, most_registers=96)
    """
    vendor = "gfx" if architecture.startswith("gfx") else "sm"
    return TABLE.get(architecture, TABLE[vendor])[element_size]
