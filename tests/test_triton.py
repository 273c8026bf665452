"""The Triton kernels where no GPU is: what they compile to. (What they compute: test_pass.py, interpreted.)"""

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
from weightscale_fast.rwc.triton_kernels import chunk_sums_kernel, layer_sums_kernel
from weightscale_fast.rwc.tuning import OPTIONS, STAGE_2, launch_for

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
def compile(key, kernel, signature, constants, launch):
    source = ASTSource(kernel, {**signature, **dict.fromkeys(constants, "constexpr")}, constexprs=constants)
    compiled = triton.compile(source, target=target, options={"num_warps": launch.num_warps, **OPTIONS})
    asm = compiled.asm
    usage = resources(asm["cubin"]) if "cubin" in asm else {}
    results[key] = {"text": asm.get("ptx") or asm["amdgcn"], "most_registers": launch.most_registers, **usage}

for dtype, size in dtypes.items():
    launch = launch_for(name, size)
    for update in (False, True):
        for ratio in (False, True):
            signature = {"chunks_ptr": "*i64", "prev_ptr": "*" + dtype, "partial_ptr": "*fp64", "C": "i32"}
            constants = {"SIZE": size, "BLOCK": launch.block, "UPDATE": update, "WITH_RATIO": ratio}
            compile(f"{dtype} update={update} ratio={ratio}", chunk_sums_kernel, signature, constants, launch)
for sums in (3, 4):
    signature = {"partial_ptr": "*fp64", "layer_start_ptr": "*i64", "layer_row_ptr": "*i64", "out_ptr": "*fp64"}
    signature.update({"cursor_ptr": "*i64", "C": "i32", "M": "i32", "R": "i32"})
    compile(f"stage 2 K={sums}", layer_sums_kernel, signature, {"K": sums, "BLOCK": STAGE_2.block}, STAGE_2)
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
    assert len(variants) == 4 * 2 * 2 + 2
    assert all(variant["text"] for variant in variants.values())


def test_no_spills_and_few_registers(compiled):
    name, variants = compiled
    if name.startswith("gfx"):
        for key, variant in variants.items():
            spilled = re.findall(r"\.(?:s|v)gpr_spill_count:\s*(\d+)", variant["text"])
            assert spilled, key
            assert set(spilled) == {"0"}, key
    else:
        for key, variant in variants.items():
            assert variant["STACK"] == variant["LOCAL"] == 0, key
            assert variant["REG"] <= variant["most_registers"], (key, variant["REG"])


def loads_and_stores(ptx: str) -> list[tuple[str, int]]:
    """(load or store, bytes) of every access to global memory, those of the 8-byte tables and sums left out."""
    accesses = re.findall(r"(ld|st)\.global(?:\.[\w:]+)*?(?:\.v(\d))?\.b(\d+)", ptx)
    return [(kind, int(width or 1) * int(bits) // 8) for kind, width, bits in accesses]


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
