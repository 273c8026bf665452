"""Clean twins: trainings of the same networks with nothing wrong. Any finding in one of them is a false alarm.

They turn through all optimizers, schedules and ways to make a step, so that each network meets each of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .networks import TUNED_ON, Network, network
from .not_trained import group_rate
from .training import STEPS, Training

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "rmsprop", "muon")
RUNS = {"tuned": 16, "held out": 24}  # of each network, beside the special ones
LEARNT = 0.7  # the last loss of a clean run is at most this part of the first
KEPT = 1.25  # the same, if it starts from trained weights

SCHEDULES: Mapping[str, Callable[[int], float] | None] = {
    "constant": None,
    "cosine": lambda step: (1 + math.cos(math.pi * step / STEPS)) / 2,
    "one_cycle": lambda step: one_cycle(step / STEPS),
    "step_decay": lambda step: 0.2 ** (2 * step // STEPS + (4 * step // STEPS == 3)),
    "warm_up": lambda step: min(1.0, (step + 1) / 50),
}
WAYS: Mapping[str, Mapping[str, object]] = {
    "plain": {},
    "clip": {"clip": 1.0},
    "accumulate": {"accumulate": 2},
    "autocast": {"autocast": True},
}


@dataclass(frozen=True)
class Clean:
    """A clean run: what it sets, and the part of the first loss that its last one may be."""

    name: str
    alter: Callable[[Training], object]
    most: float = LEARNT


def one_cycle(part: float) -> float:
    """Up from 1/25 in the first 30 %, then down to almost 0, both along a cosine."""
    if part < 0.3:
        return 1 - (1 - 1 / 25) * (1 + math.cos(math.pi * part / 0.3)) / 2
    return 1e-4 + (1 - 1e-4) * (1 + math.cos(math.pi * (part - 0.3) / 0.7)) / 2


def clean_runs(name: str) -> dict[str, Clean]:
    """The clean runs of a network, by name."""
    runs = [turn(i) for i in range(RUNS["tuned" if name in TUNED_ON else "held out"])]
    runs += [Clean(f"twin_{optimizer}", functools.partial(twin, optimizer=optimizer)) for optimizer in ("adam", "sgd")]
    runs += [Clean(f"fine_tuning_{rate:.0e}", fine_tuning(rate), KEPT) for rate in (1e-4, 1e-5)]
    runs += [
        Clean("head_10_times_faster", lambda run: group_rate(run, 10, "head")),
        Clean("frozen_first", freeze_first),
    ]
    return {run.name: run for run in runs}


def turn(i: int) -> Clean:
    """The i-th clean run. With 6 optimizers, 5 schedules and 4 ways, no two of the first 24 are alike."""
    optimizer = OPTIMIZERS[i % 6]
    schedule = list(SCHEDULES)[(i + i // 6) % 5]
    way = list(WAYS)[(i + i // 12) % 4]

    def alter(run: Training) -> None:
        run.optimizer, run.schedule, run.seed = optimizer, SCHEDULES[schedule], i
        run.watch = "one" if i % 12 < 6 else "first"  # both ways to record two optimizers
        for field, value in WAYS[way].items():
            setattr(run, field, value)

    return Clean(f"{i:02}_{optimizer}_{schedule}_{way}", alter)


def twin(run: Training, optimizer: str) -> None:
    """What a training with a fault would be without it."""
    run.optimizer = optimizer


def freeze_first(run: Training) -> None:
    """Freeze the first layer, as one does with a backbone."""
    run.on_model.append(lambda: run.module("first").requires_grad_(False))


def fine_tuning(rate: float) -> Callable[[Training], None]:
    """Go on from trained weights with AdamW at this rate, on inputs that are a little different."""

    def alter(run: Training) -> None:
        run.optimizer, run.scale = "adamw", rate / run.network.rates["adamw"]
        run.on_model.append(lambda: run.model.load_state_dict(trained(run.network.name)))
        if not run.network.tokens:
            run.on_batch.append(lambda step, x, y: (0.8 * x + 0.1, y))

    return alter


@functools.cache
def trained(name: str) -> dict[str, Tensor]:
    """The weights of a trained network."""
    of: Network = network(name)
    run = Training(of, schedule=SCHEDULES["cosine"])
    run.run()
    return run.model.state_dict()
