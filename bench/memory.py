"""What each way of recording adds to the memory of a training: between two steps, and at its peak.

    python bench/memory.py                                        # ResNet-50, batch 32 of 64 x 64, AdamW
    python bench/memory.py --case "transformer 1.1 B" --optimizer sgd     # one matrix product with each weight: 18 GB
    python bench/memory.py --case "transformer 1.1 B" --dtype bfloat16    # with AdamW: 12 GB

Each way has a process of its own. It trains STEPS steps, and a clean peak is measured in those after the second, when
all states exist. Memory is what the kernel says that the process holds. The extra is against the same training without
a record. The time of a step is the median.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

import weightscale_fast as wsf

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.cases import SHAPES, layers_of

WAYS = ("none", "last_row", "before_step", "in_step")  # the last with an optimizer that adds up the sums
STEPS = 8
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": lambda of, parameters: of.AdamW(parameters, lr=1e-3),
    "sgd": lambda of, parameters: of.SGD(parameters, lr=1e-3, momentum=0.9),
}


def kilobytes(field: str) -> int:
    """A number of /proc/self/status: VmRSS is the memory now, VmHWM its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def forget_peak() -> None:
    """VmHWM begins again at the memory of now."""
    Path("/proc/self/clear_refs").write_text("5")


def make(case: str, dtype: torch.dtype) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """The network, and its loss on a batch."""
    torch.manual_seed(0)
    if case in SHAPES and case.startswith("transformer"):
        model = layers_of(case, dtype=dtype)
        batches = [torch.randn(4, w.shape[1], dtype=dtype) for w in model.parameters()]
        return model, lambda m: sum(
            (torch.nn.functional.linear(x, w).square().mean() for x, w in zip(batches, m.parameters(), strict=True)),
            torch.zeros(()),
        )
    import timm

    model, batch = timm.create_model(case, num_classes=10).to(dtype), torch.randn(32, 3, 64, 64, dtype=dtype)
    return model, lambda m: m(batch).square().mean()


def train(way: str, case: str, dtype: torch.dtype, optimizer_name: str) -> dict[str, float]:
    """The figures of one way, in this process."""
    model, loss_of = make(case, dtype)
    in_step = way == "in_step"
    optimizer = OPTIMIZERS[optimizer_name](wsf.optim if in_step else torch.optim, model.parameters())
    monitor = None if way == "none" else wsf.RWCMonitor(model, optimizer, baseline=None if in_step else way)
    between, seconds = [], []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model).backward()
        if step == 2:
            forget_peak()
        start = time.perf_counter()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
        optimizer.zero_grad()
        between.append(kilobytes("VmRSS"))
    if monitor is not None:
        history = monitor.history()
        assert len(history) == STEPS
        assert (history.delta_l1 > 0).all()
    weights = sum(p.nbytes for p in model.parameters()) / 1e6
    return {
        "weights": weights,
        "between": median(between[2:]) / 1e3,
        "peak": kilobytes("VmHWM") / 1e3,
        "step": median(seconds[2:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="resnet50", help="a network of timm, or 'transformer 1.1 B'")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--optimizer", default="adamw", choices=tuple(OPTIMIZERS))
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # for the processes that this one starts
    options = parser.parse_args()
    if options.way:
        print(json.dumps(train(options.way, options.case, getattr(torch, options.dtype), options.optimizer)))
        return
    found: dict[str, dict[str, float]] = {}
    for way in WAYS:
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[way] = json.loads(done.stdout.splitlines()[-1])
    plain = found["none"]
    print(f"{options.case}, {options.dtype}, {options.optimizer}: {plain['weights']:,.0f} MB of weights, {STEPS} steps")
    print(f"{'way':<12} {'between MB':>11} {'extra':>8} {'peak MB':>9} {'extra':>8} {'step() ms':>10}")
    for way, figures in found.items():
        print(
            f"{way:<12} {figures['between']:11,.0f} {figures['between'] - plain['between']:8,.0f} "
            f"{figures['peak']:9,.0f} {figures['peak'] - plain['peak']:8,.0f} {1e3 * figures['step']:10.1f}"
        )


if __name__ == "__main__":
    main()
