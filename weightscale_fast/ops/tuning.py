"""Launch settings of the Triton kernels. The table is static, so that the same machine always gives the same bits.

They are never tuned during training: a kernel that writes in place cannot run twice on the same weights.
"""

from __future__ import annotations

from typing import NamedTuple


class Launch(NamedTuple):
    """How a program goes over the values that it adds."""

    block: int  # weights (stage 1) or partial sums (stage 2) that a program loads at a time
    num_warps: int


# Settings of stage 1 by the bytes of a weight, for an architecture such as "sm_90" or else for its vendor. "sm" is
# NVIDIA, with 32 threads per warp; "gfx" is AMD, with 64. Each thread has at least one 16-byte load of each stream.
TABLE: dict[str, dict[int, Launch]] = {
    "sm": {2: Launch(1024, 4), 4: Launch(1024, 4), 8: Launch(512, 4)},
    "gfx": {2: Launch(2048, 4), 4: Launch(1024, 4), 8: Launch(512, 4)},
}

# Stage 2. A layer of many chunks needs many loads in flight. More threads give them. A longer block does not: the
# compiler then alternates loads and additions. Most layers have few chunks, and a small program starts sooner.
MANY_CHUNKS = 1_000
FEW = Launch(256, 4)
MANY = {"sm": Launch(2048, 32), "gfx": Launch(2048, 16)}  # 1,024 threads

# The kernels have no a * b + c to fuse. Triton 3.9 warns if the option is not set.
OPTIONS = {"enable_fp_fusion": False}

# Registers of a thread in stage 1, without and with ratio_sum: a limit for the compiler. A multiprocessor of an NVIDIA
# GPU has 65,536 registers. It runs 7 programs of 128 threads with 72 registers, or 5 with 96. The number of programs
# decides how many bytes are in flight: each has a BLOCK of both streams, 4 KB for 16-bit weights and 8 KB for others.
# To read at 2.0 TB/s (1 us a trip), an H100 needs about 15 KB in flight on each multiprocessor, an H200 about 22 KB.
REGISTERS = {False: 72, True: 96}


def launch_for(architecture: str, element_size: int) -> Launch:
    """The settings of stage 1 for weights of `element_size` bytes.

    Example:
        >>> launch_for("sm_90", 4)
        Launch(block=1024, num_warps=4)
    """
    return TABLE.get(architecture, TABLE[_vendor(architecture)])[element_size]


def stage_1_options(architecture: str, element_size: int, with_ratio: bool) -> dict[str, int | bool]:
    """Triton's options for stage 1, besides the kernel's own arguments.

    Example:
        >>> stage_1_options("sm_90", 4, with_ratio=False)
        {'num_warps': 4, 'enable_fp_fusion': False, 'maxnreg': 72}
        >>> stage_1_options("gfx942", 4, with_ratio=False)
        {'num_warps': 4, 'enable_fp_fusion': False}
    """
    options = {"num_warps": launch_for(architecture, element_size).num_warps, **OPTIONS}
    if architecture.startswith("sm_"):
        options["maxnreg"] = REGISTERS[with_ratio]
    return options


def stage_2_launch(architecture: str, most_chunks: int) -> Launch:
    """The settings of stage 2 for a group whose largest layer has `most_chunks` chunks.

    Example:
        >>> stage_2_launch("sm_90", 144), stage_2_launch("sm_90", 61_036)
        (Launch(block=256, num_warps=4), Launch(block=2048, num_warps=32))
    """
    return FEW if most_chunks <= MANY_CHUNKS else MANY[_vendor(architecture)]


def _vendor(architecture: str) -> str:
    return "gfx" if architecture.startswith("gfx") else "sm"
