"""plain_settings: what people have as settings, as values that JSON can hold."""

from __future__ import annotations

import argparse
import dataclasses
import types
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import numpy as np
from torch import Size, Tensor

DEEPEST = 20  # levels; what lies deeper becomes text, and so does an object that contains itself
MOST_NUMBERS = 1000  # of an array; a larger one becomes text
NUMBERS: dict[str, Callable[[Any], Any]] = {"b": bool, "i": int, "u": int, "f": float}  # by the kind of numpy's dtypes


def plain_settings(settings: object) -> dict[str, Any]:
    """The settings as texts, numbers, lists and dicts. A value of another type becomes its text.

    Args:
        settings: a mapping, a namespace (as of argparse) or a dataclass.

    Raises:
        TypeError: it is none of these.
        ValueError: two keys have the same text.

    Example:
        >>> from pathlib import Path
        >>> plain_settings({"data": Path("mnist"), "lr": np.float32(0.5), ("a", 1): {1, 2}})
        {'data': 'mnist', 'lr': 0.5, "('a', 1)": [1, 2]}
    """
    fields = _fields(settings)
    if fields is None:
        raise TypeError(f"settings must be a dict or a namespace, such as {{'lr': 0.1}}, got {type(settings).__name__}")
    return _plain_dict(fields, 0)


def _fields(value: object) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, (argparse.Namespace, types.SimpleNamespace)):
        return vars(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _plain_dict(fields: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, value in fields.items():
        name = key if type(key) is str else str(key)
        if name in plain:
            raise ValueError(f"settings must have different keys, but two of them are {name!r} as text")
        plain[name] = _plain(value, depth + 1)
    return plain


def _plain(value: Any, depth: int) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Enum):
        return _plain(value.value, depth + 1) if depth < DEEPEST else str(value)
    if isinstance(value, np.generic):
        return NUMBERS.get(value.dtype.kind, str)(value)
    if isinstance(value, (np.ndarray, Tensor)):
        return _plain(value.tolist(), depth + 1) if _is_setting(value) else str(value)
    if isinstance(value, (int, float, str)):  # of a subclass
        return next(kind(value) for kind in (int, float, str) if isinstance(value, kind))
    fields = _fields(value)
    if depth < DEEPEST and fields is not None:
        return _plain_dict(fields, depth)
    if depth < DEEPEST and isinstance(value, (list, tuple, set, frozenset, Size)):
        return [_plain(each, depth + 1) for each in value]
    return str(value)


def _is_setting(value: np.ndarray[Any, Any] | Tensor) -> bool:
    """Whether these are real numbers, and not too many to be a setting."""
    if isinstance(value, Tensor):
        return value.numel() <= MOST_NUMBERS and not value.is_complex() and not value.is_meta
    return value.size <= MOST_NUMBERS and value.dtype.kind in NUMBERS
