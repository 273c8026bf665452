"""The CUDA pass where no GPU is: that it is built, loads, and is made of the instructions it should be made of."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import weightscale_fast as wsf
from weightscale_fast.ops import cuda
from weightscale_fast.ops.extension import load_error

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def binary():
    """The extension that is installed, built with CUDA."""
    if shutil.which("nvcc") is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have nvcc")
        pytest.skip("nvcc is not on the PATH, so the extension has no CUDA pass")
    assert load_error() is None
    return next(Path(wsf.__file__).parent.glob("_C*.so"))


def cuobjdump(*arguments):
    """What is in the binary's GPU code; the tool comes with Triton."""
    triton = pytest.importorskip("triton")
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


def test_the_op_is_registered_for_cuda(binary):
    assert cuda.built()


def test_no_cuda_library_is_needed_to_load_it(binary):
    needed = subprocess.run(["readelf", "-d", binary], capture_output=True, text=True, check=True).stdout
    assert "libtorch_cpu.so" in needed
    assert not re.search(r"NEEDED.*(cuda|c10_cuda|torch_python)", needed)


def test_architectures(binary):
    if "TORCH_CUDA_ARCH_LIST" in os.environ:
        pytest.skip("TORCH_CUDA_ARCH_LIST chose other architectures")
    assert set(re.findall(r"sm_\d+(?=\.cubin)", cuobjdump("-lelf", binary))) == {"sm_80", "sm_90", "sm_100", "sm_120"}
    assert re.findall(r"sm_\d+(?=\.ptx)", cuobjdump("-lptx", binary)) == ["sm_120"]


def test_no_local_memory(binary):
    usage = cuobjdump("-res-usage", binary)
    stacks, locals_ = (re.findall(rf"{what}:(\d+)", usage) for what in ("STACK", "LOCAL"))
    assert len(stacks) >= 35  # 4 dtypes x update x ratio x L2, and stage 2 for few chunks, some and many
    assert set(stacks) == set(locals_) == {"0"}


def test_the_body_moves_16_bytes_at_a_time(binary):
    for function in cuobjdump("-sass", binary).split("Function : ")[1:]:
        name = function.partition("\n")[0]
        if "chunk_sums_kernel" in name:
            update = re.search(r"Lb([01])ELb[01]ELb[01]E", name)[1] == "1"
            loads, stores = (re.findall(rf"{kind}\.E(?:\.EF)?\.128", function) for kind in ("LDG", "STG"))
            assert len(loads) >= 8, name  # 4 of each stream are in flight
            assert bool(stores) == update, name


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WEIGHTSCALE_FAST_CUDA": "1"}, "demands the CUDA pass, but nvcc is not on the PATH"),
        (
            {"WEIGHTSCALE_FAST_CUDA": "1", "WEIGHTSCALE_FAST_NO_EXT": "1"},
            "demands the CUDA pass, but WEIGHTSCALE_FAST_NO",
        ),
        ({"WEIGHTSCALE_FAST_CUDA": "yes"}, "WEIGHTSCALE_FAST_CUDA must be 0 or 1, got 'yes'"),
    ],
)
def test_a_build_that_cannot_do_what_is_demanded_says_why(tmp_path, environment, message):
    for tool in ("c++", "sh"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    command = [sys.executable, "setup.py", "--version"]
    env = {"PATH": str(tmp_path), "HOME": str(tmp_path), **environment}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode != 0
    assert message in done.stderr


def test_cuda_can_be_left_out():
    script = """
import setuptools
setuptools.setup = lambda **arguments: print([source for e in arguments["ext_modules"] for source in e.sources])
import runpy
runpy.run_path("setup.py")
"""
    env = {**os.environ, "WEIGHTSCALE_FAST_CUDA": "0"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['csrc/cpu/layer_sums.cpp', 'csrc/cpu/optimizer_step.cpp']"


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU: test_gpu.py runs the pass")
def test_without_a_gpu_the_pass_is_refused_with_the_reason():
    assert "these are on cpu" in cuda.refusal(torch.device("cpu"))
