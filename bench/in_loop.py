"""What recording adds to a training loop: steps with and without it, in turns, in one process.

    python bench/in_loop.py                       # ResNet-18, batch 128, 32 x 32, Adam
    python bench/in_loop.py --way in_step         # all blocks with weightscale_fast.optim.Adam, which adds up the sums
    python bench/in_loop.py --layers 1000         # 1,000 linear layers of 16 x 16: the cost of many small layers
    python bench/in_loop.py --device cuda --model resnet50 --batch 64 --size 224          # in bfloat16 autocast

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

BLOCK = {"cpu": 5, "cuda": 30}  # steps; those of a GPU are short
COMPARED = 25  # steps before a block is timed: a monitor compares the first 20 rows too, which later ones are not


def make(options: argparse.Namespace) -> tuple[nn.Module, torch.Tensor]:
    """The network, and a batch for it."""
    torch.manual_seed(0)
    with torch.device(options.device):
        if options.layers is None:
            model = timm.create_model(options.model, num_classes=10)
            return model, torch.randn(options.batch, 3, options.size, options.size)
        return nn.Sequential(*(nn.Linear(16, 16) for _ in range(options.layers))), torch.randn(32, 16)


def seconds_of(steps: int, model: nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> float:
    """The time of so many training steps."""
    on_gpu = batch.device.type == "cuda"
    start = time.perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16, enabled=on_gpu):
            loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Time the blocks in turns, check the record, and print the share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, help="so many small linear layers, in place of a network")
    parser.add_argument("--model", default="resnet18", help="timm's name of the network (%(default)s)")
    parser.add_argument("--batch", type=int, default=128, help="images of a batch (%(default)s)")
    parser.add_argument("--size", type=int, default=32, help="width and height of an image (%(default)s)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--way", default="last_row", choices=("last_row", "before_step", "in_step"))
    arguments = parser.parse_args()
    model, batch = make(arguments)
    in_step = arguments.way == "in_step"
    adam = wsf.optim.Adam if in_step else torch.optim.Adam
    optimizer = adam(model.parameters(), lr=1e-4, fused=None if in_step else True)
    block = BLOCK[arguments.device]
    seconds_of(block, model, optimizer, batch)
    pairs = []
    for _ in range(arguments.turns):
        without = seconds_of(block, model, optimizer, batch)
        with wsf.RWCMonitor(model, optimizer, baseline=None if in_step else arguments.way) as monitor:
            seconds_of(COMPARED, model, optimizer, batch)
            recorded = seconds_of(block, model, optimizer, batch)
        assert len(monitor.history()) == COMPARED + block
        pairs.append((without, recorded))
    shares = sorted(recorded / without - 1 for without, recorded in pairs)
    step = median(without for without, _ in pairs) / block
    low, high = shares[len(shares) // 4], shares[-1 - len(shares) // 4]
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{torch.get_num_threads()} threads"
    what = f"{arguments.layers} layers" if arguments.layers else f"{arguments.model}, batch {arguments.batch}"
    print(
        f"{what}, {where}, {arguments.way}: recording adds {median(shares):.2%} to a step of {step * 1e3:.2f} ms "
        f"(quartiles {low:.2%} to {high:.2%}, {arguments.turns} turns)"
    )


if __name__ == "__main__":
    main()
