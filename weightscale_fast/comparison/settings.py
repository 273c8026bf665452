"""What two runs were given that differs: settings, rates, versions, and how they were recorded.

Letters: S common rows, L common layers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..record.history import FloatArray, RWCHistory
from ..text import count
from .align import Alignment

RECORDED = ("definition", "every", "baseline")
MISSING = "not given"
RATES = {"lr": "learning rate", "weight_decay": "weight decay"}


class GivenDifference(NamedTuple):
    """One thing that the runs were given differently."""

    what: str  # for example "settings: model.width", "versions: torch", "learning rate from step 5 on, 3 layers"
    a: Any
    b: Any
    step: int | None = None  # of a rate: the first step of A at which it differs


def given_differences(
    a: RWCHistory, b: RWCHistory, pairs: Alignment, versions_a: Mapping[str, str], versions_b: Mapping[str, str]
) -> list[GivenDifference]:
    """All that was given differently: first what decides how to read the rest."""
    return [
        *_mapping("recorded with", *({key: getattr(h, key) for key in RECORDED} for h in (a, b))),
        *_dtypes(a, b, pairs),
        *_mapping("optimizer", {"": a.observed.optimizer}, {"": b.observed.optimizer}),
        *_rates(a, b, pairs),
        *_mapping("settings", flat(a.settings), flat(b.settings)),
        *_mapping("versions", versions_a, versions_b),
    ]


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings without levels: the keys of nested ones are joined by dots.

    Example:
        >>> flat({"seed": 1, "model": {"width": 64}})
        {'seed': 1, 'model.width': 64}
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return found


def plain(value: object) -> str:
    """A value as text."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _mapping(title: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[GivenDifference]:
    for key in [*a, *(key for key in b if key not in a)]:
        one, other = a.get(key, MISSING), b.get(key, MISSING)
        if one != other and plain(one) != plain(other):  # NaN has the text of NaN
            yield GivenDifference(f"{title}: {key}" if key else title, one, other)


def _dtypes(a: RWCHistory, b: RWCHistory, pairs: Alignment) -> Iterator[GivenDifference]:
    if not a.dtypes or not b.dtypes:
        return
    both = [(a.dtypes[i], b.dtypes[j]) for i, j in zip(pairs.layers_a, pairs.layers_b, strict=True)]
    for one, other in dict.fromkeys(pair for pair in both if pair[0] != pair[1]):
        yield GivenDifference(f"dtype of {count(both.count((one, other)), 'layer')}", one, other)


def _rates(a: RWCHistory, b: RWCHistory, pairs: Alignment) -> Iterator[GivenDifference]:
    for name, title in RATES.items():
        one, other = pairs.of_a(getattr(a, name)), pairs.of_b(getattr(b, name))
        known = ~np.isnan(one) & ~np.isnan(other)
        differs = known & (one != other)
        if differs.any():
            row = int(differs.any(axis=1).argmax())
            layer = int(differs[row].argmax())
            step = int(a.steps[pairs.rows_a[row]])
            what = f"{title} from step {step:,} on, {count(int(differs[row].sum()), 'layer')}"
            yield GivenDifference(what, float(one[row, layer]), float(other[row, layer]), step)
        elif not known.any() and np.isnan(one).all() != np.isnan(other).all():
            yield GivenDifference(title, _whether_known(one), _whether_known(other))


def _whether_known(rates: FloatArray) -> str:
    return MISSING if np.isnan(rates).all() else "known"
