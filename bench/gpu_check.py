"""make gpu-check: everything of this project that needs a GPU, in one run of at most nine minutes, offline.

It builds the extension for the GPU of this machine and runs the tests marked `gpu`. None of these may be skipped. It
measures the pass, its rivals and the host's time, runs compute-sanitizer if it is installed, and measures torch.compile
last. All of this happens in a copy of the tree, so that no binary for one GPU stays in the tree itself.

Each of these is a part. If a part fails, that is reported and the others go on. What a part prints goes to OUT/logs at
once, and the results go to OUT/<gpu>-torch<version>.json after each part. The run ends with a table.

`--tune` tries the launch settings of the Triton kernels instead. `--dry-run` measures tiny weights on the CPU, to show
that this file itself works.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    import torch
except ModuleNotFoundError:
    sys.exit("gpu-check needs a python with torch: make gpu-check PYTHON=...")

from gpu_parts import Part, run_parts
from gpu_tables import print_found

ROOT = Path(__file__).parents[1]
SOURCES = ("bench", "csrc", "tests", "weightscale_fast", "setup.py", "pyproject.toml", "README.md", "LICENSE")
CUDA = "/usr/local/cuda/bin"  # where nvcc and compute-sanitizer are if they are not on the PATH

RIVALS = ("copy", "foreach", "foreach in place", "naive")
CASES = {  # the dtype and the rivals of each case
    "resnet50": ("float32", RIVALS),
    "1,000 x 4,096": ("float32", RIVALS),
    "vit_base_patch16_224": ("float32", RIVALS),
    "transformer 1.1 B": ("bfloat16", RIVALS),
    "1 x 1 G": ("float32", RIVALS),
    "1 x above 2^31": ("bfloat16", ("copy",)),
    "efficientnet_b4": ("float32", RIVALS),
}
COMPILED = ("resnet50", "vit_base_patch16_224", "1 x 1 G")
TESTS = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "-m", "gpu", "tests/test_gpu.py")
TRIALS = ("dependent", "bfloat16", "float32", "stage 2", "chunk", "float64")


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def summary(text: str) -> str:
    """The last line of pytest.

    Raises:
        ValueError: a test was skipped, or none passed.
    """
    line = last_line(text)
    if "skipped" in line or "passed" not in line:
        raise ValueError(f"every test marked gpu must run here and pass: {line.strip('= ')}")
    return line.strip("= ")


def build_part(capability: tuple[int, int]) -> Part:
    """Build the extension for this GPU alone. If the build fails, a binary that is already in the tree stays in use."""
    environment = {"TORCH_CUDA_ARCH_LIST": "{}.{}".format(*capability), "WEIGHTSCALE_FAST_CUDA": "1"}
    return Part("build", (sys.executable, "setup.py", "build_ext", "--inplace", "--force"), 150, environment, last_line)


def sanitizer_parts(tool: str) -> list[Part]:
    """Run compute-sanitizer on one small test of our kernels, and on no other kernel.

    torch's caching allocator is off, because inside its large blocks no access would be out of bounds. memcheck's list
    of failed CUDA calls is off too, because programs make such calls just to ask what the driver can do.
    """
    environment = {"WEIGHTSCALE_FAST_REQUIRE_GPU": "1", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    options = ("--error-exitcode", "9", "--target-processes", "application-only", "--kernel-name", "kns=_sums_kernel")
    checks = {"memcheck": ("--report-api-errors", "no"), "racecheck": ()}
    return [
        Part(check, (tool, "--tool", check, *options, *more, *TESTS, "-k", "layouts"), 120, environment, last_line)
        for check, more in checks.items()
    ]


def measure_part(name: str, seconds: float, *arguments: str) -> Part:
    """A part that gpu_cases.py measures."""
    return Part(name, (sys.executable, "bench/gpu_cases.py", *arguments), seconds)


def loop_part(model: str) -> Part:
    """The share of recording in training steps of timm's `model`, in bfloat16 autocast."""
    arguments = ("--device", "cuda", "--model", model, "--batch", "64", "--size", "224", "--turns", "12")
    return Part(f"loop {model}", (sys.executable, "bench/in_loop.py", *arguments), 60, read=last_line)


def check_parts(capability: tuple[int, int]) -> list[Part]:
    """All parts that need a GPU, the least important ones last."""
    tool = shutil.which("compute-sanitizer")
    return [
        build_part(capability),
        Part("tests", TESTS, 200, {"WEIGHTSCALE_FAST_REQUIRE_GPU": "1"}, summary),
        measure_part("2 GB copy", 60, "copy", "cuda"),
        measure_part("host", 60, "host", "cuda"),
        *(
            measure_part(case, 90, "case", case, dtype, "cuda", "triton", "cuda", *rivals)
            for case, (dtype, rivals) in CASES.items()
        ),
        loop_part("resnet50"),
        loop_part("vit_base_patch16_224"),
        *(sanitizer_parts(tool) if tool else ()),
        *(
            measure_part(f"{case} compiled", 120, "case", case, CASES[case][0], "cuda", "torch.compile")
            for case in COMPILED
        ),
    ]


