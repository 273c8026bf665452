"""Cluster a large run from its folder, and measure time and peak memory of `cluster_layers` in its own process.

python bench/bench_analysis.py                          1,000 layers x 100,000 steps: 2.4 GB under the temp folder
python bench/bench_analysis.py --layers 161 --steps 10000
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from weightscale_fast.analysis import cluster_layers
from weightscale_fast.record.rows import Rows
from weightscale_fast.record.run_folder import RunFolder

SHARD = 2048  # steps
FAMILIES = 4


def generate(folder: Path, layers: int, steps: int) -> None:
    """Write a run. The RWC of each layer decays in one of four ways from one of four levels, with log-normal noise."""
    rng = np.random.default_rng(0)
    family = rng.integers(FAMILIES, size=layers)
    level = np.geomspace(1e-2, 3e-4, FAMILIES)[family] * np.exp(0.3 * rng.standard_normal(layers))
    decay = steps * np.geomspace(0.1, 2, FAMILIES)[family]
    run = RunFolder.create(
        folder,
        {
            "names": [f"layer{i}.weight" for i in range(layers)],
            "numel": [4096] * layers,
            "kinds": ["linear"] * layers,
            "definition": "norm_ratio",
            "every": 1,
            "settings": {},
        },
    )
    moved = np.full((SHARD, layers), 4096)
    for first in range(0, steps, SHARD):
        step = np.arange(first, min(first + SHARD, steps)) + 1
        delta = level * np.exp(-step[:, None] / decay + 0.3 * rng.standard_normal((len(step), layers)))
        run.append(Rows(step, delta, np.ones_like(delta), moved[: len(step)], None))


def measure(folder: str) -> None:
    """Cluster the run, and print the time, the peak memory and the result."""
    start = time.perf_counter()
    clusters = cluster_layers(Path(folder))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    sizes = np.bincount(clusters.labels).tolist()
    print(f"{seconds:.1f} s, peak {peak:.2f} GiB resident")
    print(f"k = {clusters.k}, sizes {sizes}, {clusters.scale} scale, stability {clusters.stability:.2f}")


def main() -> None:
    """Generate a run, and measure in a new process, so that its peak memory is that of the analysis alone."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--run", help="measure this run folder, in this process")
    arguments = parser.parse_args()
    if arguments.run:
        measure(arguments.run)
        return
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        generate(run, arguments.layers, arguments.steps)
        print(f"{arguments.layers:,} layers x {arguments.steps:,} steps", flush=True)
        subprocess.run([sys.executable, __file__, "--run", str(run)], check=True)


if __name__ == "__main__":
    main()
