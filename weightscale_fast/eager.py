"""Keep torch.compile out of functions that read weights by address: a compiled graph cannot follow addresses."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def always_eager(function: Callable[P, T]) -> Callable[P, T]:
    """Run the function under `torch.compiler.disable`: a compiled graph ends before it and resumes after it.

    PyTorch's own decorator imports the compiler, which is slow. This one uses the compiler only if other code has
    imported it already.
    """
    disabled: list[Callable[P, T]] = []

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if not disabled:
            disabled.append(torch.compiler.disable(function))  # type: ignore[no-untyped-call]
        return disabled[0](*args, **kwargs)

    return call
