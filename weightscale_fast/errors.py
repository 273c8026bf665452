"""The exception class of the package, and the check of an argument that has a few allowed values.

Wrong arguments raise `ValueError` or `TypeError`.
"""

from __future__ import annotations

from collections.abc import Iterable


class WeightScaleError(RuntimeError):
    """Something outside the caller's arguments is wrong: a backend, a run folder, a changed model."""


def check_one_of(argument: str, value: object, allowed: Iterable[object]) -> None:
    """Raise `ValueError` unless `value` is one of `allowed`.

    Example:
        >>> check_one_of("scale", "sqrt", ("log", "linear"))
        Traceback (most recent call last):
        ValueError: scale must be one of 'log', 'linear', got 'sqrt'
    """
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
