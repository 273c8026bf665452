"""What recording costs with data parallelism, in time and in memory, with one process and with two.

    python bench/bench_ddp.py                                  # the table: one process, and then two
    torchrun --nproc-per-node=2 bench/bench_ddp.py --worker    # one line of the table

ResNet-18, 32 x 32 images, SGD, gloo, one thread for each process. Steps and records are timed separately, in turns. The
share is the fastest record divided by the fastest step, because other work on the machine can only add time. Of the
ranks, the slowest counts. The flush is the all-reduce of a full shard of 256 rows; it happens once in 256 steps.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable

import timm
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import weightscale_fast as wsf
from weightscale_fast.record.ring import SHARD_ROWS


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(batch: int, steps: int) -> dict[str, float]:
    """The fastest times of this rank in seconds, and the size of its snapshot in bytes."""
    torch.manual_seed(0)
    model = DistributedDataParallel(timm.create_model("resnet18", num_classes=10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, fused=True)
    images, labels = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch,))
    monitor = wsf.RWCMonitor(model)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    step_times, record_times = [], []
    for i in range(steps + 2):
        step_time, record_time = seconds(step), seconds(monitor.record)
        if i >= 2:  # the first two steps allocate memory
            step_times.append(step_time)
            record_times.append(record_time)
    history = monitor.history()
    assert (history.rwc[-1] > 0).all()
    for _ in range(SHARD_ROWS - len(history) - 1):
        monitor.record()
    dist.barrier()  # so that the time does not include waiting for the other rank
    flush_time = seconds(monitor.flush)
    return {
        "step": min(step_times),
        "record": min(record_times),
        "flush": flush_time,
        "bytes": monitor.nbytes,
    }


def worker(batch: int, steps: int) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    ranks: list[dict[str, float]] = [{}] * dist.get_world_size()
    dist.all_gather_object(ranks, measure(batch, steps))
    if dist.get_rank() == 0:
        step, record, flush = (max(rank[what] for rank in ranks) for what in ("step", "record", "flush"))
        megabytes = " ".join(f"{rank['bytes'] / 1e6:.1f}" for rank in ranks)
        times = f"{step * 1e3:10.1f} {record * 1e3:11.2f} {record / step:8.2%} {flush * 1e3:10.2f}"
        print(f"{len(ranks):9} {times}   {megabytes}", flush=True)
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64, help="images of each process")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--worker", action="store_true", help="run as one rank, under torchrun")
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.batch, arguments.steps)
        return
    print("processes    step ms   record ms    share   flush ms   snapshot of each rank, MB")
    for processes in (1, 2):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        sizes = [f"--batch={arguments.batch}", f"--steps={arguments.steps}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*launch, __file__, "--worker", *sizes], env=environment, check=True)


if __name__ == "__main__":
    main()
