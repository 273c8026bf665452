"""Launch settings of the Triton kernels. They are fixed, so that the same machine always gives the same bits.

They are never tuned during training: a kernel that writes in place cannot run twice on the same weights.
`python bench/gpu_check.py --tune` tries others. "sm" is NVIDIA, with 32 threads per warp; "gfx" is AMD, with 64.
"""

from __future__ import annotations

from typing import NamedTuple

Options = dict[str, int | bool]  # arguments of a launch: constants of the kernel, and options of the compiler

# Stage 1. Each of 256 threads loads one 16-byte vector per block and stream, so a block has 4 KB of each.
BLOCK_BYTES = 4096
THREADS = 256

# The loads of the next three blocks go to shared memory: 24 KB for each of five or six programs on a multiprocessor. An
# H200 then has 0.99 of the speed of a copy. Without this pipeline, float32 weights have 0.82. With 128 threads and no
# pipeline it was 0.80, and 0.52 for bfloat16 (bench/results). AMD's pipeline is another one, and untried.
STAGES = {"sm": 4, "gfx": 1}


class Launch(NamedTuple):
    """How a program of stage 2 goes over the partial sums of a layer."""

    block: int  # partial sums that it loads at a time
    num_warps: int


# Stage 2. Most layers have few chunks, and a small program starts sooner. A layer of many chunks needs many loads in
# flight. More threads give them. A longer block does not: the compiler then alternates loads and additions.
FEW_CHUNKS, MANY_CHUNKS = 64, 1_000
FEW, SOME = Launch(64, 1), Launch(256, 4)
MANY = {"sm": Launch(2048, 32), "gfx": Launch(2048, 16)}  # 1,024 threads

# A square is rounded before it is added, so that the bits do not depend on what a compiler fuses. Triton 3.9 warns if
# the option is not set.
OPTIONS: Options = {"enable_fp_fusion": False}


def stage_1_options(architecture: str, element_size: int) -> Options:
    """The settings of stage 1 for weights of `element_size` bytes.

    Example:
        >>> stage_1_options("sm_90", 4)
        {'BLOCK': 1024, 'STAGES': 4, 'num_warps': 8, 'enable_fp_fusion': False}
        >>> stage_1_options("gfx942", 2)
        {'BLOCK': 2048, 'STAGES': 1, 'num_warps': 4, 'enable_fp_fusion': False}
    """
    vendor = _vendor(architecture)
    warps = THREADS // (64 if vendor == "gfx" else 32)
    return {"BLOCK": BLOCK_BYTES // element_size, "STAGES": STAGES[vendor], "num_warps": warps, **OPTIONS}


def stage_2_options(architecture: str, most_chunks: int) -> Options:
    """The settings of stage 2 for a group whose largest layer has `most_chunks` chunks.

    From sm_90 on, the programs of stage 2 start while stage 1 ends, and then wait for it. This hides their launch. A
    group without chunks has no stage 1.

    Example:
        >>> stage_2_options("sm_80", 144)
        {'BLOCK': 256, 'DEPENDENT': False, 'num_warps': 4, 'enable_fp_fusion': False}
        >>> stage_2_options("sm_90", 61_036)
        {'BLOCK': 2048, 'DEPENDENT': True, 'num_warps': 32, 'enable_fp_fusion': False, 'launch_pdl': True}
    """
    vendor = _vendor(architecture)
    launch = FEW if most_chunks <= FEW_CHUNKS else SOME if most_chunks <= MANY_CHUNKS else MANY[vendor]
    dependent = most_chunks > 0 and architecture.startswith("sm_") and int(architecture.removeprefix("sm_")) >= 90
    options = {"BLOCK": launch.block, "DEPENDENT": dependent, "num_warps": launch.num_warps, **OPTIONS}
    return {**options, "launch_pdl": True} if dependent else options


def _vendor(architecture: str) -> str:
    return "gfx" if architecture.startswith("gfx") else "sm"
