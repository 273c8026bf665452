"""The metrics of a run, one line for each epoch.

RUN/metrics.jsonl    epoch, step, loss, train_top1, train_top5, test_top1, test_top5, images_per_second, seconds,
                     recording_share
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import WeightScaleError
from ..files import atomic_write, read_file
from .config import TrainConfig

METRICS = "metrics.jsonl"
NAMES = ("train_top1", "train_top5", "test_top1", "test_top5", "recording_share")  # the values that other modules read


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`, one for each epoch. The list is empty if there is no such file yet.

    Raises:
        WeightScaleError: a line was not written by this package, or the file cannot be read.
    """
    path, lines = run_dir / METRICS, []
    try:
        texts = read_file(path).decode().splitlines() if path.exists() else []
    except (OSError, ValueError) as error:
        raise WeightScaleError(f"{path} cannot be read: {error}") from error
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text)
            if not diverged(line):
                [float(line[name]) for name in ("epoch", *NAMES)]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise WeightScaleError(
                f"line {number} of {path} is not what weightscale train writes about an epoch "
                f"({type(error).__name__}: {error})"
            ) from error
        lines.append(line)
    return lines


def write_metrics(run_dir: Path, metrics: list[dict[str, Any]]) -> None:
    """Write the file again with these lines. If the disk is full, a warning says so, and the old file stays."""
    try:
        with atomic_write(run_dir / METRICS) as file:
            file.write("".join(json.dumps(line) + "\n" for line in metrics).encode())
    except OSError as error:
        warnings.warn(f"{run_dir / METRICS} cannot be written ({error}); the next epoch will try again", stacklevel=2)


def describe(line: dict[str, Any]) -> str:
    """The line in words."""
    if diverged(line):
        return f"epoch {line['epoch']}: the loss is not finite; training has diverged, and ends"
    return (
        f"epoch {line['epoch']}: loss {line['loss']:.3f}, accuracy {line['train_top1']:.1%}, on test images "
        f"{line['test_top1']:.1%}, {line['seconds']:.0f} s at {line['images_per_second']:,.0f} images/s; recording "
        f"took {line['recording_share']:.1%} of the time"
    )


def diverged(line: Mapping[str, Any]) -> bool:
    """Whether the loss of an epoch was not finite. The run ends with that epoch."""
    return line["loss"] is None or not math.isfinite(line["loss"])


def is_over(config: TrainConfig, line: Mapping[str, Any]) -> bool:
    """Whether the run ends with the epoch of this line."""
    reached = config.stop_at is not None and line["test_top1"] >= config.stop_at
    return line["epoch"] >= config.epochs or reached or diverged(line)
