"""Keep torch.compile out of code that reads weights by their addresses, which a compiled graph cannot follow."""

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

    PyTorch's own decorator imports the compiler at once. This one waits until something else has imported it.
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
