"""What a CUDA graph asks of code that is captured in it."""

from __future__ import annotations

import torch


def is_capturing(device: torch.device) -> bool:
    """Whether what is called now goes into a CUDA graph instead of being done."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
