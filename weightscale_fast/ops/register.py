"""The contract of the compiled passes: their schemas and what they say of shapes. csrc and triton.py implement them.

Letters: C chunks, L layers of a group, M layers of the model, K sums per layer (3, or 4 with the ratios), R rows of
out.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The current weights come as addresses in `chunks`; prev, partial, row `cursor` modulo R of out, and rwc are written.
# rwc is [M]: norm_ratio where K is 3, mean_ratio where K is 4 (ratios). It is [0] where only the sums are asked for.
# The cursor stays on the device, so that a CUDA graph that is replayed fills row after row.
_TABLES = "Tensor chunks, Tensor layer_start, Tensor layer_row, Tensor(a!) prev, Tensor(b!) partial"
_ARGUMENTS = f"{_TABLES}, Tensor(c!) out, Tensor(d!) rwc, Tensor cursor, bool update"
library = torch.library.Library("weightscale_fast", "FRAGMENT")  # type: ignore[no-untyped-call]
library.define(f"layer_sums({_ARGUMENTS}) -> ()")  # type: ignore[no-untyped-call]
library.define(f"layer_sums_triton({_ARGUMENTS}, int most_chunks) -> ()")  # type: ignore[no-untyped-call]
library.define(f"layer_sums_cuda({_ARGUMENTS}, int most_chunks, int stream) -> ()")  # type: ignore[no-untyped-call]


def _layer_sums_fake(
    chunks: Tensor,  # [3, C]
    layer_start: Tensor,  # [L + 1]
    layer_row: Tensor,  # [L]
    prev: Tensor,  # any shape
    partial: Tensor,  # [>= K, C]
    out: Tensor,  # [R, K, M]
    rwc: Tensor,  # [M] or [0]
    cursor: Tensor,  # [1]
    update: bool,
    *launch: int,
) -> None:
    torch._check(chunks.size(0) == 3 and chunks.size(1) == partial.size(1), lambda: "chunks must be [3, C]")
    torch._check(layer_start.size(0) == layer_row.size(0) + 1, lambda: "layer_start must be [L + 1]")
    torch._check(out.dim() == 3 and out.size(1) in (3, 4), lambda: "out must be [R, K, M], K 3 or 4")
    torch._check(partial.size(0) >= out.size(1), lambda: "partial must be [K, C]")
    torch._check(rwc.size(0) in (0, out.size(2)), lambda: "rwc must be [M], or [0] for none")


for _name in ("layer_sums", "layer_sums_triton", "layer_sums_cuda"):
    torch.library.register_fake(f"weightscale_fast::{_name}", _layer_sums_fake, lib=library)
