"""Alignment: which rows and which layers of two runs are compared with each other.

Letters: S common rows, L common layers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import check_one_of
from ..record.history import IntArray, RWCHistory
from ..text import count, listing

ALIGN = ("auto", "step", "samples", "epoch")
NEEDS = {"samples": "batch_size", "epoch": "steps_per_epoch"}  # the setting that each of them reads
MOST = 2**31  # a larger one is no batch size


@dataclass(frozen=True, eq=False)
class Alignment:
    """Which rows and layers of A and B belong together, and which have no partner.

    Args:
        by: what is equal in both rows of a pair: `"step"`, `"samples"` or `"epoch"`.
        rows_a: [S] rows of A.
        rows_b: [S] their partners in B.
        layers_a: [L] layers of A, in network order.
        layers_b: [L] their partners in B.
        only_a: the layers of A that B has not.
        only_b: the layers of B that A has not.
        left_a: the rows of A that have no partner.
        left_b: the rows of B that have none.
        resized: the layers of A whose partner has another number of weights. They are not compared.
    """

    by: str
    rows_a: IntArray
    rows_b: IntArray
    layers_a: IntArray
    layers_b: IntArray
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    left_a: int
    left_b: int
    resized: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether every row and every layer of both runs has a partner."""
        return not (self.only_a or self.only_b or self.left_a or self.left_b or self.resized)

    def of_a(self, array: NDArray[Any]) -> NDArray[Any]:
        """[S, L] the common part of an array of A."""
        return array[np.ix_(self.rows_a, self.layers_a)]

    def of_b(self, array: NDArray[Any]) -> NDArray[Any]:
        """[S, L] the common part of an array of B."""
        return array[np.ix_(self.rows_b, self.layers_b)]


def align_runs(a: RWCHistory, b: RWCHistory, layer_map: Mapping[str, str] | None, align: str) -> Alignment:
    """Pair the rows and the layers of two runs.

    Args:
        a: the first run.
        b: the second run.
        layer_map: regular expressions and what replaces them in the names of A, so that they become the names of B.
        align: one of `ALIGN`; see `compare`.

    Raises:
        ValueError: the runs have no common layer or step, their rows span different steps, or an argument is wrong.
    """
    check_one_of("align", align, ALIGN)
    for side, history in (("A", a), ("B", b)):
        if not len(history):
            raise ValueError(f"both runs must have rows, but {side} has none: record at least one optimizer step")
    if a.unit != b.unit:
        raise ValueError(f"both runs must count the same, but the rows of A are {a.unit}s and those of B {b.unit}s")
    if a.horizon != b.horizon:
        raise ValueError(
            f"a row must span as many steps in both runs, but it spans {a.horizon:,} in A and {b.horizon:,} in B: "
            'record both with the same every=, or both with baseline="before_step"'
        )
    layers_a, layers_b, resized = _pair_layers(a, b, layer_map or {})
    paired_a, paired_b = {*layers_a, *resized}, {*layers_b.tolist(), *resized.values()}
    by, rows_a, rows_b = _pair_rows(a, b, align)
    return Alignment(
        by,
        rows_a,
        rows_b,
        layers_a,
        layers_b,
        only_a=tuple(name for i, name in enumerate(a.names) if i not in paired_a),
        only_b=tuple(name for i, name in enumerate(b.names) if i not in paired_b),
        left_a=len(a) - len(rows_a),
        left_b=len(b) - len(rows_b),
        resized=tuple(a.names[i] for i in resized),
    )


def _pair_layers(
    a: RWCHistory, b: RWCHistory, layer_map: Mapping[str, str]
) -> tuple[IntArray, IntArray, dict[int, int]]:
    """The layers of A and B that have one name and one size, and those that have one name only."""
    names = list(_renamed(a.names, layer_map))
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"layer_map must keep the names apart, but several layers of A become {listing(twice)}")
    place = {name: i for i, name in enumerate(b.names)}
    pairs = {i: place[name] for i, name in enumerate(names) if name in place}
    same = {i: j for i, j in pairs.items() if a.numel[i] == b.numel[j]}
    if not same:
        sizes = " of the same size" if pairs else ""
        raise ValueError(
            f"the runs must have a layer{sizes} in common, but A has {listing(names)} and B has {listing(b.names)}: "
            r'give the pattern that makes one of the other, such as layer_map={r"^model\.": ""} or --map "^model\.="'
        )
    resized = {i: j for i, j in pairs.items() if i not in same}
    return np.array([*same], np.int64), np.array([*same.values()], np.int64), resized


def _renamed(names: tuple[str, ...], layer_map: Mapping[str, str]) -> Iterator[str]:
    for name in names:
        for pattern, new in layer_map.items():
            try:
                name = re.sub(pattern, new, name)
            except re.error as error:
                raise ValueError(f"layer_map must replace regular expressions, got {pattern!r}: {error}") from error
        yield name


def _pair_rows(a: RWCHistory, b: RWCHistory, align: str) -> tuple[str, IntArray, IntArray]:
    """What the rows were aligned by, and the rows of A and B that belong together."""
    values = {by: (_setting(a, key), _setting(b, key)) for by, key in NEEDS.items()}
    if align == "auto":
        different = [by for by, (one, other) in values.items() if one and other and one != other]
        align = different[0] if different else "step"
    one, other = values.get(align, (1, 1))
    if not one or not other:
        key = NEEDS[align]
        raise ValueError(
            f"align={align!r} needs settings[{key!r}] in both runs, got {a.settings.get(key)!r} and "
            f'{b.settings.get(key)!r}: give it to the monitor, or use align="step"'
        )
    if align == "epoch":  # step / one of A is step / other of B
        one, other = other, one
    shared = math.gcd(one, other)
    positions = a.steps * (one // shared), b.steps * (other // shared)
    _, rows_a, rows_b = np.intersect1d(*positions, return_indices=True)
    if not len(rows_a):
        raise ValueError(
            f"the runs must have a row at the same {align}, but A has {_extent(a)} and B has {_extent(b)}"
            + ('; align="step" compares rows of the same number' if align != "step" else "")
        )
    return align, rows_a, rows_b


def _setting(history: RWCHistory, key: str) -> int | None:
    value = history.settings.get(key)
    return value if type(value) is int and 0 < value < MOST else None


def _extent(history: RWCHistory) -> str:
    return f"{count(len(history), 'row')} of {history.unit}s {history.steps[0]:,} to {history.steps[-1]:,}"
