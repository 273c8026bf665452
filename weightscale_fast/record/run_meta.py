"""meta.json: what a run folder says about its rows. It is written once, before the first row."""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import WeightScaleError
from ..files import read_file
from ..ops.sums import number_of_sums
from ..ratios import DEFINITIONS
from ..text import listing

FORMAT = "weightscale_fast run 1"
META = "meta.json"
MOST = 2**62  # weights of a layer, or steps


def new_meta(record: Mapping[str, Any]) -> dict[str, Any]:
    """The content of meta.json for a new run. `id` differs for every run."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    begun = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"format": FORMAT, "id": uuid.uuid4().hex, "begun": begun, "versions": versions, **record}


def run_id(meta: Mapping[str, Any]) -> object:
    """What tells a run from another one in the same folder. Older runs have no `id`."""
    return meta.get("id", meta.get("begun"))


def sums_of(meta: Mapping[str, Any]) -> int:
    """K, the number of sums in each row of the record. Older run folders have no `l2`, and no L2 sums."""
    return number_of_sums(ratio=meta["definition"] == "mean_ratio", l2=meta.get("l2", False))


def different_run(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str | None:
    """In what the record of a folder differs from a monitor, so that its rows cannot go on; None if in nothing."""
    names, my_names = theirs["names"], mine["names"]
    if names != my_names:
        missing = [repr(name) for name in names if name not in set(my_names)]
        new = [repr(name) for name in my_names if name not in set(names)]
        parts = [f"it has {listing(missing)}, which this monitor does not record"] if missing else []
        parts += [f"it lacks {listing(new)}"] if new else []
        return " and ".join(parts) or "it has the same layers in another order"
    for name, weights, my_weights in zip(names, theirs["numel"], mine["numel"], strict=True):
        if weights != my_weights:
            return f"its layer {name!r} has {weights:,} weights, and this monitor's has {my_weights:,}"
    for key, older in (("definition", None), ("every", None), ("l2", False), ("baseline", "last_row")):
        it, this = theirs.get(key, older), mine.get(key, older)
        if it != this:
            return f"it has {key}={it!r}, and this monitor has {this!r} (to go on with it, pass {key}={it!r})"
    return None


def parse_meta(folder: Path) -> dict[str, Any]:
    """The content of meta.json, of which only the format is checked.

    Raises:
        WeightScaleError: it is damaged, or something else.
        OSError: it is not there, or cannot be read.
    """
    try:
        meta = json.loads(read_file(folder / META))
    except (ValueError, RecursionError) as error:
        raise WeightScaleError(f"{folder / META} cannot be read: {error}") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else type(meta).__name__
        raise WeightScaleError(f"{folder} is not a run folder: expected format {FORMAT!r}, got {str(found)[:80]!r}")
    return meta


def read_meta(folder: Path) -> dict[str, Any]:
    """The content of meta.json, checked as a whole.

    Raises:
        WeightScaleError: there is no run in the folder, or its meta.json is damaged.
    """
    try:
        if not folder.exists():
            raise WeightScaleError(f"run folder {folder} does not exist")
        if folder.is_file():
            raise WeightScaleError(f"{folder} is a file, and not a run folder")
        meta = parse_meta(folder)
    except FileNotFoundError as error:
        raise WeightScaleError(f"{folder} is not a run folder: it has no meta.json") from error
    except OSError as error:
        raise WeightScaleError(f"{folder / META} cannot be read: {error.strerror}") from error
    problem = next(chain(_record_problems(meta), _other_problems(meta)), None)
    if problem is not None:
        raise WeightScaleError(f"{folder / META} is damaged: {problem}")
    return meta


def _record_problems(meta: dict[str, Any]) -> Iterator[str]:
    names: Any = meta.get("names")
    if not _are(names, str) or len(set(names)) != len(names):
        yield f"names must be a list of different names, got {_show(names)}"
        return
    numel: Any = meta.get("numel")
    kinds, dtypes = meta.get("kinds"), meta.get("dtypes", [])
    if not _are(numel, int, len(names)) or not all(0 <= n < MOST for n in numel):
        yield f"numel must be a list of {len(names)} whole numbers, 0 or more, got {_show(numel)}"
    if not _are(kinds, str, len(names)):
        yield f"kinds must be a list of {len(names)} texts, got {_show(kinds)}"
    if not _are(dtypes, str, len(names)) and dtypes != []:
        yield f"dtypes must be a list of {len(names)} texts, or empty, got {_show(dtypes)}"


def _other_problems(meta: dict[str, Any]) -> Iterator[str]:
    definition, every, begun = meta.get("definition"), meta.get("every"), meta.get("begun", "2020-01-01")
    if not isinstance(definition, str) or definition not in DEFINITIONS:
        yield f"definition must be one of {', '.join(map(repr, DEFINITIONS))}, got {_show(definition)}"
    if not isinstance(meta.get("l2", False), bool):
        yield f"l2 must be true or false, got {_show(meta['l2'])}"
    elif definition == "l2_ratio" and not meta.get("l2", False):
        yield "definition 'l2_ratio' needs l2, which is false"
    if type(every) is not int or not 1 <= every < MOST:
        yield f"every must be a whole number of steps, 1 or more, got {_show(every)}"
    baseline = meta.get("baseline", "last_row")
    if baseline not in ("last_row", "before_step"):
        yield f"baseline must be 'last_row' or 'before_step', got {_show(baseline)}"
    if not isinstance(meta.get("settings"), dict):
        yield f"settings must be an object, got {_show(meta.get('settings'))}"
    try:
        datetime.fromisoformat(begun)
    except (TypeError, ValueError):
        yield f"begun must be a time, got {_show(begun)}"
    versions = meta.get("versions", {})
    if not isinstance(versions, dict) or not _are(list(versions.values()), str):
        yield f"versions must be an object of texts, got {_show(versions)}"


def _are(values: object, kind: type, length: int | None = None) -> bool:
    """Whether it is a list of values of this type (True is no number here)."""
    return isinstance(values, list) and length in (None, len(values)) and all(type(value) is kind for value in values)


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
