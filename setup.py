"""Builds the optional native extension; everything else about the package is in pyproject.toml.

WEIGHTSCALE_FAST_NO_EXT=1 leaves the extension out. Without a C++ compiler it is left out too, and the package works
with its `torch` backend (`weightscale info` says so); a compiler that is there and fails is an error.

The CUDA pass is built in where nvcc and a torch with CUDA are. WEIGHTSCALE_FAST_CUDA=0 leaves it out, =1 demands it.
TORCH_CUDA_ARCH_LIST chooses the architectures.
"""

import os
import re
import shutil
import subprocess
import sys

from setuptools import setup

ARCHITECTURES = "8.0;9.0;10.0;12.0+PTX"  # nvcc 12.8 and later know them all


def native_extension() -> dict:
    """The setup() arguments that build weightscale_fast/_C, or none."""
    demanded = os.environ.get("WEIGHTSCALE_FAST_CUDA")
    if demanded not in (None, "0", "1"):
        sys.exit(f"WEIGHTSCALE_FAST_CUDA must be 0 or 1, got {demanded!r}")
    compiler = os.environ.get("CXX", "c++").split()[0]
    missing = None
    if os.environ.get("WEIGHTSCALE_FAST_NO_EXT") == "1":
        missing = "WEIGHTSCALE_FAST_NO_EXT=1 leaves the extension out"
    elif sys.platform == "win32" or not shutil.which(compiler):
        missing = f"there is no C++ compiler {compiler!r} that the extension can be built with"
    if missing:
        if demanded == "1":
            sys.exit(f"WEIGHTSCALE_FAST_CUDA=1 demands the CUDA pass, but {missing}")
        return {}

    toolkit, reason = (None, "") if demanded == "0" else find_cuda()
    if demanded == "1" and toolkit is None:
        sys.exit(f"WEIGHTSCALE_FAST_CUDA=1 demands the CUDA pass, but {reason}")
    if toolkit is not None:
        os.environ["CUDA_HOME"] = toolkit
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHITECTURES)  # torch cannot guess it where no GPU is
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    sources = ["csrc/cpu/layer_sums.cpp", "csrc/cpu/optimizer_step.cpp"]
    flags = ["-O3", "-fvisibility=hidden", "-g0"]  # many a Python adds -g, which makes the binary half as large again
    arguments = {
        "depends": [
            *("csrc/plan.h", "csrc/step_table.h", "csrc/cpu/isa.h", "csrc/cpu/vectors.h"),
            *("csrc/cpu/lane_sums.h", "csrc/cpu/chunk.h", "csrc/cpu/optimizer_step.h"),
        ],
        # The stable ABI of torch 2.10: the binary serves 2.10 and every later version.
        "define_macros": [("TORCH_TARGET_VERSION", "0x020a000000000000"), ("TORCH_STABLE_ONLY", None)],
        "py_limited_api": True,
    }
    if toolkit is None:
        extension = CppExtension("weightscale_fast._C", sources, extra_compile_args=flags, **arguments)
    else:
        extension = CUDAExtension(
            "weightscale_fast._C",
            [*sources, "csrc/cuda/layer_sums.cu"],
            extra_compile_args={"cxx": flags, "nvcc": ["-O3", "-Xcompiler", "-fvisibility=hidden"]},
            **arguments,
        )
        # The runtime goes in statically, and nothing else of CUDA is needed: the file loads on a torch without CUDA.
        extension.libraries = ["c10", "torch", "torch_cpu", "cudart_static", "rt", "dl"]
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildExtension.with_options(use_ninja=False)},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }


def find_cuda() -> tuple[str | None, str]:
    """The CUDA toolkit's folder, or None and why the CUDA pass cannot be built."""
    nvcc = shutil.which("nvcc", path=os.path.join(os.environ.get("CUDA_HOME", ""), "bin")) or shutil.which("nvcc")
    if nvcc is None:
        return None, "nvcc is not on the PATH, and CUDA_HOME does not hold it"
    import torch

    if torch.version.cuda is None:
        return None, f"torch {torch.__version__} is built without CUDA"
    release = re.search(
        r"release (\d+)\.(\d+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    )
    if release is None or release[1] != torch.version.cuda.partition(".")[0]:
        found = f"{release[1]}.{release[2]}" if release else "of an unknown release"
        return None, f"nvcc is {found} and torch {torch.__version__} is built with CUDA {torch.version.cuda}"
    if os.environ.get("CUDA_HOME"):
        return os.environ["CUDA_HOME"], ""
    # nvcc may be a wrapper or a link, so its path says nothing; what it would do says where it is at home.
    dry_run = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True)
    top = re.search(r"TOP=(.*)", dry_run.stderr)
    if top is None:
        return None, f"{nvcc} --dryrun does not say where its toolkit is: {dry_run.stderr[:200]}"
    return os.path.realpath(top[1].strip()), ""


setup(**native_extension())
