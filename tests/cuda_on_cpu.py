"""A backend for tests: the CUDA kernels of csrc/cuda, compiled for the CPU by cuda_on_cpu.cpp.

It needs CUDA's headers, and so nvcc, but no GPU. `WSF_TURNS` chooses the order in which threads run: see the C++ file.
"""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import torch

from weightscale_fast.ops import backends, cuda
from weightscale_fast.ops import register as register  # the schemas must stand before the library implements them

ROOT = Path(__file__).parents[1]
NAME = "cuda_on_cpu"
FLAGS = ("-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-Wno-attributes")
STABLE_ABI = ("-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTORCH_STABLE_ONLY")


def toolkit() -> Path | None:
    """The CUDA toolkit's folder, or None where nvcc is not on the PATH."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return None
    dry_run = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True).stderr
    return Path(next(line.partition("TOP=")[2].strip() for line in dry_run.splitlines() if "TOP=" in line))


def compile_library(folder: Path, kernels: Path = ROOT / "csrc" / "cuda" / "layer_sums.cu") -> Path:
    """Compile `kernels` for the CPU into `folder`; the library's path.

    Raises:
        subprocess.CalledProcessError: they do not compile; `stderr` says why.
    """
    torch_folder = Path(torch.__file__).parent
    include = [torch_folder / "include", torch_folder / "include/torch/csrc/api/include", toolkit() / "include"]
    library = folder / "cuda_on_cpu.so"
    command = ["c++", *FLAGS, *STABLE_ABI, *(f"-I{path}" for path in include), f'-DKERNELS="{kernels}"']
    command += [ROOT / "tests" / "cuda_on_cpu.cpp", "-o", library, f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


@functools.cache
def refusal(device: torch.device) -> str | None:
    """None, or why this backend cannot be; the first call compiles and loads it."""
    if toolkit() is None:
        return "nvcc is not on the PATH, so CUDA's headers are not here"
    library = os.environ.get("WSF_CUDA_ON_CPU")  # a library that is there already, made of other kernels
    if library is None:
        with tempfile.TemporaryDirectory() as folder:
            torch.ops.load_library(str(compile_library(Path(folder))))
    else:
        torch.ops.load_library(library)
    return None


def run(plan, group, cur, out, rwc, cursor, update):
    """As weightscale_fast.ops.cuda.run, on no stream."""
    torch.ops.weightscale_fast.layer_sums_cuda.default(*group.tables, out, rwc, cursor, update, group.most_chunks, 0)


def install() -> None:
    """Make `backend="cuda_on_cpu"` known, as if it were one of the package's modules."""
    module = ModuleType(f"{cuda.__package__}.{NAME}")
    module.refusal, module.run = refusal, run
    sys.modules[module.__name__] = module
    backends.BACKENDS[NAME] = NAME
