"""Optional packages, imported where they are used, with the install line when they are not there."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import WeightScaleError


def import_extra(module: str, extra: str) -> Any:
    """The module `module`, which `pip install 'weightscale_fast[<extra>]'` brings.

    Raises:
        WeightScaleError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise WeightScaleError(f"{error.name} is not installed: run pip install 'weightscale_fast[{extra}]'") from error
