"""Checkpoints: everything that a killed run needs to go on as if it had never been killed.

    RUN/checkpoints/last.pt    written after every epoch: weights, optimizer, and how far the record is

A checkpoint holds no state of random numbers: each epoch seeds its own generator from the run's seed and its number.
"""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from ..errors import WeightScaleError
from ..files import atomic_write


def checkpoint_path(run_dir: Path) -> Path:
    """The path of a run's checkpoint."""
    return run_dir / "checkpoints" / "last.pt"


def save_checkpoint(run_dir: Path, epoch: int, parts: dict[str, Any]) -> None:
    """Replace the checkpoint by one that holds the epoch and the `state_dict()` of each part.

    If it cannot be written, for example because the disk is full, a warning says so and the checkpoint before it
    stays. Training can go on.
    """
    path = checkpoint_path(run_dir)
    path.parent.mkdir(exist_ok=True)
    for unfinished in path.parent.glob(f".{path.name}.*.tmp"):  # a killed run has left it, and it may be large
        unfinished.unlink()
    try:
        with atomic_write(path) as file:
            torch.save({"epoch": epoch, **{name: part.state_dict() for name, part in parts.items()}}, file)
    except (OSError, RuntimeError) as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # torch.save turns Ctrl-C into a RuntimeError
            raise KeyboardInterrupt from error
        warnings.warn(
            f"{path} cannot be written ({error}); training goes on, and the checkpoint before it stays", stacklevel=2
        )


def load_checkpoint(run_dir: Path, parts: dict[str, Any], device: str) -> int:
    """Load the checkpoint into the `parts`, and return its epoch. Without a checkpoint, return 0.

    Raises:
        WeightScaleError: the file is damaged, or belongs to another run.
    """
    path = checkpoint_path(run_dir)
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except (RuntimeError, ValueError, TypeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise WeightScaleError(f"the checkpoint {path} does not fit this run or is damaged: {error}") from error
    return int(state["epoch"])


def check_empty(run_dir: Path, step: int) -> None:
    """Raise `WeightScaleError` if a run without a checkpoint has rows already. It can neither go on nor begin again."""
    if step:
        raise WeightScaleError(
            f"{run_dir} has a record of {step} steps but no checkpoint {checkpoint_path(run_dir)}, and cannot go on: "
            "put the checkpoint back, or choose another folder"
        )
