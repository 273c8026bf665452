"""Kill a training at random moments with SIGKILL, resume it, and compare its end with that of an unbroken run.

    python bench/kills.py                # 200 kills, several in each run
    python bench/kills.py 1000 SEED      # more of them, at other moments

A small network trains in a forked child with a run folder and a checkpoint every 10 steps. The child is killed, and
another one goes on from the checkpoint; without a checkpoint it begins anew. After ten kills a run is left to end. Its
record and its weights must then be those of the unbroken run, bit for bit; only the flags say that it was resumed. This
prints where the kills fell and how many runs are equal. The exit code is 1 if one is not.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked child has no threads

import collections
import mmap
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # the first optimizer imports it, and each child would do so anew
from torch import nn

import weightscale_fast as wsf
from weightscale_fast.files import atomic_write

STEPS, FLUSH, CHECKPOINT = 60, 7, 10  # of a run; steps from one flush, and from one checkpoint, to the next
KILLS_A_RUN = 10
PLACES = (
    *("before the monitor", "making the monitor", "resuming", "in a step", "in a flush", "in a checkpoint"),
    "at the end",
)


def training(run: Path, place: mmap.mmap) -> None:
    """Train to the end, from the checkpoint if there is one. `place` says what is done now: an index of PLACES."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    checkpoint = run.with_suffix(".pt")
    resume = checkpoint.exists()
    place[0] = 1
    exist = "error" if resume else "overwrite"
    with wsf.RWCMonitor(model, optimizer, run_dir=run, resume=resume, exist=exist) as monitor:
        done = 0
        if resume:
            place[0] = 2
            state = torch.load(checkpoint, weights_only=True)
            done = state["step"]
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            monitor.load_state_dict(state["monitor"])
        for step in range(done + 1, STEPS + 1):
            place[0] = 3
            batch = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            model(batch).square().mean().backward()
            optimizer.step()
            if step % FLUSH == 0:
                place[0] = 4
                monitor.flush()
            if step % CHECKPOINT == 0:
                place[0] = 5
                state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
                with atomic_write(checkpoint) as file:
                    torch.save({**state, "monitor": monitor.state_dict()}, file)
        place[0] = 6
    with atomic_write(run.with_suffix(".end")) as file:
        torch.save(model.state_dict(), file)


def start(run: Path, place: mmap.mmap) -> int:
    """Train in a child process. Returns its number."""
    place[0] = 0
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        training(run, place)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def killed_after(child: int, seconds: float) -> bool:
    """Kill the child after so long. Returns whether that was before its end."""
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        sys.exit("a training failed; its error is above")
    return os.WIFSIGNALED(status)


def finish(run: Path, place: mmap.mmap) -> None:
    """Train to the end without a kill."""
    if os.waitpid(start(run, place), 0)[1]:
        sys.exit("a training failed; its error is above")


def same(one: Path, other: Path) -> bool:
    """Whether the records and the weights of two runs are the same, bit for bit."""
    left, right = wsf.RWCHistory.load(one), wsf.RWCHistory.load(other)
    arrays = all(np.array_equal(getattr(left, n), getattr(right, n)) for n in ("steps", "delta_l1", "prev_l1", "moved"))
    weights = [torch.load(run.with_suffix(".end"), weights_only=True) for run in (one, other)]
    return arrays and all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def main() -> None:
    """Kill, resume and compare."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    torch.set_num_threads(1)
    rng, place, where = random.Random(seed), mmap.mmap(-1, 1), collections.Counter()
    kills = runs = equal = 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        unbroken = Path(name) / "unbroken"
        finish(unbroken, place)
        shutil.rmtree(unbroken)
        (Path(name) / "unbroken.pt").unlink()
        start_of_run = time.monotonic()
        finish(unbroken, place)  # again, because the first one warms up
        seconds = time.monotonic() - start_of_run
        print(f"a run without a kill takes {seconds:.2f} s", flush=True)
        assert wsf.RWCHistory.load(unbroken).steps.tolist() == list(range(1, STEPS + 1))
        while kills < wanted:
            run = Path(name) / f"run-{runs}"
            for _ in range(KILLS_A_RUN):
                if killed_after(start(run, place), rng.uniform(0, seconds / 2)):
                    kills += 1
                    where[PLACES[place[0]]] += 1
            finish(run, place)
            runs += 1
            equal += same(run, unbroken)
            shutil.rmtree(run)
    for there in PLACES:
        print(f"{there:20} {where[there]:5}")
    print(f"seed {seed}: {kills} kills in {runs} runs, {time.monotonic() - begun:.0f} s; equal: {equal} of {runs}")
    sys.exit(0 if equal == runs else 1)


if __name__ == "__main__":
    main()
