"""What a CUDA graph asks of code that is captured in it."""

from __future__ import annotations

import torch

_replayed: list[object] = []


def is_capturing(device: torch.device) -> bool:
    """Whether what is called now goes into a CUDA graph instead of being done."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def keep_for_replays(*owners: object) -> None:
    """Keep the memory of `owners` until the process ends.

    A graph holds bare addresses, and nobody can tell when it was replayed for the last time. Memory that was freed
    would be another tensor's by then, and the replay would write into that.
    """
    _replayed.append(owners)
