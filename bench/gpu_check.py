"""make gpu-check: everything of this project that needs a GPU, in one run of some minutes, offline.

Builds the extension for the GPU at hand, runs the tests marked `gpu` (each must run), compute-sanitizer where it is,
the benchmarks against their rivals, and the host's time; ends in bench/results/<gpu>-torch<version>.json and a table.
`--dry-run` goes through the measurements with tiny weights on the CPU, to see that this file itself works.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    import torch
    from torch import nn
except ModuleNotFoundError:
    sys.exit("gpu-check needs a python with torch: make gpu-check PYTHON=...")

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import rivals  # noqa: E402
from cases import SHAPES, layers_of  # noqa: E402

import weightscale_fast as wsf  # noqa: E402
from weightscale_fast.rwc.op import load_backend  # noqa: E402

BF16, FP32 = torch.bfloat16, torch.float32
LARGE = ("copy", "foreach", "foreach in place", "naive", "naive graph", "torch.compile")
CASES: list[tuple[str, torch.dtype, tuple[str, ...]]] = [  # weights, dtype, rivals
    ("resnet50", FP32, LARGE),
    ("efficientnet_b4", FP32, LARGE[:-1]),
    ("vit_base_patch16_224", FP32, LARGE),
    ("transformer 1.1 B", BF16, LARGE[:-1]),
    ("1 x 1 G", FP32, LARGE),
    ("1,000 x 4,096", FP32, LARGE[:-1]),
    ("1 x above 2^31", BF16, ("copy",)),
]
WAYS = {**rivals.RIVALS, "foreach in place": rivals.foreach_in_place, "naive graph": rivals.naive_graph}


def run(command: list[str], **environment: str) -> str:
    """Run a part in a process of its own; what it printed. Ends everything if it fails."""
    print("$", " ".join(command), flush=True)
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"gpu-check: this failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def build() -> str:
    """The extension, for this GPU only."""
    if shutil.which("nvcc") is None:
        return "no nvcc: the cuda backend is left out"
    major, minor = torch.cuda.get_device_capability()
    run([sys.executable, "setup.py", "build_ext", "--inplace", "--force"], TORCH_CUDA_ARCH_LIST=f"{major}.{minor}")
    return f"built for sm_{major}{minor}"


def tests() -> str:
    """The tests marked gpu; one that does not run fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu and not cuml", "tests", "-p", "no:cacheprovider"]
    summary = run(command, WEIGHTSCALE_FAST_REQUIRE_GPU="1").strip().splitlines()[-1]
    if "skipped" in summary:
        sys.exit(f"gpu-check: every test marked gpu must run here, but: {summary}")
    return summary


