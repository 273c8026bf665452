"""Shards: the files of rows in a run folder. Each is written once, and has its name only when it is complete."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy

from ..errors import WeightScaleError
from .rows import Rows
from .run_meta import sums_of

_NAME = re.compile(r"part-([0-9]{1,18})-([0-9]{1,18})\.safetensors")
LISTINGS = 100  # how often a folder is listed until two listings are equal


def shard_path(folder: Path, rows: Rows) -> Path:
    """The shard of these rows."""
    return folder / "rwc" / f"part-{rows.steps[0]:09d}-{rows.steps[-1]:09d}.safetensors"


def list_shards(folder: Path, every: int) -> list[Path]:
    """The shards of a run, sorted by first step and then by last step.

    A shard that appears during a listing can hide another one from it. So if steps are missing between two shards, the
    folder is listed again until two listings are equal. The last shard may be the hidden one: it gets another name
    whenever it takes further rows. So two listings must agree on where the last shard begins.

    Raises:
        WeightScaleError: `rwc` is not a folder that can be read, or holds a file of another name.
    """
    shards = _list(folder)
    for _ in range(LISTINGS):
        before, shards = shards, _list(folder)
        same_last = [step_range(shard)[0] for shard in before[-1:]] == [step_range(shard)[0] for shard in shards[-1:]]
        if same_last and (_follow_on(shards, every) or shards == before):
            break
    return shards


def step_range(shard: Path) -> tuple[int, int]:
    """The first and the last step of a shard."""
    match = _NAME.fullmatch(shard.name)
    assert match is not None
    return int(match[1]), int(match[2])


def read_shard(shard: Path, meta: Mapping[str, Any]) -> Rows:
    """The rows of a shard.

    Raises:
        FileNotFoundError: it does not exist any more.
        WeightScaleError: it is damaged, or belongs to another run.
    """
    advice = "move it away to load the others"
    try:
        if not stat.S_ISREG(os.stat(shard).st_mode):  # reading a pipe would never end
            raise WeightScaleError(f"shard {shard} is damaged: it is not a file; {advice}")
        arrays = safetensors.numpy.load_file(shard)
    except FileNotFoundError:
        raise
    # safetensors raises the last four for dtypes that numpy does not have, and for sizes that no file has
    except (OSError, safetensors.SafetensorError, TypeError, AttributeError, KeyError, ValueError) as error:
        raise WeightScaleError(f"shard {shard} is damaged or not a safetensors file ({error}); {advice}") from error
    first, last = step_range(shard)
    try:
        rows = Rows.from_arrays(arrays, len(meta["names"]), sums_of(meta))
        if not len(rows.steps) or (rows.steps[0], rows.steps[-1]) != (first, last):
            raise ValueError(f"expected steps {first} to {last}, got {len(rows.steps)} others")
    except ValueError as error:
        raise WeightScaleError(f"shard {shard} does not belong to this run: {error}; {advice}") from error
    return rows


def _list(folder: Path) -> list[Path]:
    try:
        names = os.listdir(folder / "rwc")
    except OSError as error:
        raise WeightScaleError(f"{folder / 'rwc'} must be a folder of rows, but {error.strerror}") from error
    shards = [folder / "rwc" / name for name in names if name.endswith(".safetensors") and not name.startswith(".")]
    for shard in shards:
        if not _NAME.fullmatch(shard.name):
            raise WeightScaleError(
                f"{shard} does not belong to this run: expected a name such as part-000000001-000000256.safetensors; "
                "move it away to load the others"
            )
    return sorted(shards, key=step_range)


def _follow_on(shards: list[Path], every: int) -> bool:
    end = 0
    for first, last in map(step_range, shards):
        if first > end + every:
            return False
        end = max(end, last)
    return True
