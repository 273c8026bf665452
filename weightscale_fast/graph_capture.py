"""What code must do when a CUDA graph captures it."""

from __future__ import annotations

import torch

_replayed: list[object] = []


def is_capturing(device: torch.device) -> bool:
    """Whether the current stream captures a CUDA graph, so that work is recorded and not run."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def keep_for_replays(*owners: object) -> None:
    """Keep the memory of `owners` until the process ends.

    A graph holds bare addresses, and nothing says when its last replay was. If the memory were freed, it could belong
    to another tensor, and a replay would overwrite that tensor.
    """
    _replayed.append(owners)