def dry_parts() -> list[Part]:
    """Only the measurements, with tiny weights on the CPU."""
    return [
        measure_part("2 GB copy", 120, "copy", "cpu"),
        measure_part("host", 120, "host", "cpu"),
        measure_part("tiny", 120, "case", "tiny", "float32", "cpu", "torch", *RIVALS),
        measure_part("tiny bfloat16", 120, "case", "tiny", "bfloat16", "cpu", "torch", "copy"),
        measure_part("tiny compiled", 200, "case", "tiny", "float32", "cpu", "torch.compile"),
    ]


def tune_parts(device: str) -> list[Part]:
    """The trials of launch settings of the Triton kernels, most promising first."""
    environment = {"TRITON_INTERPRET": "1"} if device == "cpu" else {}
    return [
        Part(f"tune {trial}", (sys.executable, "bench/tune.py", trial, device), 150, environment) for trial in TRIALS
    ]


def check(
    parts: Sequence[Part], machine: dict[str, str], *, folder: Path, out: Path, seconds: float, file: str
) -> None:
    """Run the parts in `folder`, a copy of the project, and exit with an error if one failed.

    `machine` and the results go to `file` in `out`.
    """
    print(machine, flush=True)
    out.mkdir(parents=True, exist_ok=True)

    def save(outcomes: dict[str, Any]) -> None:
        new = out / f"{file}.part"
        new.write_text(json.dumps({**machine, "parts": outcomes}, indent=1))
        new.replace(out / file)

    outcomes = run_parts(parts, folder=folder, logs=out / "logs", seconds=seconds, save=save)
    print_found(outcomes)
    failed = {name: outcome["failed"] for name, outcome in outcomes.items() if "failed" in outcome}
    if failed:
        sys.exit("gpu-check: not all went well:\n" + "\n".join(f"    {name}: {why}" for name, why in failed.items()))


def free_name(out: Path, name: str) -> str:
    """`name`.json, or with a number at its end if an earlier run has left its results under that name."""
    numbers = itertools.chain([""], (f"-{i}" for i in itertools.count(2)))
    return next(f"{name}{number}.json" for number in numbers if not (out / f"{name}{number}.json").exists())


def copy_tree(folder: Path) -> None:
    """Copy what the parts need of this tree. They build in the copy, so no binary for one GPU stays in this tree."""
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        else:
            shutil.copy(source, folder / name)


def main() -> None:
    """Run the check, or the trials of launch settings, or a dry run of either."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for results and logs (bench/results; a dry run keeps none)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=540.0,
        help="limit of the whole run (540): then the running part is stopped and the rest is not begun",
    )
    parser.add_argument("--tune", action="store_true", help="try the launch settings of the Triton kernels instead")
    parser.add_argument("--dry-run", action="store_true", help="measure tiny weights on the CPU instead")
    options = parser.parse_args()
    if not options.seconds > 0:
        parser.error(f"--seconds must be above 0, got {options.seconds:g}")
    if options.out is not None:
        try:
            options.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--out must be a folder, or a path where one can be made: {error}")
    machine = {"python": platform.python_version(), "torch": torch.__version__, "cuda": str(torch.version.cuda)}
    for stop in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):  # sys.exit also ends the running part
        signal.signal(stop, lambda number, _: sys.exit(f"gpu-check: stopped by {signal.Signals(number).name}"))
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / "tree", options.out
        if options.dry_run:
            parts, gpu = tune_parts("cpu") if options.tune else dry_parts(), "dry-run"
            out = out or Path(scratch) / "out"
        elif torch.cuda.is_available():
            os.environ["PATH"] += os.pathsep + CUDA
            parts = tune_parts("cuda") if options.tune else check_parts(torch.cuda.get_device_capability())
            gpu, out = torch.cuda.get_device_name(), out or ROOT / "bench" / "results"
            machine["compute-sanitizer"] = shutil.which("compute-sanitizer") or "not here"
        else:
            sys.exit(
                f"gpu-check needs a GPU, and torch {torch.__version__} (CUDA {torch.version.cuda}) finds none, so "
                "nothing was run. Use PYTHON=... for another python, or --dry-run."
            )
        folder.mkdir()
        copy_tree(folder)
        name = f"{gpu.replace(' ', '-').lower()}-torch{torch.__version__.partition('+')[0]}{'-tune' * options.tune}"
        file = free_name(out, name)
        try:
            check(parts, {"gpu": gpu, **machine}, folder=folder, out=out.resolve(), seconds=options.seconds, file=file)
        finally:
            if (out / file).exists() and not out.is_relative_to(scratch):
                print(f"results: {out / file}")


if __name__ == "__main__":
    main()
