"""Build csrc/cpu with the address and the undefined behaviour sanitizer, and run the tests of the pass with it.

    python bench/asan.py                # a few minutes; needs a C++ compiler with libasan
    python bench/asan.py -k in_flight   # arguments go to pytest

The sources and the tests are copied to a temporary folder, so the built package stays as it is. Only the tests of the
`cpu` backend run: those of no backend, and of all backends the ones for the CPU. Each report of a sanitizer ends the
tests. The exit code is 0 if all tests pass and there is no report.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from mutants import ROOT, copy_of_the_project

TESTS = tuple(
    f"tests/test_{name}.py" for name in ("layer_sums", "ring", "states", "optim", "optim_sums", "optim_edges")
)
OTHERS = re.compile(r"[\[-](torch|triton|cuda_on_cpu)\b(?!\.)")  # the names of backends in those of the tests
# A misaligned address is right on x86, and torch allows one: torch.frombuffer with an odd offset.
FLAGS = (
    "-fsanitize=address,undefined",
    "-fno-sanitize=alignment",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
)


def build(folder: Path) -> None:
    """Compile csrc/cpu of the copy as setup.py does, with the sanitizers."""
    library = Path(torch.__file__).parent
    for path in (folder / "weightscale_fast").glob("_C*.so"):
        path.unlink()
    command = ["c++", "-std=c++17", "-O1", "-g", "-shared", "-fPIC", "-fvisibility=hidden", *FLAGS]
    command += ["-DTORCH_STABLE_ONLY", "-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{library / 'include'}"]
    command += [f"-I{library / 'include/torch/csrc/api/include'}", *map(str, (folder / "csrc/cpu").glob("*.cpp"))]
    command += ["-o", str(folder / "weightscale_fast/_C.abi3.so"), f"-L{library / 'lib'}", "-ltorch_cpu", "-lc10"]
    subprocess.run(command, check=True)


def runtime(name: str) -> str:
    """The path of a library of the compiler, which must be loaded before Python's."""
    path = subprocess.run(
        ["c++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not os.path.isabs(path):
        sys.exit(f"the compiler has no {name}: install it")
    return os.path.realpath(path)


def environment(folder: Path) -> dict[str, str]:
    """Python frees little at its end, so leaks are not looked for."""
    return {
        **os.environ,
        "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libubsan.so')} {runtime('libstdc++.so.6')}",
        "ASAN_OPTIONS": f"detect_leaks=0:log_path={folder / 'report'}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={folder / 'report'}",
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "2",
    }


def tests_of_the_cpu() -> list[str]:
    """The names of the tests that run the `cpu` backend, or name none."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if "::" in line and not OTHERS.search(line)]


def main() -> None:
    """Build, test, and print the verdict."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy_of_the_project(folder)
        build(folder)
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *sys.argv[1:], *tests_of_the_cpu()]
        done = subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True)
        reports = [path.read_text() for path in sorted(folder.glob("report.*"))]
    print(done.stdout[-1500:])
    for report in reports:
        print(report[:3000])
    found = re.search(r"(\d+) passed", done.stdout)
    clean = done.returncode == 0 and not reports and found is not None
    print(f"sanitizers: {'clean' if clean else 'NOT CLEAN'}; {found[1] if found else 0} tests, {len(reports)} reports")
    if done.returncode and not found:
        print(done.stderr[-1500:])
    sys.exit(0 if clean else 1)


if __name__ == "__main__":
    main()
