"""Optional packages. They are imported where they are used; if one is missing, the error has its install command."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import WeightScaleError


def import_extra(module: str, extra: str) -> Any:
    """Import the module, which `pip install 'weightscale_fast[<extra>]'` installs.

    Raises:
        WeightScaleError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise WeightScaleError(f"{error.name} is not installed: run pip install 'weightscale_fast[{extra}]'") from error
