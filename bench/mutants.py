"""Put faults into the package on purpose, and count those that the tests see.

    python bench/mutants.py                        # every group; about 45 minutes on two cores
    python bench/mutants.py cuda_on_cpu            # a backend of the pass: cpu, triton, or cuda_on_cpu (csrc/cuda)
    python bench/mutants.py record                 # what is built on it: previous weights, record, health, analysis

Each mutant is a copy of the sources with one place changed. It is caught if a test fails, if the process crashes, or if
it hangs. For a backend the tests are those of `tests/test_layer_sums.py`. Each mutant of `record` names its tests. Some
mutants cannot be seen by a test without a GPU. The list says why, and they are not run. This prints the number caught
of all, and the names of those that survive. Then the exit code is 1.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from mutant_list import CPU, CUDA, TRITON, Mutant
from mutant_list_record import RECORD

ROOT = Path(__file__).parents[1]
SECONDS = 300  # limit for one run of the tests; without a mutant it takes 20 to 60

MUTANTS = {"cuda_on_cpu": CUDA, "triton": TRITON, "cpu": CPU, "record": RECORD}
FILES = {
    "cuda_on_cpu": ["csrc/cuda/layer_sums.cu"],
    "triton": ["weightscale_fast/ops/triton_kernels.py"],
    "cpu": ["csrc/plan.h", *(f"csrc/cpu/{name}" for name in ("layer_sums.cpp", "chunk.h", "lane_sums.h", "vectors.h"))],
}


def copy_of_the_project(folder: Path) -> None:
    """Copy what the tests need. Mutants change the copy."""
    for name in ("weightscale_fast", "csrc", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)


def put_in(mutant: Mutant, backend: str, folder: Path) -> None:
    """Change the old text in the one file that has it.

    Raises:
        ValueError: no file has the old text, or several have it: the list is older than the sources.
    """
    names = [mutant.file] if mutant.file else FILES[backend]
    texts = {folder / name: (folder / name).read_text() for name in names}
    found = [path for path, text in texts.items() if mutant.old in text]
    if len(found) != 1 or (mutant.file and texts[found[0]].count(mutant.old) != 1):
        raise ValueError(f"{backend}: {mutant.name!r} is in {len(found)} files; bring the list up to date")
    found[0].write_text(texts[found[0]].replace(mutant.old, mutant.new))


def build_cpu(folder: Path) -> bool:
    """Compile csrc/cpu of the copy, with little optimization. Returns whether it compiled."""
    torch_folder = Path(torch.__file__).parent
    for path in (folder / "weightscale_fast").glob("_C*.so"):
        path.unlink()
    command = ["c++", "-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-DTORCH_STABLE_ONLY"]
    command += ["-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{torch_folder / 'include'}"]
    command += [f"-I{torch_folder / 'include/torch/csrc/api/include'}", *(folder / "csrc/cpu").glob("*.cpp")]
    command += ["-o", folder / "weightscale_fast/_C.abi3.so", f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"]
    return subprocess.run(command, capture_output=True).returncode == 0


def tests_of(backend: str) -> list[str]:
    """The names of the backend's tests in tests/test_layer_sums.py. Tests that name no backend belong to the CPU's.

    For `record`, all tests that its mutants name.
    """
    if backend == "record":
        return sorted({test for mutant in RECORD for test in mutant.tests.split()})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/test_layer_sums.py"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    names = [line for line in lines if "::" in line]
    other = re.compile(r"[\[-](cpu|torch|triton|cuda_on_cpu)\b(?!\.)")
    mine = re.compile(rf"[\[-]{backend}( \w+)*[\]-]")
    names = [name for name in names if mine.search(name) or (backend == "cpu" and not other.search(name))]
    if backend == "triton":  # its compiler sees what its interpreter does not
        names.append("tests/test_triton.py")
    return names


def is_caught(folder: Path, backend: str, tests: list[str]) -> bool:
    """Whether a test fails, crashes or hangs on the copy."""
    if backend == "cpu" and not build_cpu(folder):
        raise ValueError("the mutant does not compile")
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return True
    if "CalledProcessError" in done.stdout and "'c++'" in done.stdout:
        raise ValueError("the mutant does not compile")
    return done.returncode != 0


def main() -> None:
    """Try every mutant of the named backends, by default of all."""
    backends = sys.argv[1:] or list(MUTANTS)
    survivors = []
    for backend in backends:
        tests, caught, all_of_them = tests_of(backend), 0, [m for m in MUTANTS[backend] if not m.equivalent]
        with tempfile.TemporaryDirectory() as name:
            copy_of_the_project(Path(name))
            if is_caught(Path(name), backend, tests):
                sys.exit(f"{backend}: the tests fail without any mutant")
        for mutant in all_of_them:
            with tempfile.TemporaryDirectory() as name:
                copy_of_the_project(Path(name))
                put_in(mutant, backend, Path(name))
                seen = is_caught(Path(name), backend, mutant.tests.split() or tests)
            caught += seen
            print(f"{backend}: {'caught' if seen else 'SURVIVES'}: {mutant.name}", flush=True)
            if not seen:
                survivors.append(f"{backend}: {mutant.name}")
        print(
            f"{backend}: {caught} caught / {len(all_of_them)} ({len(MUTANTS[backend]) - len(all_of_them)} equivalent)"
        )
    if survivors:
        sys.exit("survivors: " + "; ".join(survivors))


if __name__ == "__main__":
    main()
