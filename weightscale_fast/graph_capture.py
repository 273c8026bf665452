"""CUDA graphs: tell whether one is being captured, and keep the memory that its replays write to."""

from __future__ import annotations

import torch

_replayed: list[object] = []


def is_capturing(device: torch.device) -> bool:
    """Whether the current stream captures a CUDA graph. Work on it is then recorded and not run."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def keep_for_replays(*owners: object) -> None:
    """Keep the memory of `owners` until the process ends.

    A graph holds bare addresses, and nobody can tell when it was replayed for the last time. If the memory were freed,
    PyTorch could give it to another tensor, and a replay would overwrite that tensor.
    """
    _replayed.append(owners)
