"""Launch settings of the Triton kernels: a static table, so that the same machine always gives the same bits.

Never tuned while a model trains: a kernel that writes in place cannot be tried twice on the same weights.
"""

from __future__ import annotations

from typing import NamedTuple


class Launch(NamedTuple):
    """How a program walks what it adds up."""

    block: int  # weights (stage 1) or partial sums (stage 2) that a program takes at a time
    num_warps: int


# Bytes of a weight -> settings of stage 1, for an architecture such as "sm_90" or else for its vendor: "sm" is NVIDIA,
# whose warps have 32 threads, "gfx" AMD, where they have 64. Each thread gets at least one 16-byte load of each stream.
TABLE: dict[str, dict[int, Launch]] = {
    "sm": {2: Launch(1024, 4), 4: Launch(1024, 4), 8: Launch(512, 4)},
    "gfx": {2: Launch(2048, 4), 4: Launch(1024, 4), 8: Launch(512, 4)},
}

# Stage 2. A layer of many chunks wants many loads in flight, which many threads bring and a longer block does not: the
# compiler then loads and adds in turn. Most layers have few chunks, and a small program starts sooner.
MANY_CHUNKS = 1_000
FEW = Launch(256, 4)
MANY = {"sm": Launch(2048, 32), "gfx": Launch(2048, 16)}  # 1,024 threads

# There is no a * b + c in the kernels that could be fused, and Triton 3.9 warns where nothing is said.
OPTIONS = {"enable_fp_fusion": False}

# Registers of a thread in stage 1, without and with the ratios. The compiler is held to them, because how many programs
# a multiprocessor of NVIDIA's (65,536 registers) holds at once decides how many bytes it has in flight: 7 programs of
# 128 threads with 72 registers, 5 with 96. A program has a BLOCK of each stream in flight: 4 KB for 16-bit weights,
# 8 KB for others. An H100 needs about 15 KB in flight on each multiprocessor to read at 2.0 TB/s (1 us a trip), an H200
# about 22 KB.
REGISTERS = {False: 72, True: 96}


def launch_for(architecture: str, element_size: int) -> Launch:
    """The settings of stage 1 for weights of `element_size` bytes.

    Example:
        >>> launch_for("sm_90", 4)
        Launch(block=1024, num_warps=4)
    """
    return TABLE.get(architecture, TABLE[_vendor(architecture)])[element_size]


def stage_1_options(architecture: str, element_size: int, with_ratio: bool) -> dict[str, int | bool]:
    """What Triton is told of stage 1 beside the kernel's own arguments.

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
    """The settings of stage 2 where the layer with the most chunks has `most_chunks`.

    Example:
        >>> stage_2_launch("sm_90", 144), stage_2_launch("sm_90", 61_036)
        (Launch(block=256, num_warps=4), Launch(block=2048, num_warps=32))
    """
    return FEW if most_chunks <= MANY_CHUNKS else MANY[_vendor(architecture)]


def _vendor(architecture: str) -> str:
    return "gfx" if architecture.startswith("gfx") else "sm"
