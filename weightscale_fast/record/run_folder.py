"""RunFolder: the record of a run on disk. If the process is killed, at most the shard being written is lost.

    RUN/meta.json                                    describes the rows; written once, before the first row
    RUN/rwc/part-<first>-<last>.safetensors          step, flags [n], delta_l1, prev_l1, moved (, ratio_sum) [n, L]

The folder and each shard are written under a temporary name, flushed to the disk, and then renamed. So the folder
never appears without its meta.json, and a shard appears only when it is complete.

Letters: n rows, L layers.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import torch

from ..errors import WeightScaleError
from ..files import atomic_write
from .rows import Rows, concatenate

FORMAT = "weightscale_fast run 1"
META = "meta.json"

_SHARD_NAME = re.compile(r"part-(\d+)-(\d+)\.safetensors")


class RunFolder:
    """The folder of one run: `create` makes it, `open` opens it, `append` adds a shard, `rows` reads all shards."""

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path = path
        self.meta = meta

    @classmethod
    def create(cls, path: str | Path, meta: Mapping[str, Any]) -> RunFolder:
        """Create the folder. If this fails, it leaves no files behind.

        Raises:
            WeightScaleError: the folder exists and is not empty, or cannot be written.
            TypeError: `meta` holds a value that JSON cannot hold.
        """
        path = Path(path).absolute()
        versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
        begun = datetime.now(timezone.utc).isoformat(timespec="seconds")
        full = {"format": FORMAT, "begun": begun, "versions": versions, **meta}
        text = json.dumps(full, indent=1)
        if path.is_file() or (path.is_dir() and any(path.iterdir())):
            raise WeightScaleError(
                f"run folder {path} exists: choose another name, or pass resume=True to continue that run"
            )
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            (temporary / "rwc").mkdir(parents=True)
            with atomic_write(temporary / META) as file:
                file.write(text.encode())
            temporary.replace(path)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise WeightScaleError(f"run folder {path} cannot be written: {error}") from error
        return cls(path, full)

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open the run at `path`.

        Raises:
            WeightScaleError: there is no run at `path`, or it has another format.
        """
        path = Path(path).absolute()
        try:
            meta = json.loads((path / META).read_text())
        except FileNotFoundError as error:
            raise WeightScaleError(f"{path} is not a run folder: it has no meta.json") from error
        except (OSError, ValueError) as error:
            raise WeightScaleError(f"{path / 'meta.json'} cannot be read: {error}") from error
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            found = meta.get("format") if isinstance(meta, dict) else meta
            raise WeightScaleError(f"{path} is not a run folder: expected format {FORMAT!r}, got {found!r}")
        return cls(path, meta)

    @classmethod
    def begin(cls, path: str | Path, meta: Mapping[str, Any], *, resume: bool) -> RunFolder:
        """Create the folder. With `resume`, open it if it exists.

        Raises:
            WeightScaleError: the folder exists and `resume` is False; or it is another run's, or cannot be written.
        """
        path = Path(path)
        if not resume or not path.exists() or not any(path.iterdir()):
            return cls.create(path, meta)
        run = cls.open(path)
        for key in ("names", "numel", "definition", "every"):
            if run.meta[key] != meta[key]:
                raise WeightScaleError(
                    f"run folder {path} belongs to another run: its {key!r} differs from this monitor's; "
                    "choose another name"
                )
        return run

    def append(self, rows: Rows) -> None:
        """Write the rows as one shard.

        Raises:
            OSError: the disk is full or gone. No part of this shard is then left, and the others are untouched.
        """
        shard = self.path / "rwc" / f"part-{rows.steps[0]:09d}-{rows.steps[-1]:09d}.safetensors"
        with atomic_write(shard) as file:
            file.write(rows.to_bytes())

    def rows(self) -> Rows:
        """All rows of all shards, in the order of steps.

        Raises:
            WeightScaleError: a shard is damaged, or belongs to another run.
        """
        return concatenate(list(self.parts()), len(self.meta["names"]), self.meta["definition"] == "mean_ratio")

    def parts(self) -> Iterator[Rows]:
        """The rows of one shard after another, in the order of steps, for runs that are larger than memory.

        Raises:
            WeightScaleError: a shard is damaged, or belongs to another run.
        """
        last_step = -1
        for shard in self._shards():
            part = self._read_shard(shard)
            if part.steps[0] <= last_step:  # a resume was killed: it left a shard and its shortened copy
                part = part.where(part.steps > last_step)
            if len(part.steps):
                yield part
                last_step = int(part.steps[-1])

    def last_step(self) -> int:
        """The step of the last row; 0 if there is none."""
        return max((_step_range(shard)[1] for shard in self._shards()), default=0)

    def drop_after(self, step: int) -> None:
        """Delete the rows after `step`, because the run continues from a checkpoint of that step."""
        for shard in reversed(self._shards()):
            first, last = _step_range(shard)
            if last <= step:
                return
            if first <= step:
                rows = self._read_shard(shard)
                self.append(rows.where(rows.steps <= step))
            shard.unlink()

    def _shards(self) -> list[Path]:
        """The complete shards, sorted by first step and then by last step."""
        return sorted(
            (path for path in (self.path / "rwc").glob("*.safetensors") if _SHARD_NAME.fullmatch(path.name)),
            key=_step_range,
        )

    def _read_shard(self, shard: Path) -> Rows:
        try:
            arrays = safetensors.numpy.load_file(shard)
        except (OSError, safetensors.SafetensorError) as error:
            raise WeightScaleError(
                f"shard {shard} is damaged or not a safetensors file ({error}); move it away to load the others"
            ) from error
        first, last = _step_range(shard)
        steps = arrays.get("step", np.empty(0))
        shape = (len(steps), len(self.meta["names"]))
        expected = {"delta_l1", "prev_l1", "moved"} | (
            {"ratio_sum"} if self.meta["definition"] == "mean_ratio" else set()
        )
        flags = arrays.pop("flags", np.zeros(len(steps), np.uint8))  # shards of version 0.1 have none
        shapes = {name: array.shape for name, array in arrays.items() if name != "step"}
        if (
            shapes != dict.fromkeys(expected, shape)
            or flags.shape != steps.shape
            or not len(steps)
            or (steps[0], steps[-1]) != (first, last)
            or np.any(np.diff(steps) <= 0)
        ):
            raise WeightScaleError(
                f"shard {shard} does not belong to this run: expected steps {first} to {last} of "
                f"{', '.join(sorted(expected))} for {shape[1]} layers, got {shapes}; move it away to load the others"
            )
        return Rows(steps, arrays["delta_l1"], arrays["prev_l1"], arrays["moved"], arrays.get("ratio_sum"), flags)


def _step_range(shard: Path) -> tuple[int, int]:
    match = _SHARD_NAME.fullmatch(shard.name)
    assert match is not None
    return int(match[1]), int(match[2])
