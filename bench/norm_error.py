"""The error of L1 norms of float32 weights against float64, on one thread: a table for docs/performance.md."""

from __future__ import annotations

import torch
from page import replace_between
from torch import nn

import weightscale_fast as wsf

BEGIN, END = "<!-- norms: written by bench/norm_error.py -->", "<!-- end of norms -->"
SIZES = (1_000_000, 10_000_000, 100_000_000)


def fused_sum(w: torch.Tensor) -> torch.Tensor:
    """||w||_1 as this package computes it: the denominator of RWC."""
    model = nn.Module()
    model.w = nn.Parameter(w[None])
    return wsf.layer_sums(model, wsf.snapshot(model), update=False).prev_l1[0]


WAYS = {
    "weightscale_fast": fused_sum,
    "abs().sum()": lambda w: w.abs().sum(),
    "norm(p=1)": lambda w: w.norm(p=1),
    "linalg.vector_norm(1)": lambda w: torch.linalg.vector_norm(w, 1),
    "_foreach_norm(1)": lambda w: torch._foreach_norm([w], 1)[0],
}


def main() -> None:
    """Measure, print the table, and write it between the marks of the page."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    weights = torch.randn(max(SIZES))
    lines = [
        "| relative error, one thread | " + " | ".join(f"{n:.0e} weights".replace("e+0", "e") for n in SIZES) + " |",
        "|---|" + "---:|" * len(SIZES),
    ]
    exact = [weights[:n].abs().sum(dtype=torch.float64).item() for n in SIZES]
    for name, norm in WAYS.items():
        errors = [(norm(weights[:n]).item() - true) / true for n, true in zip(SIZES, exact, strict=True)]
        lines.append(f"| `{name}` | " + " | ".join(f"{error:.0e}" for error in errors) + " |")
    table = "\n".join([*lines, "", f"torch {torch.__version__}, float32."])
    print(table)
    replace_between(BEGIN, END, table)


if __name__ == "__main__":
    main()
