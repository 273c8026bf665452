"""Checkpoints: everything a killed run needs to go on as if it had not been, written so that a kill loses none.

    RUN/checkpoints/last.pt    after every epoch: weights, optimizer, and where the record stands

Random numbers are not in it: each epoch starts its own, from the seed and its number.
"""

from __future__ import annotations

import os
import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from ..errors import WeightScaleError


def checkpoint_path(run_dir: Path) -> Path:
    """Where the checkpoint of a run is."""
    return run_dir / "checkpoints" / "last.pt"


def save_checkpoint(run_dir: Path, epoch: int, parts: dict[str, Any]) -> None:
    """Replace the checkpoint, at once, by one of `epoch` and of what the `parts` return as their `state_dict()`.

    Where it cannot be written, as on a full disk, the one before stays, a warning says so, and training can go on.
    """
    path = checkpoint_path(run_dir)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # what a kill leaves of it, the next one replaces
    try:
        with open(temporary, "wb") as file:
            torch.save({"epoch": epoch, **{name: part.state_dict() for name, part in parts.items()}}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error.__context__, KeyboardInterrupt):  # torch.save makes an error of its own of Ctrl-C
            raise KeyboardInterrupt from error
        warnings.warn(
            f"{path} cannot be written ({error}); training goes on, and the checkpoint before it stays", stacklevel=2
        )


def load_checkpoint(run_dir: Path, parts: dict[str, Any], device: str) -> int:
    """Bring the `parts` to where the checkpoint left them; its epoch, or 0 where there is none yet.

    Raises:
        WeightScaleError: the file is damaged or another run's.
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
    """Raise `WeightScaleError` if a run without a checkpoint has rows already: it cannot go on, nor begin again."""
    if step:
        raise WeightScaleError(
            f"{run_dir} has a record of {step} steps but no checkpoint {checkpoint_path(run_dir)}, and cannot go on: "
            "bring the checkpoint back, or choose another folder"
        )
