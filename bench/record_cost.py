"""What a row costs beside the pass: the reading of the learning rates, and the look at layers that do not move.

    python bench/record_cost.py

A monitor records layers of 4,096 weights with one thread, whose own time is taken. Four kinds of it take turns: as it
is, without the rates, without the look, and without both, as it was before them. Printed are the median microseconds of
a step's row, and the differences. With a schedule the rate changes at every step. Where one layer in ten is frozen,
there is something to look at.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import nn

import weightscale_fast as wsf

STEPS = 256
ROUNDS = 15


def stack(layers: int, frozen: bool) -> nn.Module:
    """Layers of 64 x 64 weights."""
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(layers)))
    if frozen:
        for layer in list(model)[::10]:
            layer.requires_grad_(False)
    return model


class Kind:
    """A monitor of one kind, whose hooks are called as a step would."""

    def __init__(self, layers: int, *, rates: bool, look: bool, frozen: bool) -> None:
        self.model = stack(layers, frozen)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.monitor = wsf.RWCMonitor(self.model, self.optimizer)
        if not rates:
            self.monitor._record.store.rates = None
        if not look:
            self.monitor._still.look = lambda: None
            self.monitor._still.row_added = lambda *_: None
        self._step = 0
        self._moving = [p for p in self.model.parameters() if p.requires_grad]

    def microseconds(self, schedule: Callable[[int], float]) -> float:
        """The mean time of this thread for a row, in STEPS steps that move all layers that are not frozen."""
        group, monitor = self.optimizer.param_groups[0], self.monitor
        spent = 0.0
        for _ in range(STEPS):
            self._step += 1
            group["lr"] = schedule(self._step)
            with torch.no_grad():
                torch._foreach_add_(self._moving, 1e-3)
            start = time.thread_time()
            monitor._before_step(False)
            monitor._after_step(None)
            spent += time.thread_time() - start
        return spent / STEPS * 1e6


def compare(layers: int, schedule: Callable[[int], float], frozen: bool) -> list[float]:
    """The medians of the four kinds, taken in turns."""
    options = [(True, True), (False, True), (True, False), (False, False)]
    kinds = [Kind(layers, rates=rates, look=look, frozen=frozen) for rates, look in options]
    for kind in kinds:
        kind.microseconds(schedule)
    times: list[list[float]] = [[] for _ in kinds]
    for _ in range(ROUNDS):
        for kind, taken in zip(kinds, times, strict=True):
            taken.append(kind.microseconds(schedule))
    for kind in kinds:
        known = kind.monitor.history()
        assert len(known) == STEPS * (ROUNDS + 1)
        assert (known.rates is None) == (kind.monitor._record.store.rates is None)
        kind.monitor.close()
    return [statistics.median(taken) for taken in times]


def main() -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)  # the weights move between the hooks here, not in a step
    print(f"{'layers':>7} {'rate':>9} {'frozen':>7} {'row us':>9} {'of it rates':>12} {'of it look':>11} {'before':>9}")
    for layers in (10, 100, 1000):
        for rate, frozen in (("constant", False), ("schedule", False), ("constant", True)):
            schedule = (lambda step: 0.1) if rate == "constant" else (lambda step: 0.1 / step)
            whole, no_rates, no_look, before = compare(layers, schedule, frozen)
            share = "1 in 10" if frozen else "none"
            print(
                f"{layers:7,} {rate:>9} {share:>7} {whole:9.1f} {whole - no_rates:12.1f} {whole - no_look:11.1f} "
                f"{before:9.1f}"
            )


if __name__ == "__main__":
    main()
