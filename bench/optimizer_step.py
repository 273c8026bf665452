"""The step of an optimizer with the sums of what it changes, against torch's step alone and with a pass after it.

    python bench/optimizer_step.py                                   # AdamW and SGD on four sets of weights
    python bench/optimizer_step.py --cases resnet50 --turns 40 --threads 1

Every way steps the same weights with the same state, in turns, and the table has the median of its time divided by
that of torch's fused step in the same turn. Before that, one step of each is compared with torch's fused step, and the
sums with float64.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from cases import NETWORKS, layers_of
from torch import nn

import weightscale_fast as wsf

ARGUMENTS = {"AdamW": {"lr": 1e-5}, "SGD": {"lr": 1e-5, "momentum": 0.9, "weight_decay": 1e-4}}
TOLERANCE = 1e-6  # of a sum
BASE = "torch fused"


def ways_of(model: nn.Module, name: str) -> tuple[dict[str, Callable[[], object]], list[torch.Tensor]]:
    """The ways to step, which share the weights and the state; and the state."""
    state = None

    def optimizer(place: object, **more: bool) -> torch.optim.Optimizer:
        nonlocal state
        made: torch.optim.Optimizer = getattr(place, name)(model.parameters(), **ARGUMENTS[name], **more)
        if state is None:
            state = made.state
        made.state = state
        return made

    fused, ours = optimizer(torch.optim, fused=True), optimizer(wsf.optim)
    fused.step()  # makes the state
    prev = wsf.snapshot(model, layers="all")

    def with_a_pass() -> None:
        fused.step()
        wsf.fast_rwc(model, prev)

    def with_sums(**more: bool) -> torch.Tensor:
        ours.request_sums(**more)
        ours.step()
        return ours.step_sums[0].sums

    ways = {
        "torch for-loop": optimizer(torch.optim, foreach=False).step,
        "torch foreach": optimizer(torch.optim, foreach=True).step,
        BASE: fused.step,
        "torch fused, then fast_rwc": with_a_pass,
        "ours without sums": ours.step,
        "ours with sums": with_sums,
        "ours with those of L2": lambda: with_sums(l2=True),
    }
    return ways, [value for of_one in fused.state.values() for value in of_one.values()]


def check(model: nn.Module, ways: dict[str, Callable[[], object]], states: list[torch.Tensor]) -> float:
    """Make one step in each way from the same weights and states. Returns the largest error of a sum."""
    parameters = [p.data for p in model.parameters()]
    start = [t.clone() for t in (*parameters, *states)]

    def after(step: Callable[[], object]) -> tuple[list[torch.Tensor], object]:
        for tensor, value in zip((*parameters, *states), start, strict=True):
            tensor.copy_(value)
        result = step()
        return [p.clone() for p in parameters], result

    expected, _ = after(ways[BASE])
    for name, step in ways.items():
        for got, wanted, before in zip(after(step)[0], expected, start, strict=False):
            error = (got - wanted).abs().max() / (wanted - before).abs().max()
            assert error < 0.01, f"{name} steps elsewhere: {error}"  # a change is rounded to the last bit of a weight
    worst = 0.0
    for way in ("ours with sums", "ours with those of L2"):
        stepped, sums = after(ways[way])
        for i, (w, p) in enumerate(zip(stepped, start, strict=False)):
            delta = (w.double() - p.double()).abs()
            true = torch.stack([delta.sum(), p.double().abs().sum(), (w != p).sum().double(), delta.square().sum()])
            got = sums[:4, i]
            worst = max(worst, float(((got - true[: len(got)]).abs() / true[: len(got)]).max()))
    assert worst < TOLERANCE, f"the sums are wrong by {worst}"
    return worst


def measure(case: str, name: str, turns: int) -> None:
    """Check and time the ways, and print their rows."""
    torch.manual_seed(0)
    model = layers_of(case)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    ways, states = ways_of(model, name)
    worst = check(model, ways, states)
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(turns):
        for way, step in ways.items():
            start = time.perf_counter()
            step()
            times[way].append(time.perf_counter() - start)
    for way in ways:
        ratios = sorted(mine / base for mine, base in zip(times[way], times[BASE], strict=True))
        low, high = ratios[len(ratios) // 4], ratios[-len(ratios) // 4]
        milliseconds = median(times[way]) * 1e3
        print(f"| {case} | {name} | {way} | {milliseconds:.1f} | {median(ratios):.2f} ({low:.2f}-{high:.2f}) |")
    pairs = zip(times["ours with sums"], times["ours without sums"], strict=True)
    print(f"| {case} | {name} | with sums / without | | {median(a / b for a, b in pairs):.2f} |", flush=True)
    print(f"  largest error of a sum: {worst:.1e}", flush=True)


def main() -> None:
    """Measure every case with both optimizers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=[*NETWORKS, "1,000 x 4,096"], help="names in bench/cases.py")
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, {torch.backends.cpu.get_cpu_capability()}")
    print("| weights | optimizer | way | ms | to torch's fused step, and its quartiles |")
    print("|---|---|---|---:|---:|")
    for case in options.cases:
        for name in ARGUMENTS:
            measure(case, name, options.turns)


if __name__ == "__main__":
    main()
