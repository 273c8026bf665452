"""Record 100,000 steps of a tiny model. Print time per step and resident memory every 10,000, and the bytes on disk."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from torch import nn

import weightscale_fast as wsf

STEPS, BLOCK = 100_000, 10_000


def resident_megabytes() -> float:
    """The resident memory of this process, from Linux's /proc."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def main() -> None:
    """Record, and print a line for each block of steps."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        with wsf.RWCMonitor(model, run_dir=run) as monitor:
            for end in range(BLOCK, STEPS + 1, BLOCK):
                start = time.perf_counter()
                for _ in range(BLOCK):
                    monitor.record()
                microseconds = (time.perf_counter() - start) / BLOCK * 1e6
                print(f"{end:7,} steps  {microseconds:6.1f} us a step  {resident_megabytes():7.1f} MB resident")
        sizes = [path.stat().st_size for path in (run / "rwc").iterdir()]
        values = STEPS * (8 + 3 * 8 * len(monitor.history().names))
        print(f"{len(sizes)} shards, {sum(sizes):,} bytes, of them {values:,} the recorded numbers")


if __name__ == "__main__":
    main()
