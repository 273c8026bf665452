"""The schemas of the compiled passes, and fake implementations that check shapes. csrc and triton.py implement them.

Letters: L layers of the model, G layers of a group, C chunks, K sums per layer (see sums.py), R rows of `out`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .sums import NUMBERS

# `chunks` contains the addresses of the current weights. The pass writes prev, partial, rwc, and row `cursor` modulo R
# of out. rwc is [L]: norm_ratio if K is 3, l2_ratio if K is 6, else mean_ratio. It is [0] if only the sums are wanted.
# The cursor is on the device, so that each replay of a CUDA graph fills the next row.
_TABLES = "Tensor chunks, Tensor layer_start, Tensor layer_row, Tensor(a!) prev, Tensor(b!) partial"
_ARGUMENTS = f"{_TABLES}, Tensor(c!) out, Tensor(d!) rwc, Tensor cursor, bool update"
library = torch.library.Library("weightscale_fast", "FRAGMENT")  # type: ignore[no-untyped-call]
library.define(f"layer_sums({_ARGUMENTS}) -> ()")  # type: ignore[no-untyped-call]
library.define(f"layer_sums_triton({_ARGUMENTS}, int most_chunks) -> ()")  # type: ignore[no-untyped-call]
library.define(f"layer_sums_cuda({_ARGUMENTS}, int most_chunks, int stream) -> ()")  # type: ignore[no-untyped-call]


def _layer_sums_fake(
    chunks: Tensor,  # [3, C]
    layer_start: Tensor,  # [G + 1]
    layer_row: Tensor,  # [G]
    prev: Tensor,  # any shape
    partial: Tensor,  # [>= K, C]
    out: Tensor,  # [R, K, L]
    rwc: Tensor,  # [L] or [0]
    cursor: Tensor,  # [1]
    update: bool,
    *launch: int,
) -> None:
    torch._check(chunks.size(0) == 3 and chunks.size(1) == partial.size(1), lambda: "chunks must be [3, C]")
    torch._check(layer_start.size(0) == layer_row.size(0) + 1, lambda: "layer_start must be [G + 1]")
    torch._check(out.dim() == 3 and out.size(1) in NUMBERS, lambda: "out must be [R, K, L], K 3, 4, 6 or 7")
    torch._check(partial.size(0) >= out.size(1), lambda: "partial must be [K, C]")
    torch._check(rwc.size(0) in (0, out.size(2)), lambda: "rwc must be [L], or [0] for none")


for _name in ("layer_sums", "layer_sums_triton", "layer_sums_cuda"):
    torch.library.register_fake(f"weightscale_fast::{_name}", _layer_sums_fake, lib=library)