def sanitize() -> dict[str, str]:
    """compute-sanitizer's verdict on one small test of both kernels."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"compute-sanitizer": "not here"}
    test = [sys.executable, "-m", "pytest", "-q", "tests/test_gpu.py", "-k", "layouts", "-p", "no:cacheprovider"]
    return {
        check: run([tool, "--tool", check, "--error-exitcode", "9", *test]).strip().splitlines()[-1]
        for check in ("memcheck", "racecheck")
    }


def milliseconds(step: Callable[[], Any], device: str) -> float:
    """Median time of a step: on a GPU by its own events, with a cold L2 cache."""
    if device == "cuda":
        from triton.testing import do_bench

        return float(do_bench(step, warmup=20, rep=200, return_mode="median"))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return sorted(times)[2] * 1e3


def measure(case: str, dtype: torch.dtype, names: tuple[str, ...], device: str) -> list[dict[str, Any]]:
    """Every backend and rival on one case, each verified before it is timed."""
    ours = [name for name in ("triton", "cuda") if load_backend(name).refusal(torch.device(device)) is None]
    rows = []
    for name in [*(ours or ["torch"]), *names]:
        torch.manual_seed(0)
        model = layers_of(case, dtype=dtype, device=device)
        weights = sum(p.numel() for p in model.parameters())
        step, prev = WAYS[name](model) if name in WAYS else rivals.fast_rwc(model, name)
        error = rivals.worst_error(model, step, prev)
        ms = milliseconds(step, device)
        bytes_needed = 3 * weights * prev[0].element_size()
        row = {"case": case, "dtype": str(dtype).removeprefix("torch."), "way": name, "weights": weights}
        rows.append({**row, "ms": ms, "gb_per_s": bytes_needed / ms / 1e6, "error": error})
        del model, step, prev
        torch._dynamo.reset()
        if device == "cuda":
            torch.cuda.empty_cache()
    return rows


def host_microseconds(device: str) -> dict[str, float]:
    """What the host does for a step of 1,000 layers while the device has next to nothing to do."""
    model = nn.Module()
    for i in range(1_000):
        model.register_parameter(f"w{i}", nn.Parameter(torch.randn(4, 4, device=device)))
    prev, monitor = wsf.snapshot(model), wsf.RWCMonitor(model)
    result = {}
    for name, call in (("fast_rwc", lambda: wsf.fast_rwc(model, prev)), ("record", monitor.record)):
        for _ in range(20):
            call()
        times = []
        for _ in range(10):
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(20):
                call()
            times.append((time.perf_counter() - start) / 20 * 1e6)
        result[name] = sorted(times)[5]
    return result


def copy_bandwidth() -> float:
    """GB/s that the device reads and writes in a copy of 2 GB: the ceiling."""
    flat = torch.randn(500_000_000, device="cuda")
    other = torch.empty_like(flat)
    return 2 * flat.nbytes / milliseconds(lambda: other.copy_(flat), "cuda") / 1e6


def print_table(rows: list[dict[str, Any]], copy_gb_per_s: float) -> None:
    """Every way of every case; the share compares the bytes the work needs, over time, with those of a copy."""
    best = {case: min(r["ms"] for r in rows if r["case"] == case and r["way"] in ("triton", "cuda", "torch"))
            for case in {r["case"] for r in rows}}  # fmt: skip
    for row in rows:
        print(
            f"{row['case']:<22}{row['dtype']:<10}{row['way']:<18}{row['ms']:10.4f} ms {row['gb_per_s']:8.0f} GB/s"
            f"{row['gb_per_s'] / copy_gb_per_s:7.2f} of the copy {row['ms'] / best[row['case']]:8.2f} x ours"
            f"   error {row['error']:.0e}"
        )


def main() -> None:
    """All of it, or the dry run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="measure tiny weights on the CPU, write nothing")
    dry_run = parser.parse_args().dry_run
    if dry_run:
        SHAPES["tiny"] = [[8, 8], [3, 5]]
        rows = measure("tiny", FP32, ("copy", "foreach", "foreach in place", "naive"), "cpu")
        print_table(rows, copy_gb_per_s=1.0)
        print(f"host, us a step of 1,000 layers: {host_microseconds('cpu')}")
        return
    if not torch.cuda.is_available():
        sys.exit(
            f"gpu-check needs a GPU, and torch {torch.__version__} (CUDA {torch.version.cuda}) finds none: "
            "nothing was run. Use PYTHON=... for another python, or --dry-run."
        )
    gpu = torch.cuda.get_device_name().replace(" ", "-").lower()
    result: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "build": build()}
    result["tests"] = tests()
    result["sanitizer"] = sanitize()
    result["copy_gb_per_s"] = copy_bandwidth()
    result["host_us"] = host_microseconds("cuda")
    result["rows"] = []
    path = ROOT / "bench" / "results" / f"{gpu}-torch{torch.__version__.partition('+')[0]}.json"
    for case, dtype, names in CASES:
        result["rows"] += measure(case, dtype, names, "cuda")
        path.write_text(json.dumps(result, indent=1))  # what is measured is kept, whatever comes after
    print_table(result["rows"], result["copy_gb_per_s"])
    print({key: value for key, value in result.items() if key != "rows"})
    print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
