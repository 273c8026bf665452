"""The compiled extension: one file with the CPU pass and the CUDA pass, loaded on first use."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from . import register_step as register_step  # the schemas must be defined before the extension implements them


@functools.cache
def load_error() -> str | None:
    """Load the extension once. Return None, or the reason why it is not available."""
    package = Path(__file__).parents[1]
    found = sorted(package.glob("_C*.so"))
    if not found:
        return "the extension was not built (no C++ compiler at install time, or WEIGHTSCALE_FAST_NO_EXT=1)"
    try:
        torch.ops.load_library(str(found[0]))  # type: ignore[no-untyped-call]
    except OSError as error:
        return f"the extension {found[0].name} does not load: {error.__cause__ or error}"
    return None
