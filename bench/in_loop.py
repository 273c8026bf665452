"""What recording adds to a training loop: steps with and without it, in turns, in one process.

    python bench/in_loop.py                       # ResNet-18, batch 128, 32 x 32, Adam
    python bench/in_loop.py --layers 1000         # 1,000 linear layers of 16 x 16: the cost of many small layers

`record()` timed by itself leaves out what it does to the caches of the step that follows. Here a block of steps is
timed as a whole. The blocks with a monitor and those without take turns, so a machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import timm
import torch
from torch import nn

import weightscale_fast as wsf

BLOCK = 5  # steps
COMPARED = 5  # blocks; a monitor compares the first 20 rows too, which later ones are not


def make(layers: int | None) -> tuple[nn.Module, torch.Tensor]:
    """The network, and a batch for it."""
    torch.manual_seed(0)
    if layers is None:
        return timm.create_model("resnet18", num_classes=10), torch.randn(128, 3, 32, 32)
    return nn.Sequential(*(nn.Linear(16, 16) for _ in range(layers))), torch.randn(32, 16)


def seconds_of_block(model: nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> float:
    """The time of `BLOCK` training steps."""
    start = time.perf_counter()
    for _ in range(BLOCK):
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
    return time.perf_counter() - start


def main() -> None:
    """Time the blocks in turns, check the record, and print the share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, help="so many small linear layers, in place of ResNet-18")
    parser.add_argument("--turns", type=int, default=20)
    arguments = parser.parse_args()
    model, batch = make(arguments.layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    seconds_of_block(model, optimizer, batch)
    pairs = []
    for _ in range(arguments.turns):
        without = seconds_of_block(model, optimizer, batch)
        with wsf.RWCMonitor(model, optimizer) as monitor:
            for _ in range(COMPARED):
                seconds_of_block(model, optimizer, batch)
            recorded = seconds_of_block(model, optimizer, batch)
        assert len(monitor.history()) == (COMPARED + 1) * BLOCK
        pairs.append((without, recorded))
    shares = sorted(recorded / without - 1 for without, recorded in pairs)
    step = median(without for without, _ in pairs) / BLOCK
    low, high = shares[len(shares) // 4], shares[-1 - len(shares) // 4]
    print(f"{len(list(model.parameters()))} parameters, {torch.get_num_threads()} threads, step {step * 1e3:.2f} ms")
    print(f"recording adds {median(shares):.2%} (quartiles {low:.2%} to {high:.2%}, {arguments.turns} turns)")


if __name__ == "__main__":
    main()
