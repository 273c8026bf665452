"""Optional packages: each is imported where it is used. If one is missing, the error gives its install command."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import WeightScaleError


def import_extra(module: str, extra: str | None = None) -> Any:
    """Import an optional module.

    Args:
        module: its name.
        extra: `pip install 'weightscale_fast[<extra>]'` installs it. None: it is in no extra.

    Raises:
        WeightScaleError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        package = error.name if extra is None else f"'weightscale_fast[{extra}]'"
        raise WeightScaleError(f"{error.name} is not installed: run pip install {package}") from error
