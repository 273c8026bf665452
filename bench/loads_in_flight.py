"""How many loads stage 2 has in flight, read from the machine code. This decides its time if a layer has many chunks.

    python bench/loads_in_flight.py     # Triton's stage 2 for sm_90, and that of csrc/cuda if it is built in

A thread's load is in flight from its issue until an instruction needs its value. For every loop with loads of 8 bytes
this prints how many are in flight at most, and how many at each wait. More loads in flight mean fewer round trips to
memory. No GPU is needed. If PYTHONPATH is another checkout, its kernels are read.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import weightscale_fast
from weightscale_fast.ops import triton_kernels
from weightscale_fast.ops.tuning import stage_2_options

CHUNKS = (144, 61_036)  # of the largest layer: some, and many
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TYPES = {"partial": "*fp64", "out": "*fp64", "rwc": "*fp32"}  # types of pointers; all others are *i64


def triton_sass(chunks: int) -> str:
    """Stage 2 for three sums, compiled for sm_90 and disassembled."""
    kernel = triton_kernels.layer_sums_kernel
    settings = stage_2_options("sm_90", chunks)
    constants = {"K": 3, "BLOCK": settings.pop("BLOCK"), "DEPENDENT": settings.pop("DEPENDENT")}
    signature = {
        name: "constexpr"
        if name in constants
        else TYPES.get(name.removesuffix("_ptr"), "*i64")
        if name.endswith("_ptr")
        else "i32"
        for name in kernel.arg_names
    }
    compiled = triton.compile(ASTSource(kernel, signature, constexprs=constants), GPUTarget("cuda", 90, 32), settings)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        return subprocess.run([TOOLS / "cuobjdump", "-sass", file.name], capture_output=True, text=True).stdout


def cuda_sass() -> dict[str, str]:
    """Stage 2 of the built extension for sm_90, by the name of the function. Empty if it has no CUDA."""
    found = next(Path(weightscale_fast.__file__).parent.glob("_C*.so"), None)
    if found is None:
        return {}
    command = [TOOLS / "cuobjdump", "-sass", "-arch", "sm_90", found]
    text = subprocess.run(command, capture_output=True, text=True).stdout
    functions = (part.partition("\n") for part in text.split("Function : ")[1:])
    return {name: body for name, _, body in functions if "layer_sums_kernel" in name}


def waits(sass: str) -> list[list[int]]:
    """For each loop with 8-byte loads, how many are in flight each time that an instruction needs one of them."""
    code = [(int(at, 16), text) for at, text in re.findall(r"/\*([0-9a-f]{4,})\*/\s+([^;]+);", sass)]
    loops = []
    for at, text in code:
        jump = re.search(r"BRA.* 0x([0-9a-f]+)", text)
        if jump and int(jump[1], 16) < at:
            loops.append([line for place, line in code if int(jump[1], 16) <= place <= at])
    inner = [body for body in loops if any("LDG" in line and ".64" in line for line in body)]
    return [counts for counts in map(_waits_of, inner) if counts]


def _waits_of(body: list[str]) -> list[int]:
    counts: list[int] = []
    flying: list[str] = []  # the registers that loads in flight will fill
    for line in body:
        load = re.search(r"LDG\.E\S*\.64\S* (R\d+),", line)
        reads = set(re.findall(r"\bR\d+\b", line.partition(",")[2]))
        if reads & set(flying):
            counts.append(len(flying))
            last = max(i for i, register in enumerate(flying) if register in reads)
            flying = flying[last + 1 :]
        if load:
            flying.append(load[1])
    return counts


def main() -> None:
    """Print the loops of every stage 2."""
    for chunks in CHUNKS:
        print_loops(f"triton, {chunks} chunks", triton_sass(chunks))
    for name, sass in cuda_sass().items():
        block = re.search(r"layer_sums_kernelILi(\d+)", name)
        print_loops(f"cuda, {block[1] if block else 'one size of'} threads", sass)


def print_loops(title: str, sass: str) -> None:
    """Print a line for each loop."""
    for counts in waits(sass):
        print(f"{title}: at most {max(counts)} in flight; at each wait {counts}")


if __name__ == "__main__":
    main()
