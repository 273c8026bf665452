"""Code that torch.compile must run as it stands: it reads weights by their addresses, which no graph can know about."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def always_eager(function: Callable[P, T]) -> Callable[P, T]:
    """The function behind `torch.compiler.disable`: a graph ends before it and goes on after it.

    The decorator of PyTorch loads the compiler at once; this one leaves it alone until somebody else has loaded it.
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
