"""How large may a model be? What each way of recording takes, computed for 0.1 to 400 billion weights.

    python bench/how_large.py            # the tables of docs/how_large.md, in Markdown

The figures are counts of bytes, so no machine is needed. `bench/memory.py` measures the memory in real trainings, and
`make bench` and `make gpu-check` how much of a bandwidth the pass reaches.
"""

from __future__ import annotations

from typing import NamedTuple

BILLIONS = (0.1, 1, 7, 13, 70, 400)
BYTES = {"float32": 4, "bfloat16": 2}
BANDWIDTHS = {"CPU, 30 GB/s": 30e9, "A100, 2.0 TB/s": 2.0e12, "H100, 3.35 TB/s": 3.35e12, "H200, 4.8 TB/s": 4.8e12}
SUMS, SHARD_ROWS = 6, 256  # sums of a layer in a row, and rows in an all-reduce


class Way(NamedTuple):
    """What a way of recording takes, in bytes for each byte of the weights."""

    name: str
    between: int  # held between two steps
    during: int  # held while a recorded step runs
    moved: int  # read and written in a recorded step, beside the step's own


WAYS = (
    Way('`baseline="last_row"`', between=1, during=1, moved=3),  # the pass: read w, read prev, write prev
    Way('`baseline="before_step"`', between=0, during=1, moved=4),  # a copy: read, write; the pass: read w, read prev
    Way("`weightscale_fast.optim`", between=0, during=0, moved=0),  # the sums of the values that the step has anyway
)


def size(count: float) -> str:
    """Bytes in a unit that a reader knows."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


def duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def wire_bytes(layers: int, ranks: int) -> float:
    """What a rank sends for a step: a ring all-reduce sends each number 2 (n - 1) / n times."""
    return layers * SUMS * 8 * 2 * (ranks - 1) / ranks


def memory_table() -> str:
    lines = ["| weights | dtype | " + " | ".join(way.name for way in WAYS) + " |", "|---|---|" + "---|" * len(WAYS)]
    for billions in BILLIONS:
        for dtype, each in BYTES.items():
            weights = billions * 1e9 * each
            cells = []
            for way in WAYS:
                during = f"{size(way.during * weights)} in a step" if way.during else "0"
                cells.append(size(way.between * weights) if way.between else during)
            lines.append(f"| {billions:g} B | {dtype} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def time_table() -> str:
    lines = [
        "| weights | way | bytes moved | " + " | ".join(BANDWIDTHS) + " |",
        "|---|---|---|" + "---|" * len(BANDWIDTHS),
    ]
    for billions in BILLIONS:
        for way in WAYS[:2]:
            moved = way.moved * billions * 1e9 * BYTES["bfloat16"]
            times = [duration(moved / bandwidth) for bandwidth in BANDWIDTHS.values()]
            lines.append(f"| {billions:g} B | {way.name} | {size(moved)} | " + " | ".join(times) + " |")
    return "\n".join(lines)


def wire_table() -> str:
    lines = ["| layers | 2 ranks | 8 ranks | 1,024 ranks |", "|---|---|---|---|"]
    for layers in (100, 300, 1000, 5000):
        cells = [size(wire_bytes(layers, ranks)) for ranks in (2, 8, 1024)]
        lines.append(f"| {layers:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    print(f"Memory of the record, beside the training's own:\n\n{memory_table()}\n")
    print(f"Time of a recorded step in bfloat16, at the full bandwidth:\n\n{time_table()}\n")
    print(f"What a rank sends for each step, in one all-reduce for {SHARD_ROWS} steps:\n\n{wire_table()}")


if __name__ == "__main__":
    main()
