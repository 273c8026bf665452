"""The Triton kernels where no GPU is: what they compile to. (What they compute: test_layer_sums.py, interpreted.)"""

import json
import os
import re
import subprocess
import sys

import pytest

# CUDA architectures and one of AMD's.
TARGETS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "sm_120": ("cuda", 120, 32),
}
TARGETS["gfx942"] = ("hip", "gfx942", 64)
DTYPES = {"fp32": 4, "fp64": 8, "bf16": 2, "fp16": 2}

SCRIPT = """
import json, re, subprocess, sys, tempfile
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from weightscale_fast.ops.triton_kernels import chunk_sums_kernel, layer_sums_kernel
from weightscale_fast.ops.tuning import FEW_CHUNKS, MANY_CHUNKS, stage_1_options, stage_2_options

def resources(cubin):
    from pathlib import Path
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\\d+)", text)}

name, target, dtypes = json.loads(sys.argv[1])
target = GPUTarget(*target)
results = {}
def compile(key, kernel, signature, constants, options):
    constants = {**constants, **{name: value for name, value in options.items() if name.isupper()}}
    options = {name: value for name, value in options.items() if name not in constants}
    source = ASTSource(kernel, {**signature, **dict.fromkeys(constants, "constexpr")}, constexprs=constants)
    compiled = triton.compile(source, target=target, options=options)
    asm = compiled.asm
    usage = resources(asm["cubin"]) if "cubin" in asm else {}
    results[key] = {
        "text": asm.get("ptx") or asm["amdgcn"], "threads": 32 * options["num_warps"],
        "shared": compiled.metadata.shared, **usage,
    }

for dtype, size in dtypes.items():
    for update in (False, True):
        for sums in (3, 4, 6, 7):
            signature = {"chunks_ptr": "*i64", "prev_ptr": "*" + dtype, "partial_ptr": "*fp64", "C": "i32"}
            constants = {"SIZE": size, "UPDATE": update, "WITH_RATIO": sums in (4, 7), "WITH_L2": sums in (6, 7)}
            options = stage_1_options(name, size)
            compile(f"{dtype} update={update} K={sums}", chunk_sums_kernel, signature, constants, options)
for chunks in (FEW_CHUNKS, MANY_CHUNKS, MANY_CHUNKS + 1):
    for sums in (3, 4, 6, 7):
        signature = {"partial_ptr": "*fp64", "chunks_ptr": "*i64", "layer_start_ptr": "*i64", "layer_row_ptr": "*i64"}
        signature.update({"out_ptr": "*fp64", "rwc_ptr": "*fp32", "cursor_ptr": "*i64", **dict.fromkeys("CLR", "i32")})
        key = f"stage 2 K={sums} chunks={chunks}"
        compile(key, layer_sums_kernel, signature, {"K": sums}, stage_2_options(name, chunks))
print(json.dumps(results))
"""


@pytest.fixture(scope="module", params=TARGETS)
def compiled(request):
    """Every shipped variant for one architecture: its name -> assembly and resources."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    argument = json.dumps([request.param, TARGETS[request.param], DTYPES])
    done = subprocess.run([sys.executable, "-c", SCRIPT, argument], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return request.param, json.loads(done.stdout)


def test_every_variant_compiles(compiled):
    _, variants = compiled
    assert len(variants) == 4 * 2 * 4 + 3 * 4
    assert all(variant["text"] for variant in variants.values())


# Of a multiprocessor: threads, KB of shared memory, and KB of loads in flight that its share of the memory's speed
# needs. 120 KB were enough on an H200 (tuning.py), which has 32 GB/s for each; an A100 has 19, a GeForce 5090 has 11.
# A B200 has 54, so it may need more than this. Nobody has tried.
MULTIPROCESSORS = {
    "sm_80": (2048, 164, 72),
    "sm_90": (2048, 228, 120),
    "sm_100": (2048, 228, 120),
    "sm_120": (1536, 100, 40),
}


# KB of loads in flight that a pass with more sums than the three of L1 has at least: the divisions of ratio_sum and the
# float64 squares take registers, and so cost programs.
WITH_MORE_SUMS = {"K=4": 72, "K=6": 96, "K=7": 72}


def test_no_spills_and_enough_in_flight_on_a_multiprocessor(compiled):
    name, variants = compiled
    for key, variant in variants.items():
        if name.startswith("gfx"):
            spilled = re.findall(r"\.(?:s|v)gpr_spill_count:\s*(\d+)", variant["text"])
            assert spilled, key
            assert set(spilled) == {"0"}, key
            continue
        assert variant["STACK"] == variant["LOCAL"] == 0, key
        threads, shared, needed = MULTIPROCESSORS[name]
        registers = -(-variant["REG"] // 8) * 8  # as they are given out
        programs = min(65_536 // (registers * variant["threads"]), threads // variant["threads"])
        if key.startswith("stage 2"):
            assert programs >= 1, (key, variant["REG"])  # 1,024 threads start only if they fit
        else:
            programs = min(programs, shared * 1024 // (variant["shared"] + 1024))
            in_flight = programs * variant["shared"] / 1024
            assert in_flight >= min(needed, WITH_MORE_SUMS.get(key[-3:], needed)), (key, variant)


def loads_and_stores(ptx: str) -> list[tuple[str, int]]:
    """(load or store, bytes) of every access to global memory. Loads to shared memory are loads."""
    accesses = re.findall(r"(ld|st)\.global(?:\.[\w:]+)*?(?:\.v(\d))?\.b(\d+)", ptx)
    found = [(kind, int(width or 1) * int(bits) // 8) for kind, width, bits in accesses]
    to_shared = re.findall(r"cp\.async\.\w+\.shared\.global [^;]*\], 0x([0-9a-f]+)", ptx)
    return found + [("ld", int(size, 16)) for size in to_shared]


def test_the_body_moves_16_bytes_at_a_time(compiled):
    name, variants = compiled
    for key, variant in variants.items():
        if key.startswith("stage 2"):
            continue
        if name.startswith("gfx"):
            assert re.search(r"(global|buffer)_load_dwordx4", variant["text"]), key
            assert "update=False" in key or re.search(r"(global|buffer)_store_dwordx4", variant["text"]), key
            continue
        accesses = loads_and_stores(variant["text"])
        wide = [kind for kind, size in accesses if size == 16]
        assert wide.count("ld") >= 2, key
        assert ("st" in wide) == ("update=True" in key), key
