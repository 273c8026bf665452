"""Checkpoints: everything that a killed run needs to go on as if it had never been killed.

    RUN/checkpoints/last.pt    written after every epoch: weights, optimizer, and how far the record is

A checkpoint holds no state of random numbers: each epoch seeds its own generator from the run's seed and its number.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from ..errors import WeightScaleError
from ..files import atomic_write, check_is_file, check_own_folder
from .optimizer_state import load_optimizer_state


def checkpoint_path(run_dir: Path) -> Path:
    """The path of a run's checkpoint."""
    return run_dir / "checkpoints" / "last.pt"


def save_checkpoint(run_dir: Path, epoch: int, parts: dict[str, Any]) -> None:
    """Replace the checkpoint by one that holds the epoch and the `state_dict()` of each part.

    If it cannot be written, for example because the disk is full, a warning says so and the checkpoint before it
    stays. Training can go on.

    Raises:
        WeightScaleError: the folder of the checkpoint is a link, or a file.
    """
    path = checkpoint_path(run_dir)
    check_own_folder(path.parent)
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


def load_checkpoint(run_dir: Path, parts: dict[str, Any], device: str, epochs: int) -> int:
    """Load the checkpoint into the `parts`, and return its epoch. Without a checkpoint, return 0.

    The file may be a stranger's. It runs no code, and nothing of it reaches memory unchecked.

    Args:
        run_dir: the folder of the run.
        parts: what the checkpoint holds, by name.
        device: where the tensors go.
        epochs: of the whole run; the checkpoint's epoch is not after them.

    Raises:
        WeightScaleError: the file is damaged, or belongs to another run.
    """
    path = checkpoint_path(run_dir)
    if not path.exists():
        return 0
    try:
        check_is_file(path)
        state = torch.load(path, map_location=device, weights_only=True)
        epoch = state["epoch"]
        if type(epoch) is not int or not 0 <= epoch <= epochs:
            raise ValueError(f"its epoch must be a whole number, 0 to {epochs}, got {str(epoch)[:60]!r}")
        for name, part in parts.items():
            if isinstance(part, torch.optim.Optimizer):
                load_optimizer_state(part, state[name])
            else:
                part.load_state_dict(state[name])
    except Exception as error:  # changed bytes and other types make torch raise whatever it has
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightScaleError(f"the checkpoint {path} does not fit this run or is damaged: {reason[:500]}") from error
    return epoch


def check_steps(run_dir: Path, epoch: int, steps: tuple[int, int]) -> None:
    """Raise `WeightScaleError` unless the record is at the end of the checkpoint's epoch.

    Args:
        run_dir: the folder of the run.
        epoch: the checkpoint's.
        steps: the record's step, and the step at the end of that epoch.
    """
    if steps[0] != steps[1]:
        raise WeightScaleError(
            f"the checkpoint {checkpoint_path(run_dir)} does not fit this run or is damaged: it is of epoch {epoch}, "
            f"whose last step is {steps[1]}, but its record is at step {steps[0]}"
        )


def check_empty(run_dir: Path, step: int) -> None:
    """Raise `WeightScaleError` if a run without a checkpoint has rows already. It can neither go on nor begin again."""
    if step:
        raise WeightScaleError(
            f"{run_dir} has a record of {step} steps but no checkpoint {checkpoint_path(run_dir)}, and cannot go on: "
            "put the checkpoint back, or choose another folder"
        )
